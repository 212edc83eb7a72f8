"""The guard measured: the question that it answers, asked once more of queries and documents that training had no part in.

The guard judges by queries of the generator that training's own come from, and by documents beside those that were trained on. Here the
queries are few-shot ones, their documents are others, and none of these is nearly one that was trained on. What both say is set beside
what judged queries say in `results`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from readqg import devices, models
from readqg.config import GuardSettings
from readqg.config.machine import Compute
from readqg.corpus import Documents, document_text, read_judgments, write_qrels
from readqg.corpus.rows import SCHEMAS
from readqg.evaluation.encoder import BiEncoder
from readqg.evaluation.metrics import per_query
from readqg.places import Place
from readqg.reranker.selection import Validation, guard
from readqg.runs import read_run, write_trec
from readqg.shards import InputFolder, fingerprint, open_input, stable_hash, write_whole
from readqg.stage import ShardStage

MEASURE = "nDCG@10"
_BATCH_TOKENS = 8192
_COLUMNS = ("doc_id", "query", "error")


class OutsideStage(ShardStage):
    """A corpus in, some of its documents out, as an imported folder has them: drawn by a stable hash from those that `written` has no
    queries for, that have a text, and whose cosine to each of these is at most `near`. One shard.

    Raises `InputError` where a folder cannot be read."""

    name = "outside"
    key = ("doc_id",)
    schema = SCHEMAS["documents"]
    independent_rows = False
    total = 1  # type: ignore[assignment]

    def __init__(self, settings: GuardSettings, documents: str, written: InputFolder, compute: Compute) -> None:
        self.settings, self.compute_on = settings, compute
        self.documents = Documents.open(documents)
        self._trained = sorted(set(written.read(columns=["doc_id"])["doc_id"].to_pylist()))

    def inputs(self) -> dict[str, str]:
        """Of `written` its documents alone, for which others may be drawn; other queries for the same ones change nothing."""
        return {"documents": self.documents.fingerprint, "written_for": fingerprint(self._trained)}

    def models(self) -> dict[str, str]:
        return {"encoder": models.fingerprint(self.settings.encoder)}

    def read(self, index: int) -> pa.Table:
        return pa.table({"doc_id": self.documents.id_column})

    def load(self) -> None:
        devices.set_threads(self.compute_on)
        device, _ = devices.device_and_dtype(self.compute_on)
        s = self.settings
        self._encoder = BiEncoder(models.resolve(s.encoder), s.pooling, s.max_length, _BATCH_TOKENS, device, torch.float32)

    def compute(self, table: pa.Table) -> pa.Table:
        others = sorted(set(table["doc_id"].to_pylist()).difference(self._trained), key=lambda doc_id: (stable_hash(doc_id), doc_id))
        near = self._vectors(self._trained)
        chosen: list[str] = []
        for start in range(0, len(others), self.settings.documents):
            some = others[start:start + self.settings.documents]
            there = [row["doc_id"] for row in self.documents.table(some).to_pylist() if (row["title"] + row["text"]).strip()]
            apart = (self._vectors(there) @ near.T).max(axis=1, initial=-1.0) <= self.settings.near
            chosen += [doc_id for doc_id, far in zip(there, apart, strict=True) if far]
            if len(chosen) >= self.settings.documents:
                break
        return self.documents.table(chosen[: self.settings.documents])

    def _vectors(self, ids: Sequence[str]) -> np.ndarray:
        rows = self.documents.table(list(ids)).to_pylist()
        return self._encoder.encode([document_text(row["title"], row["text"]) for row in rows])


def write_asked(queries: Place, out: Place) -> Place | None:
    """A folder with generated queries as a collection's own: `queries.jsonl` and `qrels.tsv`, for each its one document. None where there
    are no queries."""
    rows = open_input(queries, _COLUMNS).read(columns=list(_COLUMNS)).to_pylist()
    asked = [row for row in rows if row["error"] is None and (row["query"] or "").strip()]
    if not asked:
        return None
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "queries.jsonl", "".join(json.dumps({"_id": f"q{n}", "text": row["query"]}) + "\n" for n, row in enumerate(asked)))
    write_qrels(out / "qrels.tsv", ((f"q{n}", row["doc_id"], 1) for n, row in enumerate(asked)))
    return out


def with_sources(run: Place, asked: Place, out: Place) -> Place:
    """The candidates of `run`, and where a query's own document is not among them, that one too, last: as `HeldOut` has it. `out`: a
    TREC file."""
    found = read_run(run)
    for query, (source,) in read_judgments(asked / "qrels.tsv").items():
        own = found.setdefault(query, {})
        own.setdefault(source, min(own.values(), default=0.0))
    write_trec(out, found)
    return out


def verdict(qrels: dict[str, dict[str, int]], start: Place, tuned: Place) -> dict[str, Any]:
    """What the guard would say of two runs for `write_asked`'s queries, each of which has its one document."""
    before, after = (per_query(qrels, read_run(place), [MEASURE])[MEASURE] for place in (start, tuned))
    found = guard(Validation(before, 1.0, 0), Validation(after, 1.0, 0))
    return {"use": found.use, "difference": found.difference, "interval": found.interval, "p_value": found.p_value,
            "documents": found.held_out_documents}
