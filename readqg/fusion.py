"""`readqg fuse`: a re-ranker's scores and BM25's, added up. It needs no training, and no part of it looks at judgments.

Each side is standardised over a query's candidates, so that neither's scale counts: score = z(re-ranker) + weight * z(BM25).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from readqg import runs
from readqg.config import FuseConfig
from readqg.ranking import RUN
from readqg.stage import ShardStage


def fuse(scores: Mapping[str, float], first: Mapping[str, float], weight: float) -> dict[str, float]:
    """Fused scores of one query's documents, those of `scores`; one that `first` lacks has there the lowest score that it holds."""
    if not scores:
        return {}
    lowest = min(first.values(), default=0.0)
    fused = _standardised(list(scores.values())) + weight * _standardised([first.get(doc_id, lowest) for doc_id in scores])
    return dict(zip(scores, fused.tolist(), strict=True))


def _standardised(values: list[float]) -> np.ndarray:
    """Mean 0 and standard deviation 1; all 0 where the values are equal."""
    array = np.asarray(values, dtype=np.float64)
    spread = array.std()
    return (array - array.mean()) / spread if spread > 0 else np.zeros_like(array)


class FuseStage(ShardStage):
    """Queries in, their documents ranked by the fused score out; all of them are one shard."""

    name = "fuse"
    schema = RUN
    key = ("query_id",)
    needs_model = False
    total = 1  # type: ignore[assignment]

    def __init__(self, config: FuseConfig) -> None:
        self.config = config
        self._run, self._first = runs.read_run(config.run), runs.read_run(config.first)

    def inputs(self) -> dict[str, str]:
        return {"run": runs.fingerprint(self.config.run), "first": runs.fingerprint(self.config.first)}

    def read(self, index: int) -> pa.Table:
        return pa.table({"query_id": pa.array(list(self._run), pa.string())})

    def load(self) -> None:
        """Nothing to load."""

    def compute(self, table: pa.Table) -> pa.Table:
        rows = []
        for query_id in table["query_id"].to_pylist():
            fused = fuse(self._run[query_id], self._first.get(query_id, {}), self.config.weight)
            ranked = enumerate(runs.ranked(fused), 1)
            rows += [{"query_id": query_id, "doc_id": doc_id, "rank": rank, "score": score} for rank, (doc_id, score) in ranked]
        return pa.Table.from_pylist(rows, schema=RUN)
