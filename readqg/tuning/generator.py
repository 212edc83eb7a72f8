"""Searching the generator: how well do its prompts tell relevant queries from others, without collapsing?

The score is control: for every real query q of a held-out passage d, S(q | d, 1) - S(q | d, 0), the log-likelihood ratio of
the two ends of the knob, against the teacher's score of (q, d); Spearman within a passage, a mean over passages. Queries of
the trial's own would let the easiest generator win, so none have a part in it; but a generator that writes the same few
queries for every passage is put behind all that do not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from readqg import devices
from readqg.config import GenerateSettings, TrainGeneratorConfig, TuneGeneratorConfig, make
from readqg.errors import ConfigError
from readqg.generator.decoding import QueryWriter
from readqg.generator.model import Generator
from readqg.generator.ratio import log_ratios
from readqg.generator.training import GeneratorTraining
from readqg.tuning.loop import train
from readqg.tuning.search import Rung, Search, Values, rung_steps

_RELEVANCES = (1.0, 0.0)


class GeneratorSearch(Search):
    """Raises `InputError` for pairs that cannot be read, `ConfigError` where nothing is held out to judge by."""

    name = "tune-generator"
    config: TuneGeneratorConfig

    def __init__(self, config: TuneGeneratorConfig) -> None:
        super().__init__(config, config.space)
        if not config.generator.held_out_documents or not config.generator.steps:
            raise ConfigError("A search needs --generator.held-out-documents and --generator.steps above 0.")
        self._stage = GeneratorTraining(self._training({}))

    def _training(self, values: Mapping[str, Any]) -> TrainGeneratorConfig:
        c = self.config
        places = {"pairs": c.pairs, "out": c.out, "backbone": c.backbone, "compute": c.compute.model_dump()}
        optimizer = {"weight_decay": c.weight_decay, "gradient_clip": c.gradient_clip}
        return make(TrainGeneratorConfig, c.generator.model_dump(), optimizer, places, dict(values))

    def inputs(self) -> dict[str, str]:
        return self._stage.inputs()

    def models(self) -> dict[str, str]:
        return self._stage.models()

    @property
    def rungs(self) -> int:
        return len(rung_steps(self.config.generator.steps, self.config.rungs))

    def trial(self, values: Values, folder: Path) -> Iterator[Rung]:
        config = self._training(values)
        devices.set_threads(config.compute)
        torch.manual_seed(config.seed)
        stage = GeneratorTraining(config)
        model = stage.build()
        for step in train(stage, model, config, rung_steps(config.steps, self.config.rungs)):
            metrics = {"step": float(step), **self.judge(stage, model)}
            if step == config.steps:
                (folder / "model").mkdir(exist_ok=True)
                model.prompts.save(folder / "model")
            yield Rung(metrics, step == config.steps)

    @torch.no_grad()
    def judge(self, stage: GeneratorTraining, model: Generator) -> dict[str, float]:
        """`score`, and what it is made of: `spearman` within passages, `pooled` over all queries, `distinct`."""
        model.eval()
        c = self.config
        within, ratios, teacher = [], [], []
        held_out = stage.pairs.read(stage.pairs.held_out)
        for row in held_out:
            queries = [*row["positives"], *row["negatives"]]
            found = log_ratios(
                model, [row["text"]], [[q["query"] for q in queries]], c.generator.document_tokens, c.generator.query_tokens)[0]
            scores = [float(q["score"]) for q in queries]
            ratios += found
            teacher += scores
            rho = _spearman(found, scores)
            within += [] if math.isnan(rho) else [rho]
        distinct = self._distinct(model, held_out[: c.probe_documents])
        model.train()
        spearman = sum(within) / len(within) if within else -1.0
        score = spearman if distinct >= c.min_distinct else -1.0 - (c.min_distinct - distinct)
        pooled = _spearman(ratios, teacher)
        return {"score": score, "spearman": spearman, "pooled": 0.0 if math.isnan(pooled) else pooled, "distinct": distinct}

    def _distinct(self, model: Generator, rows: list[dict[str, Any]]) -> float:
        """Share of distinct queries among those of different passages, at the r where it is lower."""
        settings = GenerateSettings(
            relevances=_RELEVANCES, decoding="greedy", max_new_tokens=self.config.probe_new_tokens,
            document_tokens=self.config.generator.document_tokens, batch_tokens=4096)
        documents = [(row["doc_id"], model.document_ids(row["text"], settings.document_tokens)) for row in rows]
        written = QueryWriter(model, settings).write(documents)
        sides = [[q.text for q in written if q.relevance == r] for r in _RELEVANCES]
        # A query that could not be written is no query, so it is not distinct from others like it.
        return min(len({text for text in side if text}) / len(side) for side in sides)

    def winner(self, values: Values, folder: Path) -> dict[str, Any]:
        return {"prompts": str(folder / "model"), "backbone": self.config.backbone}


def _spearman(a: list[float], b: list[float]) -> float:
    """NaN where one of the two does not vary."""
    if len(set(a)) < 2 or len(set(b)) < 2:
        return math.nan
    return float(spearmanr(a, b).statistic)
