"""`readqg fuse`: a re-ranker's scores and BM25's, or those of two first stages, added up. It needs no training, and no part of it looks at
judgments.

Each side is standardised over a query's candidates, so that neither's scale counts: score = z(re-ranker) + weight * z(BM25). The weight is
given, or learned on the synthetic documents that training held out; then `readqg.json` in the re-ranker's folder carries it, and
`readqg rank` puts it beside its run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from readqg import models, runs
from readqg.config import FuseConfig, FusionSettings
from readqg.errors import InputError
from readqg.places import Place, place_of
from readqg.ranking import RUN
from readqg.shards import write_whole
from readqg.stage import ShardStage

_BESIDE_RUN = "_readqg.json"
_GRID = np.arange(41) / 20
_CUTOFF = 10


def fuse(scores: Mapping[str, float], first: Mapping[str, float], weight: float) -> dict[str, float]:
    """Fused scores of one query's documents, those of `scores`; one that `first` lacks has there the lowest score that it holds."""
    if not scores:
        return {}
    lowest = min(first.values(), default=0.0)
    fused = _standardised(list(scores.values())) + weight * _standardised([first.get(doc_id, lowest) for doc_id in scores])
    return dict(zip(scores, fused.tolist(), strict=True))


def _standardised(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Mean 0 and standard deviation 1; all 0 where the values are equal."""
    array = np.asarray(values, dtype=np.float64)
    spread = array.std()
    return (array - array.mean()) / spread if spread > 0 else np.zeros_like(array)


def best_weight(scores: Sequence[np.ndarray], first: Sequence[np.ndarray], sources: Sequence[int]) -> float:
    """The weight, of 0, 0.05 ... 2, under which the mean nDCG@10 of each query's one relevant document is highest; of equal ones the
    nearest to the default.

    scores[i], first[i]: (candidates,) of query i, the re-ranker's and BM25's, finite; `sources[i]`: the place of the relevant one. Of equal
    fused scores the relevant document's counts as the lowest."""
    gains = np.zeros((len(sources), len(_GRID)))
    for row, (own, bm25, source) in enumerate(zip(scores, first, sources, strict=True)):
        fused = _standardised(own) + _GRID[:, None] * _standardised(bm25)
        ranks = (fused >= fused[:, [source]]).sum(axis=1)
        gains[row] = np.where(ranks <= _CUTOFF, 1 / np.log2(1 + ranks), 0.0)
    means = gains.mean(axis=0)
    best = _GRID[means >= means.max() - 1e-12]
    return float(best[np.abs(best - FusionSettings.model_fields["weight"].default).argmin()])


def write_weights(folder: Path, tuned: float, start: float, documents: int) -> None:
    """`readqg.json` of a re-ranker: the weights of BM25 beside it and beside its start, learned on so many held-out documents."""
    said = {"fusion_weight": tuned, "start_fusion_weight": start, "held_out_documents": documents}
    (folder / models.OWN_FILE).write_text(json.dumps(said, indent=1) + "\n")


def carry_weights(model: str, run: str) -> None:
    """Put `readqg.json` of a re-ranker, where it has one, beside a run that it made."""
    path = Path(models.resolve(model)) / models.OWN_FILE
    if path.exists():
        write_whole(place_of(run) / _BESIDE_RUN, path.read_text())


def learned_weight(model: str | Place, of: Literal["tuned", "start"] = "tuned") -> float:
    """What a re-ranker's folder carries for itself, or for its start. Raises `InputError` where it carries none."""
    return _read_weight(place_of(model) / models.OWN_FILE, "fusion_weight" if of == "tuned" else "start_fusion_weight")


def _read_weight(path: Place, field: str) -> float:
    try:
        weight = float(json.loads(path.read_text())[field])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no learned weight ({type(error).__name__}: {error}). It comes with a re-ranker that `readqg "
                         "train-reranker` made, and with a run that `readqg rank` made with it; else give --weight a number.") from error
    if not 0 <= weight < float("inf"):
        raise InputError(f"{path}: {field} is {weight}; a weight is a number of 0 or more. Mend it, or give --weight a number.")
    return weight


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
        self._weight = config.weight if isinstance(config.weight, float) else _weight_beside(config.run)

    def inputs(self) -> dict[str, str]:
        learned = {} if self.config.weight == self._weight else {"weight": repr(self._weight)}
        return {"run": runs.fingerprint(self.config.run), "first": runs.fingerprint(self.config.first), **learned}

    def read(self, index: int) -> pa.Table:
        both = self._first if self.config.documents == "both" else {}
        return pa.table({"query_id": pa.array(list(self._run | both), pa.string())})

    def load(self) -> None:
        """Nothing to load."""

    def compute(self, table: pa.Table) -> pa.Table:
        rows = []
        for query_id in table["query_id"].to_pylist():
            own, first = self._run.get(query_id, {}), self._first.get(query_id, {})
            if self.config.documents == "both":
                lowest = min(own.values(), default=0.0)
                own = own | {doc_id: lowest for doc_id in first if doc_id not in own}
            ranked = enumerate(runs.ranked(fuse(own, first, self._weight))[: self.config.top_k], 1)
            rows += [{"query_id": query_id, "doc_id": doc_id, "rank": rank, "score": score} for rank, (doc_id, score) in ranked]
        return pa.Table.from_pylist(rows, schema=RUN)


def _weight_beside(run: str) -> float:
    path = place_of(run)
    return _read_weight((path.parent if path.name == runs.TREC_FILE else path) / _BESIDE_RUN, "fusion_weight")

