"""`readqg quality`: how good generated queries are, document by document (section 5 of the method).

Diversity of a document's queries, the judge's probability for its positive and negative query, round trips (does the query
find its own document?), and control (does the judge's probability follow r?). Before the stage itself, the corpus is
embedded once, so that round trips under the bi-encoder are ranks among all documents.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from scipy import stats

from readqg import devices, models
from readqg.config import QualityConfig, RetrieveSettings, identity
from readqg.corpus import Documents
from readqg.evaluation.encoder import NO_ENCODER, EmbeddedCorpus, embed_corpus, embeddings_folder, open_encoder
from readqg.evaluation.judge import Judge
from readqg.evaluation.quality_summary import summarise_quality
from readqg.retrieval import Bm25
from readqg.shards import OutputFolder, open_input
from readqg.stage import ShardStage

__all__ = ["QUALITY", "QualityStage", "angular_diversity", "measure_quality", "summarise_quality"]

POSITIVE, NEGATIVE = 1.0, 0.0
QUALITY = pa.schema([
    ("doc_id", pa.string()), ("n_queries", pa.int32()), ("distinct", pa.float32()), ("diversity", pa.float32()),
    ("rel_plus", pa.float32()), ("rel_minus", pa.float32()), ("delta", pa.float32()), ("control", pa.float32()),
    ("bm25_rank_plus", pa.float32()), ("bm25_rank_minus", pa.float32()),
    ("encoder_rank_plus", pa.float32()), ("encoder_rank_minus", pa.float32()),
    ("query_plus", pa.string()), ("query_minus", pa.string()),
    ("judged", pa.list_(pa.struct([("relevance", pa.float32()), ("probability", pa.float32())]))), ("error", pa.string()),
])
_INPUT = pa.schema([
    ("doc_id", pa.string()), ("text", pa.string()),
    ("queries", pa.list_(pa.struct([("relevance", pa.float32()), ("sample", pa.int32()), ("query", pa.string())]))),
    ("why_none", pa.string()),
])
_COLUMNS = ("doc_id", "relevance", "sample", "query", "error")
_LEAST_RELEVANCES = 3

Query = dict[str, Any]


def measure_quality(config: QualityConfig, run: Callable[[ShardStage, OutputFolder], Any]) -> dict[str, Any]:
    """Embed the corpus (where there is an encoder), measure the queries, and return `summarise_quality` of it.

    `run` does a stage's missing shards into a folder."""
    stage = QualityStage(config)
    folder = OutputFolder.begin(config.out, stage.name, identity(config), stage.inputs(), stage.models())
    if not folder.done:
        if config.encoder != NO_ENCODER:
            embed_corpus(config, run)
        run(stage, folder)
    roles = {"teacher": config.teacher, "start": config.start}
    return summarise_quality(config.out, {role: name for role, name in roles.items() if name is not None}, config.judge)


def angular_diversity(embeddings: Any) -> float:
    """Mean over all pairs i < j of arccos(clip(cos(e_i, e_j), -1, 1)) / pi, in [0, 1].

    `embeddings`: (n, H), tensor or array, of any length, none zero. NaN for fewer than two."""
    vectors = torch.as_tensor(embeddings).detach().cpu().double().numpy()
    if len(vectors) < 2:
        return float("nan")
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = (vectors @ vectors.T)[np.triu_indices(len(vectors), k=1)]
    return float(np.mean(np.arccos(np.clip(cosines, -1.0, 1.0))) / np.pi)


class QualityStage(ShardStage):
    """One row a document of a queries folder, `shard_documents` documents a shard, in the folder's order.

    `distinct`: share of its queries that differ. `diversity`: over its relevances, a mean over samples. `rel_plus`,
    `rel_minus`: the judge's probability at r = 1 and r = 0, means over samples; `delta` their difference. `control`: Spearman
    of r against that probability, where there are at least three relevances; 0 where the probability is always the same. The ranks: of the
    document for its own queries, among all documents, means over samples. `query_plus`, `query_minus`: the first of them. `judged`:
    the judge's probability at every relevance, highest first, means over samples.
    What cannot be had (no query at r = 0, no encoder) is null. A document without a query, or with a judge's NaN, has an
    `error`."""

    name = "quality"
    schema = QUALITY
    key = ("doc_id",)

    def __init__(self, config: QualityConfig) -> None:
        """Opens the inputs. Raises `InputError` where one cannot be read, `ModelError` for a model that is not there."""
        self.config = config
        self.queries = open_input(config.queries, _COLUMNS)
        self.documents = Documents.open(config.documents)
        self._embeddings = embeddings_folder(config.out).absolute()

    @property
    def total(self) -> int:
        _, bounds = self._order()
        return max(1, -(-(len(bounds) - 1) // self.config.shard_documents))

    def inputs(self) -> dict[str, str]:
        return {"queries": self.queries.fingerprint, "documents": self.documents.fingerprint}

    def models(self) -> dict[str, str]:
        names = {"judge": self.config.judge, "encoder": self.config.encoder}
        return {role: models.fingerprint(name) for role, name in names.items() if name != NO_ENCODER}

    def read(self, index: int) -> pa.Table:
        """Documents with their queries: doc_id, text (null where the corpus lacks it), queries, why_none."""
        rows, bounds = self._order()
        first = index * self.config.shard_documents
        bounds = bounds[first : first + self.config.shard_documents + 1]
        wanted = rows[bounds[0] : bounds[-1]]
        if not len(wanted):
            return _INPUT.empty_table()
        low = int(wanted.min())
        table = self.queries.read(low, int(wanted.max()) + 1, columns=list(_COLUMNS)).take(wanted - low)
        found = [table.slice(start - bounds[0], stop - start).to_pylist() for start, stop in pairwise(bounds)]
        known = [group[0]["doc_id"] for group in found if group[0]["doc_id"] in self.documents]
        texts = dict(zip(known, self.documents.texts(known), strict=True))
        return pa.Table.from_pylist([_document(group, texts) for group in found], _INPUT)

    def load(self) -> None:
        devices.set_threads(self.config.compute)
        device, dtype = devices.device_and_dtype(self.config.compute)
        judge = models.resolve(self.config.judge)
        self._judge = Judge.open(judge, self.config.max_length, self.config.batch_tokens, device, dtype)
        self._bm25 = Bm25(self.documents, RetrieveSettings())
        self._encoder = self._corpus = None
        if self.config.encoder != NO_ENCODER:
            self._encoder = open_encoder(self.config)
            self._corpus = EmbeddedCorpus(self._embeddings, self._encoder.dimension)

    def compute(self, table: pa.Table) -> pa.Table:
        documents = table.to_pylist()
        able = [document for document in documents if document["text"] is not None and document["queries"]]
        probabilities = self._probabilities(able)
        vectors = self._vectors(able)
        return pa.Table.from_pylist([self._row(document, probabilities, vectors) for document in documents], QUALITY)

    def metrics(self) -> dict[str, float]:
        """Of the last `compute`: how often running out of memory halved the judge's and the encoder's batches."""
        return {"halvings": self._judge.last_halvings + (self._encoder.last_halvings if self._encoder else 0)}

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        return _grouped(str(self.queries.path), self.queries.fingerprint)

    def _probabilities(self, documents: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
        """(query, document text) -> the judge's probability; each distinct pair is judged once."""
        pairs = list(dict.fromkeys((q["query"], document["text"]) for document in documents for q in document["queries"]))
        return dict(zip(pairs, self._judge.probabilities(pairs).tolist(), strict=True)) if pairs else {}

    def _vectors(self, documents: list[dict[str, Any]]) -> dict[str, np.ndarray]:
        if self._encoder is None:
            return {}
        texts = list(dict.fromkeys(q["query"] for document in documents for q in document["queries"]))
        return dict(zip(texts, self._encoder.encode(texts), strict=True))

    def _row(self, document: dict[str, Any], judged: Mapping[tuple[str, str], float], vectors: Mapping[str, np.ndarray]) -> Query:
        doc_id, queries = document["doc_id"], document["queries"]
        for query in queries:
            query["judged"] = judged.get((query["query"], document["text"]))
        error = _why_not(document, vectors)
        if error:
            return {"doc_id": doc_id, "error": error}
        row = {"doc_id": doc_id, "n_queries": len(queries), "distinct": len({q["query"] for q in queries}) / len(queries)}
        row |= {"diversity": _diversity(queries, vectors), "control": _control(queries)}
        for side, relevance in (("plus", POSITIVE), ("minus", NEGATIVE)):
            own = [q for q in queries if q["relevance"] == relevance]
            row[f"query_{side}"] = own[0]["query"] if own else None
            row[f"rel_{side}"] = _mean([q["judged"] for q in own])
            row[f"bm25_rank_{side}"] = _mean([self._bm25.rank_of(doc_id, q["query"]) for q in own])
            at = self.documents.row(doc_id)
            if self._corpus is not None and at is not None:
                row[f"encoder_rank_{side}"] = _mean([self._corpus.rank_of(at, vectors[q["query"]]) for q in own])
        row["judged"] = [
            {"relevance": r, "probability": _mean([q["judged"] for q in queries if q["relevance"] == r])}
            for r in sorted({q["relevance"] for q in queries}, reverse=True)
        ]
        if row["rel_plus"] is not None and row["rel_minus"] is not None:
            row["delta"] = row["rel_plus"] - row["rel_minus"]
        return row


@lru_cache(maxsize=4)
def _grouped(path: str, fingerprint: str) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a queries folder grouped by document, documents by first appearance; and where each document's begin."""
    codes = open_input(path).read(columns=["doc_id"])["doc_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    rows = np.argsort(codes, kind="stable")
    return rows, np.concatenate([[0], np.cumsum(np.bincount(codes))]).astype(np.int64)


def _document(group: list[dict[str, Any]], texts: Mapping[str, str]) -> dict[str, Any]:
    doc_id = group[0]["doc_id"]
    written = [row for row in group if row["error"] is None and row["query"]]
    failed = next((row["error"] for row in group if row["error"] is not None), "every query is empty")
    return {"doc_id": doc_id, "text": texts.get(doc_id), "queries": written, "why_none": None if written else failed}


def _why_not(document: dict[str, Any], vectors: Mapping[str, np.ndarray]) -> str | None:
    """Why a document cannot be measured; None where it can."""
    queries = document["queries"]
    if document["text"] is None:
        return f"document {document['doc_id']!r} is not among the documents"
    if not queries:
        return f"no query: {document['why_none']}"
    broken = [q["judged"] for q in queries if not np.isfinite(q["judged"])]
    if broken:
        return f"the judge's probability is {broken[0]} for {len(broken)} of {len(queries)} queries"
    count = sum(not np.isfinite(vectors[q["query"]]).all() for q in queries) if vectors else 0
    return f"the encoder's vector is not finite for {count} of {len(queries)} queries" if count else None


def _diversity(queries: list[Query], vectors: Mapping[str, np.ndarray]) -> float | None:
    if not vectors:
        return None
    grids: dict[int, list[np.ndarray]] = {}
    for query in queries:
        grids.setdefault(query["sample"], []).append(vectors[query["query"]])
    return _mean([angular_diversity(np.stack(grid)) for grid in grids.values() if len(grid) > 1])


def _control(queries: list[Query]) -> float | None:
    relevances = [q["relevance"] for q in queries]
    if len(set(relevances)) < _LEAST_RELEVANCES:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        rho = float(stats.spearmanr(relevances, [q["judged"] for q in queries]).statistic)
    return rho if np.isfinite(rho) else 0.0  # a constant score: turning r does nothing


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
