"""Searching the re-ranker: nDCG@10 of held-out synthetic documents for their own queries, one fixed set of queries for all. One half of
the documents is searched by; by the other the guard of a run with the winner's settings judges."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from readqg import devices
from readqg.config import TrainRerankerConfig, TuneRerankerConfig, make
from readqg.reranker.selection import Validation
from readqg.reranker.training import RerankerTraining
from readqg.tuning.loop import train
from readqg.tuning.search import Rung, Search, Values, rung_steps


class RerankerSearch(Search):
    """Raises `InputError` for inputs that cannot be used or too few documents, `ModelError` for the start."""

    name = "tune-reranker"
    config: TuneRerankerConfig

    def __init__(self, config: TuneRerankerConfig) -> None:
        super().__init__(config, config.space)
        # Trials without a loss on negatives would train on, and hold out, other documents.
        self._stage = RerankerTraining(self._training({"w_mr": max(config.space.w_mr[1], 1e-9)}))

    def _training(self, values: Values) -> TrainRerankerConfig:
        c = self.config
        places = {"queries": c.queries, "documents": c.documents, "out": c.out, "start": c.start}
        return make(TrainRerankerConfig, c.reranker.model_dump(), places, {"compute": c.compute.model_dump()}, dict(values))

    def inputs(self) -> dict[str, str]:
        return self._stage.inputs()

    def models(self) -> dict[str, str]:
        return self._stage.models()

    @property
    def rungs(self) -> int:
        return len(rung_steps(self._stage.steps, self.config.rungs))

    def trial(self, values: Values, folder: Path) -> Iterator[Rung]:
        config = self._training(values)
        devices.set_threads(config.compute)
        torch.manual_seed(config.seed)
        stage = RerankerTraining(config)
        model = stage.build()
        for step in train(stage, model, config, rung_steps(stage.steps, self.config.rungs)):
            found = Validation.from_log(stage.validate(model))
            yield Rung({"step": float(step), "score": found.choice_score, "spread": found.spread}, step == stage.steps)

    def winner(self, values: Values, folder: Path) -> dict[str, Any]:
        return {"start": self.config.start, "reranker": {**self.config.reranker.model_dump(), **values, "judge_by_half": True}}
