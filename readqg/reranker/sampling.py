"""From generated queries to batches of training triples (document, positive query, negative query).

A document is usable when it has at least one query at r = 1 and, where Eq. 6 is used, one at r = 0. Its k-th usable positive
(in the order of `sample`) goes with its k-th usable negative; in epoch e a document is seen once, with its (e mod pairs)-th
pair. Which documents a step holds is a function of (seed, step) and the set of documents alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from readqg.corpus import subset
from readqg.errors import InputError
from readqg.shards import InputFolder, stable_hash

QUERY_COLUMNS = ("doc_id", "relevance", "sample", "query", "error")
LEFT_OUT = (
    "rows_with_error", "rows_with_empty_query", "documents_without_positive", "documents_without_negative", "identical_pairs",
)
"""The counts of `read_examples` that say something of the input is not used."""
_FEWEST_TRAINED = 2  # Eq. 5 needs another document in the batch


@dataclass(frozen=True)
class Triple:
    """A document with its queries. `negative` is None where Eq. 6 has none: it is switched off, or the document's two
    queries are the same."""

    doc_id: str
    positive: str
    negative: str | None


class Examples:
    """Documents with their pairs of queries, sorted by doc_id. Columns of `frame`: doc_id, positives, negatives (lists of one
    length; a null negative: none)."""

    def __init__(self, frame: pl.DataFrame):
        self.frame = frame

    def __len__(self) -> int:
        return self.frame.height

    @property
    def doc_ids(self) -> list[str]:
        return self.frame["doc_id"].to_list()

    def triple(self, row: int, epoch: int) -> Triple:
        doc_id, positives, negatives = self.frame.row(row)
        pair = epoch % len(positives)
        return Triple(doc_id, positives[pair], negatives[pair])

    def split(self, share: float, most: int) -> tuple[Examples, Examples]:
        """(trained, held out): `share` of the documents, at least one and at most `most`, is drawn by a stable hash of the
        doc_id; the seed has no part in it, so that runs with several seeds are judged on the same documents.

        Raises `InputError` where that leaves fewer than two documents to train on."""
        if len(self) <= _FEWEST_TRAINED:
            raise InputError(f"{len(self)} documents have usable queries; training needs {_FEWEST_TRAINED + 1} or more "
                             "(two in a batch and one held out). Generate queries for more documents.")
        number = min(max(1, round(share * len(self))), most, len(self) - _FEWEST_TRAINED)
        held_out = pl.col("doc_id").is_in(subset(self.doc_ids, number))
        return Examples(self.frame.filter(~held_out)), Examples(self.frame.filter(held_out))


def read_examples(folder: InputFolder, with_negatives: bool) -> tuple[Examples, dict[str, int]]:
    """The usable documents of a generated-queries folder, and counts of what was left out and why.

    Left out: rows with an error or an empty query; rows of a relevance other than 1 and 0 (0 too, unless `with_negatives`);
    then documents without a positive, or, `with_negatives`, without a negative. A pair of the same words (but for case and
    white space) keeps its positive and loses its negative."""
    rows = pl.DataFrame(folder.read(columns=list(QUERY_COLUMNS)))
    sound = pl.col("error").is_null()
    filled = pl.col("query").fill_null("").str.strip_chars() != ""
    usable = rows.filter(sound & filled)
    positives = _side(usable, 1.0, "positive")
    negatives = _side(usable, 0.0, "negative")
    paired = positives.join(negatives, on=["doc_id", "k"])
    pairs = paired if with_negatives else positives.with_columns(negative=pl.lit(None, pl.String))
    same = _words("positive") == _words("negative")
    identical = pairs.select(same.sum()).item()
    pairs = pairs.with_columns(negative=pl.when(same).then(None).otherwise(pl.col("negative"))).sort("doc_id", "k")
    frame = pairs.group_by("doc_id", maintain_order=True).agg(positives="positive", negatives="negative")
    written = rows["doc_id"].n_unique()
    counts = {
        "rows": rows.height,
        "rows_with_error": rows.select((~sound).sum()).item(),
        "rows_with_empty_query": rows.select((sound & ~filled).sum()).item(),
        "rows_of_other_relevance": rows.select((~pl.col("relevance").is_in([0.0, 1.0])).sum()).item(),
        "documents": written,
        "documents_without_positive": written - positives["doc_id"].n_unique(),
        "documents_without_negative": positives["doc_id"].n_unique() - frame.height,
        "documents_usable": frame.height,
        "identical_pairs": identical,
        "repeated_positives": pairs.height - pairs.select(_words("positive").n_unique()).item(),
    }
    return Examples(frame), counts


def _side(usable: pl.DataFrame, relevance: float, name: str) -> pl.DataFrame:
    """The queries of one relevance, numbered within their document: doc_id, k, `name`."""
    side = usable.filter(pl.col("relevance") == relevance).sort("doc_id", "sample")
    return side.select("doc_id", pl.int_range(pl.len()).over("doc_id").alias("k"), pl.col("query").alias(name))


def _words(column: str) -> pl.Expr:
    return pl.col(column).str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()


class Batches:
    """Which documents a batch holds.

    Every epoch is a permutation of all documents, keyed by (seed, epoch). Its last batch, if short, is filled up with the
    first documents of the same permutation: every document is seen in every epoch, all batches are of one size, and no
    document is twice in a batch. With fewer documents than `batch`, a batch is all of them. `fixed`: every epoch has the batches
    of the first, in another order."""

    def __init__(self, examples: Examples, batch: int, seed: int, fixed: bool = False):
        self.examples, self.seed, self.fixed = examples, seed, fixed
        self.size = min(batch, len(examples))
        self.per_epoch = -(-len(examples) // self.size)
        self._orders: dict[tuple[str, int], np.ndarray] = {}

    def triples(self, number: int) -> list[Triple]:
        """Batch `number` (0-based)."""
        epoch, place = number // self.per_epoch, self.place(number)
        order = self._permutation("", 0 if self.fixed else epoch, len(self.examples))
        chosen = order[place * self.size:(place + 1) * self.size]
        chosen = np.concatenate([chosen, order[:self.size - len(chosen)]])
        return [self.examples.triple(int(row), epoch) for row in chosen]

    def place(self, number: int) -> int:
        """Where batch `number` lies in its epoch's permutation; fixed batches keep their place whatever the epoch."""
        epoch, place = divmod(number, self.per_epoch)
        return int(self._permutation("batches ", epoch, self.per_epoch)[place]) if self.fixed and epoch else place

    def _permutation(self, what: str, epoch: int, size: int) -> np.ndarray:
        if (what, epoch) not in self._orders:
            kept = {key: order for key, order in self._orders.items() if key[0] != what}
            key = stable_hash(f"{what}{epoch}", self.seed)
            self._orders = {**kept, (what, epoch): np.random.Generator(np.random.Philox(key=key)).permutation(size).astype(np.uint32)}
        return self._orders[what, epoch]
