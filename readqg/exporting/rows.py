"""Usable queries with their documents, some at a time, and documents drawn at random beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from readqg.corpus import Documents, document_text
from readqg.errors import InputError
from readqg.random_rows import in_order
from readqg.reranker.sampling import QUERY_COLUMNS, Filters, read_examples
from readqg.shards import InputFolder, stable_hash

_AT_A_TIME = 1024
_POOL = 20_000


@dataclass(frozen=True)
class Document:
    """`whole` is title + " " + text."""

    doc_id: str
    title: str
    text: str

    @property
    def whole(self) -> str:
        return document_text(self.title, self.text)


@dataclass(frozen=True)
class Written:
    """A query with the document that it was written for."""

    query_id: str
    """Made of document, relevance and sample, so it is the same in every format."""
    query: str
    relevance: float
    document: Document
    found: tuple[str, ...] = ()
    """What the query finds beside its document, best first, where that is read."""


def written(queries: InputFolder, documents: Documents, counts: Counter[str], with_found: bool = False) -> Iterator[Written]:
    """All rows but those with an error or an empty query, which are counted. Raises `InputError` for a document that is not there."""
    for _, table in in_order(queries, [*QUERY_COLUMNS, *(["found"] if with_found else [])]):
        filled = usable(table, counts)
        for start in range(0, filled.num_rows, _AT_A_TIME):
            some = filled.slice(start, _AT_A_TIME)
            of_them = documents.table(some["doc_id"].to_pylist()).to_pylist()
            for row, document in zip(some.to_pylist(), of_them, strict=True):
                query_id = f"{row['doc_id']}-r{row['relevance']:.4g}-{row['sample']}"
                relevance = float(f"{row['relevance']:.6g}")
                yield Written(query_id, row["query"], relevance, Document(**document), tuple(row.get("found") or ()))


def usable(table: pa.Table, counts: Counter[str]) -> pa.Table:
    """The rows with a query and without an error; the others are counted."""
    sound = table.filter(pc.is_null(table["error"]))
    filled = sound.filter(pc.fill_null(pc.not_equal(pc.utf8_trim_whitespace(sound["query"]), ""), False))
    counts["left_out_error"] += table.num_rows - sound.num_rows
    counts["left_out_empty"] += sound.num_rows - filled.num_rows
    return filled


def triplets(
    queries: InputFolder, documents: Documents, counts: Counter[str], negative_relevance: float = 0.0,
) -> Iterator[tuple[str, Document, str]]:
    """(query at r = 1, its document, query at the negatives' r), paired as `train-reranker` pairs them. Documents without one of
    the two, and pairs of the same words, are counted."""
    examples, found = read_examples(queries, "generated", Filters(negative_relevance=negative_relevance))
    for name in ("rows_with_error", "rows_with_empty_query", "documents_without_positive", "documents_without_negative", "identical_pairs"):
        counts[f"left_out_{name}"] += found[name]
    order = np.argsort(examples.positives, kind="stable")
    order = order[examples.negatives[order] >= 0]
    for start in range(0, len(order), _AT_A_TIME):
        some = order[start:start + _AT_A_TIME]
        positives = examples.rows.read(examples.positives[some].tolist())
        negatives = examples.rows.read(examples.negatives[some].tolist())
        of_them = documents.table([row["doc_id"] for row in positives]).to_pylist()
        for positive, negative, document in zip(positives, negatives, of_them, strict=True):
            yield positive["query"], Document(**document), negative["query"]


def all_documents(documents: Documents) -> Iterator[Document]:
    """In the order of the corpus."""
    for start in range(0, documents.rows, _AT_A_TIME):
        for row in documents.read(start, start + _AT_A_TIME).to_pylist():
            yield Document(**row)


class RandomDocuments:
    """Documents drawn beside a query's own: from the whole corpus, or, where it has more, from 20,000 of it, which are held in memory.
    What is drawn depends on corpus, query id and seed alone. Raises `InputError` where the corpus has no `number` others."""

    def __init__(self, documents: Documents, number: int, seed: int) -> None:
        self.number, self.seed = number, seed
        if number >= documents.rows:
            raise InputError(f"{documents.path} has {documents.rows} documents; {number} negatives beside a query's own need {number + 1}. "
                             "Lower --negatives.")
        rows = np.arange(documents.rows)
        if documents.rows > _POOL:
            pool = np.random.Generator(np.random.Philox(key=stable_hash("negatives", seed)))
            rows = np.sort(pool.choice(documents.rows, _POOL, replace=False))
        self._pool = documents.take(rows.tolist())

    def draw(self, of: Written) -> list[Document]:
        """None of them is the query's own document."""
        random = np.random.Generator(np.random.Philox(key=stable_hash(of.query_id, self.seed)))
        drawn = random.choice(self._pool.num_rows, self.number + 1, replace=False)
        others = [Document(**row) for row in self._pool.take(drawn).to_pylist()]
        return [document for document in others if document.doc_id != of.document.doc_id][: self.number]
