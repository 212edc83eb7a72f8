"""`readqg rank`: a run of candidates re-ranked by a cross-encoder (section 5 of the method).

The row of work is a query with its candidates; a row of the output is a ranked document. Documents with equal scores are
ranked by doc_id, highest first, as trec_eval does.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa

from readqg import models, runs
from readqg.config import RankConfig
from readqg.corpus import Documents, input_fingerprint, read_texts
from readqg.errors import ConfigError
from readqg.places import place_of
from readqg.score_text import is_wanted, with_scores
from readqg.stage import ShardStage
from readqg.tokenizing import EncodedPairs, PairTokenizer

RUN = pa.schema([
    ("query_id", pa.string()), ("doc_id", pa.string()), ("rank", pa.int32()), ("score", pa.float32()), ("error", pa.string()),
])
_CANDIDATES = pa.schema([
    ("query_id", pa.string()), ("query", pa.string()), ("doc_ids", pa.list_(pa.string())), ("_scores", pa.list_(pa.float64())),
])


class RankStage(ShardStage):
    """Scores every candidate of a run; a shard is `shard_queries` queries in the run's order.

    A candidate that cannot be scored (its query or its document is unknown, or the model gives no finite number) has null
    for rank and score, says why in `error`, and stands after the ranked ones. A query without candidates has no row.
    Raises `InputError` or `ModelError` for inputs or a model that cannot be read, before any worker starts."""

    name = "rank"
    schema = RUN
    key = ("query_id",)

    def __init__(self, config: RankConfig) -> None:
        self.config = config
        self.run = str(place_of(config.run).absolute())
        self.queries = str(place_of(config.queries).absolute())
        self.documents = Documents.open(config.documents)
        self._inputs = {
            "run": runs.fingerprint(config.run), "queries": input_fingerprint(config.queries, "queries"),
            "documents": self.documents.fingerprint,
        }
        self._total = max(1, -(-len(self._candidates()) // config.shard_queries))
        self._takes_scores = is_wanted(models.resolve(config.model))
        if self._takes_scores and config.passages != "first":
            raise ConfigError(f"{config.model} was trained with BM25's scores of whole documents as text, so it ranks no passages: "
                              "leave --passages at first.")

    @property
    def total(self) -> int:
        return self._total

    def inputs(self) -> dict[str, str]:
        return self._inputs

    def models(self) -> dict[str, str]:
        return {"cross-encoder": models.fingerprint(self.config.model)}

    def _candidates(self) -> list[tuple[str, dict[str, float]]]:
        return _candidates(self.run, self._inputs["run"])

    def read(self, index: int) -> pa.Table:
        """Queries: query_id, query (null where it is unknown), doc_ids, _scores (of the run)."""
        shard = self._candidates()[index * self.config.shard_queries : (index + 1) * self.config.shard_queries]
        texts = _texts(self.queries, self._inputs["queries"])
        columns = [[query_id for query_id, _ in shard], [texts.get(query_id) for query_id, _ in shard],
                   [list(scores) for _, scores in shard], [list(scores.values()) for _, scores in shard]]
        return pa.table(columns, schema=_CANDIDATES)

    def prepare(self, table: pa.Table) -> pa.Table:
        """Adds `_known`, for every candidate whether it can be scored, the token and segment ids of those that can and, where they are
        scored by passages, `_passages`: how many of these rows each has."""
        queries, candidates = table["query"].to_pylist(), table["doc_ids"].to_pylist()
        known = [[query is not None and doc_id in self.documents for doc_id in ids]
                 for query, ids in zip(queries, candidates, strict=True)]
        asked = [(query, doc_id, score)
                 for query, ids, scores, flags in zip(queries, candidates, table["_scores"].to_pylist(), known, strict=True)
                 for doc_id, score, flag in zip(ids, scores, flags, strict=True) if flag]
        encoded, passages = self._encoded(asked)
        of_query = np.concatenate([[0], np.cumsum([sum(flags) for flags in known])]).astype(np.int32)
        rows = of_query
        if passages is not None:
            table = table.append_column("_passages", pa.ListArray.from_arrays(of_query, pa.array(passages, pa.int32())))
            rows = np.concatenate([[0], np.cumsum(passages)]).astype(np.int32)[of_query]
        input_ids, type_ids = (pa.ListArray.from_arrays(rows, column) for column in encoded.to_arrow())
        return (table.append_column("_known", pa.array(known, pa.list_(pa.bool_())))
                .append_column("_input_ids", input_ids).append_column("_type_ids", type_ids))

    def _encoded(self, asked: list[tuple[str, str, float]]) -> tuple[EncodedPairs, list[int] | None]:
        """Pairs (query, doc_id, score in the run) tokenised, and how many passages each is, where they are cut."""
        c = self.config
        tokenizer = _tokenizer(models.resolve(c.model), c.max_length)
        if c.passages == "first":
            texts = self.documents.texts([doc_id for _, doc_id, _ in asked])
            pairs = [(query, text) for (query, _, _), text in zip(asked, texts, strict=True)]
            if self._takes_scores:
                pairs = with_scores(pairs, [score for _, _, score in asked], tokenizer.tokenizer.sep_token)
            return tokenizer(pairs), None
        rows = self.documents.table([doc_id for _, doc_id, _ in asked]).to_pylist()
        parts = [(query, row["title"] or "", row["text"] or "") for (query, _, _), row in zip(asked, rows, strict=True)]
        return tokenizer.passages(parts, c.passage_tokens, c.passage_stride)

    def load(self) -> None:
        from readqg import devices
        from readqg.crossencoder import CrossEncoderScorer

        devices.set_threads(self.config.compute)
        device, dtype = devices.device_and_dtype(self.config.compute)
        folder = models.resolve(self.config.model)
        self._scorer = CrossEncoderScorer(folder, self.config.max_length, self.config.batch_tokens, device, dtype)

    def compute(self, table: pa.Table) -> pa.Table:
        """Ranked documents, query by query in the order of `table`."""
        nested = [table[name].combine_chunks() for name in ("_input_ids", "_type_ids")]
        found = self._scorer.score_encoded(EncodedPairs.from_arrow(*(column.flatten() for column in nested)))
        if "_passages" in table.column_names and len(found):
            passages = table["_passages"].combine_chunks().flatten().to_numpy()
            found = np.maximum.reduceat(found, np.cumsum(passages) - passages)  # a NaN stays one
        scores = iter(found)
        rows = []
        for query in table.select(["query_id", "query", "doc_ids", "_known"]).to_pylist():
            logits = [float(next(scores)) if flag else None for flag in query["_known"]]
            rows.extend(_ranked_rows(query["query_id"], query["query"], dict(zip(query["doc_ids"], logits, strict=True))))
        return pa.Table.from_pylist(rows, schema=RUN)

    def metrics(self) -> dict[str, float]:
        """Of the last `compute`: tokens scored, and how often running out of memory halved the batches."""
        return {"tokens": self._scorer.last_tokens, "halvings": self._scorer.last_halvings}


def _ranked_rows(query_id: str, query: str | None, logits: dict[str, float | None]) -> list[dict[str, object]]:
    """The rows of one query; a logit is None where the pair could not be scored."""
    scored = {doc_id: logit for doc_id, logit in logits.items() if logit is not None and np.isfinite(logit)}
    rows: list[dict[str, object]] = [
        {"query_id": query_id, "doc_id": doc_id, "rank": rank, "score": score}
        for rank, (doc_id, score) in enumerate(runs.ranked(scored), 1)
    ]
    for doc_id in sorted(logits.keys() - scored.keys(), reverse=True):
        logit = logits[doc_id]
        if logit is not None:
            error = f"the model's score is {logit}"
        elif query is None:
            error = f"query {query_id!r} is not among the queries"
        else:
            error = f"document {doc_id!r} is not among the documents"
        rows.append({"query_id": query_id, "doc_id": doc_id, "error": error})
    return rows


@lru_cache(maxsize=2)
def _candidates(path: str, _fingerprint: str) -> list[tuple[str, dict[str, float]]]:
    """Query ids with their candidates and the run's scores, in its order; once a process and content."""
    return list(runs.read_run(path).items())


@lru_cache(maxsize=2)
def _texts(path: str, _fingerprint: str) -> dict[str, str]:
    return read_texts(path)


@lru_cache(maxsize=2)
def _tokenizer(folder: str, max_length: int) -> PairTokenizer:
    return PairTokenizer(folder, max_length)
