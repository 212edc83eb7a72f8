"""From generated queries to training triples (document, positive query, negative query).

A document is usable when it has at least one query at r = 1 and, where Eq. 6 is used, one at r = 0, or at the `negative_relevance` that
the settings name. Its k-th usable positive (in the order of `sample`) goes with its k-th usable negative; in epoch e a document is seen
once, with its (e mod pairs)-th pair. Where training is graded, its other queries at r under 1 go with it.

Two placebos for Eq. 6's negative keep all else as it is: another document's positive, and the document's own last positive, which is then
no positive itself.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import chain, pairwise
from typing import Literal

import numpy as np
import pyarrow as pa

from readqg.config import FEWEST_DOCUMENTS, RerankerSettings
from readqg.errors import InputError
from readqg.frames import pl
from readqg.random_rows import RandomRows, in_order
from readqg.reranker.examples import Examples
from readqg.shards import InputFolder, stable_hash

QUERY_COLUMNS = ("doc_id", "relevance", "sample", "query", "error")
ROUND_TRIP_COLUMNS = ("rank", "found")
RATIO_COLUMNS = ("ratio",)
SCORE_COLUMNS = ("start_score",)
_COUNTED = {
    "positives_not_found": "not_found", "positives_of_low_ratio": "low_ratio", "positives_of_low_score": "low_score",
    "negatives_found": "found",
    "negatives_not_verified": "not_verified", "negatives_used_as_positives": "turned",
}
_ROWS_PAIRED_AT_A_TIME = 131_072
SAME_RELEVANCE = 1e-6  # relevances are float32
Negative = Literal["generated", "other_document", "last_positive"]
OF_ITS_OWN: tuple[Negative, ...] = ("generated", "last_positive")
"""Negatives that a document has or lacks itself."""


@dataclass(frozen=True)
class Filters:
    """Which queries may be what, as `RerankerSettings` has it; by default nothing is left out."""

    round_trip: int | None = None
    negative_round_trip: int | None = None
    ratio_min: float | None = None
    score_best: float | None = None
    unverified: Literal["drop", "positive"] | None = None
    negative_ratio_max: float = 0.0
    negative_relevance: float = 0.0

    @classmethod
    def of(cls, settings: RerankerSettings) -> Filters:
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})

    @property
    def columns(self) -> tuple[str, ...]:
        """What they read."""
        rank = ("rank",) if self.round_trip or self.negative_round_trip else ()
        ratio = RATIO_COLUMNS if self.ratio_min is not None or self.unverified else ()
        return rank + ratio + (SCORE_COLUMNS if self.score_best else ())

    def least_score(self, folder: InputFolder) -> float:
        """The lowest of the scores that `score_best` leaves; of equal ones all stay."""
        found = []
        for _, table in in_order(folder, ["relevance", "error", *SCORE_COLUMNS]) if self.score_best else ():
            rows = pl.DataFrame(pl.from_arrow(table)).filter(pl.col("relevance") == 1, pl.col("error").is_null())
            found.append(rows[SCORE_COLUMNS[0]].drop_nulls().to_numpy())
        scores = np.concatenate(found) if found else np.empty(0)
        if not len(scores):
            return -np.inf
        kept = max(1, math.ceil((self.score_best or 1.0) * len(scores)))
        return float(np.partition(scores, len(scores) - kept)[len(scores) - kept])

    def sort_out(self, rows: pl.DataFrame, least_score: float = -np.inf) -> pl.DataFrame:
        """Adds `positive` and `negative`, what a row may be for its relevance, and, of rows that are left out by a filter, why:
        `not_found`, `low_ratio`, `low_score`, `found`, `not_verified`; `turned`: a query at the negatives' r that is used as a positive."""
        found = (pl.col("rank") <= (self.negative_round_trip or 0)).fill_null(False)
        verified = ~found & (pl.col("ratio") <= self.negative_ratio_max).fill_null(False) if self.unverified else pl.lit(True)
        low = (pl.col("relevance") - self.negative_relevance).abs() < SAME_RELEVANCE
        turned = low & ~verified if self.unverified == "positive" else pl.lit(False)
        rows = rows.with_columns(
            turned=turned, found=low & found & (self.unverified is None),
            not_verified=low & ~verified if self.unverified == "drop" else pl.lit(False),
        ).with_columns(positive=(pl.col("relevance") == 1) | pl.col("turned"), negative=low & ~pl.col("turned"))
        back = (pl.col("rank") <= (self.round_trip or 0)).fill_null(False) | (self.round_trip is None)
        likely = (pl.col("ratio") >= (self.ratio_min or 0.0)).fill_null(False) | (self.ratio_min is None)
        high = (pl.col("start_score") >= least_score).fill_null(False) | (self.score_best is None)
        return rows.with_columns(
            not_found=pl.col("positive") & ~back, low_ratio=pl.col("positive") & ~likely, low_score=pl.col("positive") & ~high)


def read_split(
    folder: InputFolder, negative: Negative | None, filters: Filters, share: float, most: int,
    found_by: Literal["positive", "negative"] | None = None, graded: bool = False,
) -> tuple[Examples, Examples, dict[str, int]]:
    """(trained, held out, counts) of `read_examples`, split as `Examples.split` has it. What the start scores highest is not held out for
    it: `score_best` is a filter of what is trained on alone, for the held-out queries are to tell the start from what it becomes."""
    examples, counts = read_examples(folder, negative, filters, found_by, graded)
    if filters.score_best is None:
        return (*examples.split(share, most, counts), counts)
    whole, _ = read_examples(folder, negative, replace(filters, score_best=None), found_by, graded)
    _, held_out = whole.split(share, most, counts)
    ids = {doc_id for _, doc_id in held_out.doc_ids()}
    kept = np.sort([number for number, doc_id in examples.doc_ids() if doc_id not in ids]).astype(np.int64)
    if len(kept) < FEWEST_DOCUMENTS - 1:
        raise InputError(f"score_best {filters.score_best} leaves {len(kept)} documents to train on beside those held out; training needs "
                         f"{FEWEST_DOCUMENTS - 1}. Raise it, or generate queries for more documents.")
    return examples.only(kept), held_out, counts


def read_examples(
    folder: InputFolder, negative: Negative | None, filters: Filters | None = None,
    found_by: Literal["positive", "negative"] | None = None, graded: bool = False,
) -> tuple[Examples, dict[str, int]]:
    """The usable documents of a generated-queries folder, and counts of what was left out and why.

    Left out: rows with an error or an empty query; rows of a relevance other than 1 and the negatives' (that too, unless `negative` is
    "generated"), but where training is `graded`; what `filters` leave out; then documents without a positive, or without a negative of
    their own where one is asked for ("other_document" is chosen batch by batch, in `Batches`), unless negatives have to be verified:
    then a document without one keeps its positive. Where `filters` leave out negatives that are found, documents and positives are those
    of "generated" whatever `negative` is, so that controls without it, or with a placebo, train on the same ones; but for "last_positive",
    which takes a document's last positive away from them: such a row needs one sample more than the row that it is set against. A pair
    of the same words (but for case and white space) keeps its positive and loses its negative. The rows are looked at some at a time;
    what is kept of each are hashes."""
    filters = filters or Filters()
    usable, documents, counts = _usable(folder, filters, graded)
    paired = [_paired(some, negative, filters) for some in _document_by_document(usable)]
    pairs, with_positive = pl.concat([found for found, _ in paired]), sum(number for _, number in paired)
    sizes = pairs.group_by("document", maintain_order=True).len()["len"].to_numpy()
    rows_of_negatives = pl.when("same").then(None).otherwise(pl.col("negative")).cast(pl.Int64).fill_null(-1)
    texts = ("doc_id", "query", *(["found"] if found_by else []), *(["relevance"] if graded else []))
    examples = Examples(
        RandomRows(folder, texts), np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]), pairs["positive"].to_numpy(),
        pairs.select(rows_of_negatives).to_series().to_numpy(), _below(usable, pairs) if graded else None, found_by)
    with_negative = pairs.filter(pl.col("negative").is_not_null()) if negative in OF_ITS_OWN else pairs
    return examples, {
        **counts,
        "documents": documents,
        "documents_without_positive": documents - with_positive,
        "documents_without_negative": with_positive - with_negative["document"].n_unique(),
        "documents_usable": len(examples),
        "identical_pairs": int(pairs["same"].sum()),
        "repeated_positives": pairs.height - pairs["positive_words"].n_unique(),
    }


def _document_by_document(usable: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """The same rows in a few frames, each with all rows of its documents, in the order of their hashes."""
    number = 1 + usable.height // _ROWS_PAIRED_AT_A_TIME
    edges = [i * 2**64 // number for i in range(number + 1)]
    for low, high in pairwise(edges):
        yield usable.filter(pl.col("document").is_between(pl.lit(low, pl.UInt64), pl.lit(high - 1, pl.UInt64)))


def _paired(usable: pl.DataFrame, negative: Negative | None, filters: Filters) -> tuple[pl.DataFrame, int]:
    """(document, positive and negative (rows), positive_words, same; how many documents have a positive), by document and k."""
    positives, negatives = _side(usable, "positive"), _side(usable, "negative")
    of_its_own = negative in OF_ITS_OWN
    needed = of_its_own and (filters.unverified is None or negative == "last_positive")
    kept = positives
    if filters.negative_round_trip and filters.unverified is None:
        kept = positives.join(negatives, on=["document", "k"], how="semi")
    if negative == "last_positive":
        negatives = _last_positive(positives)
    paired = kept.join(negatives, on=["document", "k"], how="inner" if needed else "left")
    pairs = paired.with_columns(same=pl.col("positive_words") == pl.col("negative_words")).sort("document", "k")
    if not of_its_own:
        pairs = pairs.with_columns(negative=pl.lit(None, pl.UInt32), same=pl.lit(False))
    return pairs.select("document", "positive", "negative", "positive_words", "same"), positives["document"].n_unique()


def _usable(folder: InputFolder, filters: Filters, graded: bool) -> tuple[pl.DataFrame, int, dict[str, int]]:
    """(rows that may be a positive or a negative, or, where training is `graded`, at any r; how many documents have rows; counts of
    rows). The folder is read some rows at a time."""
    columns = [*QUERY_COLUMNS, *filters.columns]
    counts: Counter[str] = Counter()
    documents, usable = [], []
    least_score = filters.least_score(folder)
    for first, table in chain([(0, folder.read(0, 0))], in_order(folder, columns)):
        rows = filters.sort_out(_hashed(first, table), least_score)
        filled = rows.filter("sound", "filled")
        counts.update({
            "rows": rows.height,
            "rows_with_error": rows.filter(~pl.col("sound")).height,
            "rows_with_empty_query": rows.filter("sound", ~pl.col("filled")).height,
            **{said: filled.filter(why).height for said, why in _COUNTED.items()},
            "rows_of_other_relevance": rows.filter(~pl.col("positive"), ~pl.col("negative")).height,
        })
        documents.append(rows["document"].unique())
        usable.append(filled.filter(~pl.any_horizontal("not_found", "low_ratio", "low_score", "found", "not_verified")).select(
            "document", "row", "words", "turned", "sample", "positive", "negative",
            below=(pl.col("relevance") < 1) & ~pl.col("turned") & graded,
        ).filter(pl.any_horizontal("positive", "negative", "below")))
    return pl.concat(usable), pl.concat(documents).n_unique(), dict(counts)


def _below(usable: pl.DataFrame, pairs: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """As `Examples.below` has it. `pairs` are in the order of their documents' hashes."""
    of = pairs.select(pl.col("document").unique(maintain_order=True))
    below = usable.filter("below").join(of, on="document", how="semi").sort("document", "row")
    first = np.searchsorted(below["document"].to_numpy(), of["document"].to_numpy())
    return below["row"].to_numpy(), np.append(first, below.height)


def _hashed(first: int, table: pa.Table) -> pl.DataFrame:
    """Of some rows of a queries folder: row (its number), document and words (hashes), relevance, sample, sound, filled, rank, ratio,
    start_score."""
    ids = table["doc_id"].combine_chunks().dictionary_encode()
    # The order of training hangs on these; polars' own hash, which does for words, changes with its version.
    documents = np.array([stable_hash(doc_id) for doc_id in ids.dictionary.to_pylist()], dtype=np.uint64)[ids.indices]
    words = pl.col("query").fill_null("").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars()
    rank, ratio, score = (pl.col(name) if name in table.column_names else pl.lit(None, dtype).alias(name)
                          for name, dtype in (("rank", pl.Int32), ("ratio", pl.Float32), ("start_score", pl.Float32)))
    return pl.DataFrame(pl.from_arrow(table)).select(
        rank, ratio.fill_nan(None), score.fill_nan(None), (pl.int_range(pl.len()) + first).cast(pl.UInt32).alias("row"),
        pl.Series("document", documents, pl.UInt64), words.hash().alias("words"), "relevance", "sample",
        pl.col("error").is_null().alias("sound"), (words != "").alias("filled"))


def _side(usable: pl.DataFrame, name: str) -> pl.DataFrame:
    """The queries of one side, numbered within their document: document, k, `name` (row), `name`_words."""
    side = usable.filter(name).sort("document", "turned", "sample").select("document", pl.col("row").alias(name), pl.col("words").alias(
        f"{name}_words"))
    return side.with_columns(pl.int_range(pl.len(), dtype=pl.UInt32).over("document").alias("k"))


def _last_positive(positives: pl.DataFrame) -> pl.DataFrame:
    """As `_side` gives it: to each query of a document but the last, the last; documents with one have none."""
    number = pl.len().over("document")
    last = positives.filter(pl.col("k") == number - 1).select(
        "document", pl.col("positive").alias("negative"), pl.col("positive_words").alias("negative_words"))
    return positives.filter(pl.col("k") < number - 1).select("document", "k").join(last, on="document", how="inner")
