"""The formats, a function each: what lies in the folder that it writes, and what became of queries at r = 0.

A query at r = 0 is a hard negative *query* of its document: the document does not answer it. It says nothing of what other
documents do, so it is never a query with documents of its own to find. Where a format wants negative *documents*, they are others of the
corpus: drawn at random, which are easy, or those that `readqg round-trip` found for the query, which are hard and may now and
then answer it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from readqg.config import ExportConfig
from readqg.corpus import Documents
from readqg.exporting.rows import Document, RandomDocuments, Written, all_documents, triplets, written
from readqg.shards import InputFolder


@dataclass
class Export:
    """What is to be exported, and the counts of it."""

    config: ExportConfig
    queries: InputFolder
    documents: Documents
    counts: Counter[str]

    def positives(self) -> Iterator[Written]:
        """Queries at r = 1; the others are counted."""
        for row in written(self.queries, self.documents, self.counts, self.config.negatives_from == "found"):
            if row.relevance == 1:
                yield row
            else:
                self.counts["left_out_relevance"] += 1

    def with_negatives(self) -> Iterator[tuple[Written, list[Document]]]:
        """Queries at r = 1, each with other documents, drawn at random, or those that it finds. One with none is counted as left out:
        the tools that ask for negatives divide by their number."""
        config = self.config
        draw = RandomDocuments(self.documents, config.negatives, config.seed).draw if config.negatives_from == "random" else self._found
        for row in self.positives():
            others = draw(row)
            if others:
                yield row, others
            self.counts["left_out_no_negative"] += not others

    def _found(self, row: Written) -> list[Document]:
        return [Document(**found) for found in self.documents.table(row.found[: self.config.negatives]).to_pylist()]

    def write(self, path: Path, rows: Iterable[dict[str, Any]]) -> None:
        """JSON lines, counted as `rows`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                self.counts["rows"] += 1


def to_triplets(export: Export, folder: Path) -> None:
    """`train.jsonl`: query, document, negative_query, for CrossEncoderTrainer with `readqg.RelevanceAwareLoss`. The negative is the
    document's query at r = 0, not a document: a loss that wants documents in that place (hard negatives) is not meant."""
    found = triplets(export.queries, export.documents, export.counts, export.config.negative_relevance)
    export.write(folder / "train.jsonl", ({"query": q, "document": d.whole, "negative_query": n} for q, d, n in found))


def to_pairs(export: Export, folder: Path) -> None:
    """`train.jsonl`: query, document, label, for CrossEncoderTrainer with BinaryCrossEntropyLoss and its like. The label is the relevance
    r, so a query at r = 0 is a pair with label 0."""
    found = written(export.queries, export.documents, export.counts)
    export.write(folder / "train.jsonl", ({"query": w.query, "document": w.document.whole, "label": w.relevance} for w in found))


def to_list(export: Export, folder: Path) -> None:
    """`train.jsonl`: query, documents, labels (1 and zeros), for CrossEncoderTrainer with LambdaLoss, ListNetLoss and their like. Beside a
    query's own document are `negatives` others; queries at r = 0, and those with no other document, are left out."""
    found = ((w, [w.document, *others]) for w, others in export.with_negatives())
    export.write(folder / "train.jsonl", (
        {"query": w.query, "documents": [d.whole for d in listed], "labels": [1.0] + [0.0] * (len(listed) - 1)} for w, listed in found))


def to_flagembedding(export: Export, folder: Path) -> None:
    """`train.jsonl`: query, pos, neg: lists of texts. `neg` are other documents; FlagEmbedding advises random ones where there are no
    better, and has a script that mines harder ones. Queries at r = 0, and those with no other document, are left out."""
    export.write(folder / "train.jsonl", (
        {"query": w.query, "pos": [w.document.whole], "neg": [d.whole for d in others]} for w, others in export.with_negatives()))


def to_tevatron(export: Export, folder: Path) -> None:
    """`train.jsonl`: query_id, query, positive_passages, negative_passages: lists of docid, title, text, the form that Tevatron reads
    without a corpus of its own beside it. The negatives are other documents. Queries at r = 0, and those with no other document, are
    left out."""
    export.write(folder / "train.jsonl", (
        {"query_id": w.query_id, "query": w.query, "positive_passages": [_passage(w.document)],
         "negative_passages": [_passage(d) for d in others]} for w, others in export.with_negatives()))


def to_beir(export: Export, folder: Path) -> None:
    """`corpus.jsonl`, `queries.jsonl`, `qrels/train.tsv`. Queries at r = 1 have grade 1 for their document, those at r = 0 grade 0; others
    are left out."""
    with (folder / "corpus.jsonl").open("w", encoding="utf-8") as file:
        for d in all_documents(export.documents):
            file.write(json.dumps({"_id": d.doc_id, "title": d.title, "text": d.text}, ensure_ascii=False) + "\n")
    (folder / "qrels").mkdir()
    with (folder / "qrels" / "train.tsv").open("w", encoding="utf-8") as qrels:
        qrels.write("query-id\tcorpus-id\tscore\n")

        def queries() -> Iterator[dict[str, Any]]:
            for w in written(export.queries, export.documents, export.counts):
                if w.relevance not in (0, 1):
                    export.counts["left_out_relevance"] += 1
                    continue
                qrels.write(f"{w.query_id}\t{w.document.doc_id}\t{w.relevance:.0f}\n")
                yield {"_id": w.query_id, "text": w.query, "metadata": {}}

        export.write(folder / "queries.jsonl", queries())


def _passage(document: Document) -> dict[str, str]:
    return {"docid": document.doc_id, "title": document.title, "text": document.text}


NEED_NEGATIVES = ("list", "flagembedding", "tevatron")
FORMATS: dict[str, Callable[[Export, Path], None]] = {
    "triplets": to_triplets, "pairs": to_pairs, "list": to_list, "flagembedding": to_flagembedding, "tevatron": to_tevatron,
    "beir": to_beir,
}
