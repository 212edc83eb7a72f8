"""A small corpus with generated queries, as the stages before the re-ranker write them."""

from pathlib import Path

from readqg.config import TrainRerankerConfig
from readqg.corpus.rows import SCHEMAS
from readqg.generator.generate import QUERIES
from tests.builders import WORDS, tiny_cross_encoder, write_folder

DOCUMENTS = {f"d{i}": f"{WORDS[i % 7]} {WORDS[(3 * i + 1) % 7]} number {i}" for i in range(12)}


def query_row(doc_id: str, relevance: float, query: str | None, sample: int = 0, error: str | None = None) -> dict:
    return {"doc_id": doc_id, "relevance": relevance, "sample": sample, "query": query, "error": error}


def both_queries(doc_id: str, sample: int = 0) -> list[dict]:
    return [
        query_row(doc_id, 1.0, f"what is number {doc_id[1:]}" + " again" * sample, sample),
        query_row(doc_id, 0.0, f"is the wing of {doc_id[1:]}" + " again" * sample, sample),
    ]


def write_queries(path: Path, rows: list[dict]) -> Path:
    return write_folder(path, rows, QUERIES)


def write_documents(path: Path, documents: dict[str, str]) -> Path:
    return write_folder(path, [{"doc_id": i, "title": "", "text": text} for i, text in documents.items()], SCHEMAS["documents"])


def reranker_config(folder: Path, rows: list[dict] | None = None, **settings: object) -> TrainRerankerConfig:
    """Config for a tiny start and `DOCUMENTS`; `rows`: the generated queries, by default a pair for every document."""
    rows = [row for doc_id in DOCUMENTS for row in both_queries(doc_id)] if rows is None else rows
    values = {
        "queries": str(write_queries(folder / "queries", rows)),
        "documents": str(write_documents(folder / "documents", DOCUMENTS)),
        "start": str(tiny_cross_encoder(folder / "start")),
        "out": str(folder / "out"), "batch": 4, "max_length": 48, "compute": {"device": "cpu", "precision": "fp32"},
    }
    return TrainRerankerConfig(**{**values, **settings})
