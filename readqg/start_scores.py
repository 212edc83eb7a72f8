"""`readqg score-queries`: every generated query scored with the document it was written for, by the model that is to be trained.

Training can then keep the queries that it scores best, which is InPars' filter (Bonifacio et al., SIGIR 2022, take the 10,000 best of
100,000 by the model that wrote them; Jeronymo et al., 2023, by a re-ranker, as here).
"""

from __future__ import annotations

import math

import pyarrow as pa

from readqg import models
from readqg.config import ScoreQueriesConfig
from readqg.corpus import Documents
from readqg.query_rows import QueryRowsStage

START_SCORE = "start_score"


class ScoreQueriesStage(QueryRowsStage):
    """The rows of a queries folder, all its columns, with `start_score`: the model's raw logit, null where there is no query, or, with an
    `error`, where it is not finite. Raises `InputError` for folders that cannot be read, `ModelError` for the model."""

    name = "score-queries"

    def __init__(self, config: ScoreQueriesConfig) -> None:
        self._models = {"model": models.fingerprint(config.model)}
        score = self.noting(pa.field(START_SCORE, pa.float32()), **self._models)
        super().__init__(config.queries, config.shard_rows, pa.schema([score]))
        self.config = config
        self.documents = Documents.open(config.documents)

    def inputs(self) -> dict[str, str]:
        return {**super().inputs(), "documents": self.documents.fingerprint}

    def models(self) -> dict[str, str]:
        return self._models

    def load(self) -> None:
        from readqg import devices
        from readqg.crossencoder import CrossEncoderScorer

        c = self.config
        devices.set_threads(c.compute)
        self._scorer = CrossEncoderScorer(models.resolve(c.model), c.max_length, c.batch_tokens, *devices.device_and_dtype(c.compute))

    def compute(self, table: pa.Table) -> pa.Table:
        queries, errors = table["query"].to_pylist(), table["error"].to_pylist()
        asked = [row for row, (query, error) in enumerate(zip(queries, errors, strict=True)) if error is None and (query or "").strip()]
        texts = self.documents.texts(table["doc_id"].take(pa.array(asked, pa.int64())).to_pylist())
        scores: list[float | None] = [None] * table.num_rows
        logits = self._scorer.score([(queries[row], text) for row, text in zip(asked, texts, strict=True)])
        for row, logit in zip(asked, logits.tolist(), strict=True):
            scores[row], errors[row] = (logit, None) if math.isfinite(logit) else (None, f"the model's score is {logit}")
        table = table.set_column(table.column_names.index("error"), "error", pa.array(errors, pa.string()))
        return table.append_column(START_SCORE, pa.array(scores, pa.float32()))

    def metrics(self) -> dict[str, float]:
        """Of the last `compute`: tokens scored, and how often running out of memory halved the batches."""
        return {"tokens": self._scorer.last_tokens, "halvings": self._scorer.last_halvings}
