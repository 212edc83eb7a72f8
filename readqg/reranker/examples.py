"""A re-ranker's training examples: documents with their pairs of queries, as numbers of rows."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from readqg.config import FEWEST_DOCUMENTS
from readqg.errors import InputError
from readqg.random_rows import RandomRows, in_order
from readqg.shards import stable_hash

_LEFT_OUT = {
    "rows_with_error": "", "rows_with_empty_query": "", "positives_not_found": "round_trip", "positives_of_low_ratio": "ratio_min",
    "positives_of_low_score": "score_best",
    "negatives_found": "negative_round_trip", "negatives_not_verified": "unverified", "documents_without_positive": "",
    "documents_without_negative": "negative_relevance", "identical_pairs": "",
}
"""The counts of `sampling.read_examples` that say something of the input is not used, and the setting behind each."""


@dataclass(frozen=True)
class Triple:
    """A document with its queries. `negative` is None where Eq. 6 has none: it is switched off, or the document's two queries are the
    same. `found`: what its positive, or its negative, finds beside the document, best first, where that is read. Where training is
    graded, `relevance` is the r that the positive was asked at, and `below` the rows of the document's queries at r under 1."""

    doc_id: str
    positive: str
    negative: str | None
    found: tuple[str, ...] = ()
    relevance: float = 1.0
    below: tuple[int, ...] = ()


@dataclass(frozen=True)
class Examples:
    """Documents with their pairs of queries, in an order that depends on the set of them alone.

    In memory are numbers of rows of the queries folder, 8 bytes a pair; texts are read as they are asked for. Pairs `first[i]` to
    `first[i + 1]` are those of document i; `negatives` is -1 where a pair has none. `below`, where training is graded: the rows at r
    under 1, and where those of document i begin; the last of these is where they end."""

    rows: RandomRows
    first: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray
    below: tuple[np.ndarray, np.ndarray] | None = None
    found_by: Literal["positive", "negative"] | None = None

    def __len__(self) -> int:
        return len(self.first) - 1

    def doc_ids(self) -> Iterator[tuple[int, str]]:
        """(document, doc_id) of all, in the order in which the folder has them."""
        for document, row in self._first_positives("doc_id"):
            yield document, row["doc_id"]

    def _first_positives(self, *columns: str) -> Iterator[tuple[int, dict[str, Any]]]:
        rows = self.positives[self.first[:-1]]
        order = np.argsort(rows)
        ordered = rows[order]
        for first, table in in_order(self.rows.folder, list(columns)):
            low, high = np.searchsorted(ordered, [first, first + table.num_rows])
            found = table.take(pa.array(ordered[low:high].astype(np.int64) - first)).to_pylist()
            yield from zip(order[low:high].tolist(), found, strict=True)

    def triple(self, document: int, epoch: int) -> Triple:
        """Raises `InputError` where the rows of the two queries are not of one document."""
        pairs = self.first[document + 1] - self.first[document]
        pair = self.first[document] + epoch % pairs
        positive = self.rows.read([int(self.positives[pair])])[0]
        row = int(self.negatives[pair])
        negative = self.of(positive["doc_id"], row) if row >= 0 else {}
        found = (negative if self.found_by == "negative" else positive).get("found") or ()
        triple = Triple(positive["doc_id"], positive["query"], negative.get("query"), tuple(found))
        if self.below is None:
            return triple
        rows, first = self.below
        return replace(triple, relevance=positive["relevance"], below=tuple(rows[first[document]:first[document + 1]].tolist()))

    def of(self, doc_id: str, row: int) -> dict[str, Any]:
        """A row that is one of a document's. Raises `InputError` where it is not."""
        found = self.rows.read([row])[0]
        if found["doc_id"] != doc_id:
            raise InputError(f"{self.rows.folder.path}: row {row} is of {found['doc_id']!r}, not of {doc_id!r}: the folder has changed "
                             "while it was read. Give the command again.")
        return found

    def own_queries(self) -> dict[str, str]:
        """doc_id -> the first positive, of all."""
        return {t.doc_id: t.positive for t in (self.triple(document, epoch=0) for document in range(len(self)))}

    def only(self, documents: np.ndarray) -> Examples:
        """Some of the documents, by their numbers, in the order given."""
        first, pairs = _segments(self.first, documents)
        below = None
        if self.below:
            first_below, rows = _segments(self.below[1], documents)
            below = self.below[0][rows], first_below
        return Examples(self.rows, first, self.positives[pairs], self.negatives[pairs], below, self.found_by)

    def split(self, share: float, most: int, counts: Mapping[str, int] | None = None) -> tuple[Examples, Examples]:
        """(trained, held out): `share` of the documents, at least one and at most `most`, is drawn by a stable hash of the
        doc_id; the seed has no part in it, so that runs with several seeds are judged on the same documents. A document whose first
        positive was asked at another relevance than 1 is never held out. `counts`: what `sampling.read_examples` left out, for the error.

        Raises `InputError` where that leaves fewer than two documents to train on, or none to hold out."""
        number = min(max(1, round(share * len(self))), most, len(self) - FEWEST_DOCUMENTS + 1)
        hashed = ((stable_hash(row["doc_id"]), row["doc_id"], i)
                  for i, row in self._first_positives("doc_id", "relevance") if row["relevance"] == 1)
        first = heapq.nsmallest(max(1, number), hashed)
        if len(self) < FEWEST_DOCUMENTS or not first:
            few, said = "" if first else ", none of them at relevance 1", left_out(counts or {})
            advice = f"Left out: {said}. Loosen the settings named there, or generate" if said else "Generate"
            raise InputError(f"{len(self)} documents have usable queries{few}; training needs {FEWEST_DOCUMENTS} or more (two in a "
                             f"batch and one, at relevance 1, held out). {advice} queries for more documents.")
        held_out = np.sort([i for _, _, i in first])
        return self.only(np.setdiff1d(np.arange(len(self)), held_out)), self.only(held_out)


def _segments(first: np.ndarray, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of segments that begin at `first`, those of some numbers, one after another: (where each begins, and the last ends; places)."""
    sizes = first[numbers + 1] - first[numbers]
    begins = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    return begins, np.repeat(first[numbers] - begins[:-1], sizes) + np.arange(begins[-1])


def left_out(counts: Mapping[str, int]) -> str:
    """What of the input is not used, and by which setting; "" where all is."""
    return ", ".join(f"{name.replace('_', ' ')} {counts[name]}" + (f" ({setting})" if setting else "")
                     for name, setting in _LEFT_OUT.items() if counts.get(name))
