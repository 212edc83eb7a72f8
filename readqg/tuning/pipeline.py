"""Searching both at once: how queries are sampled, and how the re-ranker learns from them.

Some documents are held out first and their queries written once, with the settings that are not searched; every trial writes
queries for the others, trains on them, and is judged on the held-out ones. So all trials answer the same questions, and an
easy generator does not win by asking easier ones. One half of the held-out documents is searched by; by the other the guard of a run with
the winner's settings judges.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from readqg import config as c
from readqg import devices, models
from readqg.batching import tokens_for
from readqg.corpus import Documents, subset
from readqg.corpus.rows import SCHEMAS
from readqg.errors import ConfigError, InputError
from readqg.generator.collation import COLUMNS
from readqg.generator.generate import GenerateStage
from readqg.local import run_here
from readqg.reranker.sampling import QUERY_COLUMNS
from readqg.reranker.scoring import TrainingScorer
from readqg.reranker.selection import HeldOut
from readqg.reranker.training import RerankerTraining
from readqg.shards import OutputFolder, open_input
from readqg.stage import ShardResult
from readqg.tokenizing import PairTokenizer
from readqg.tuning.loop import train
from readqg.tuning.search import Rung, Search, Values, rung_steps

_OWN_HELD_OUT = 1e-9  # of the trained documents the stage holds out one at least; it has no part in the score


class PipelineSearch(Search):
    """Raises `InputError` where there are too few documents, `ModelError` for models that cannot be used, `ConfigError` for settings of
    the re-ranker that need a stage between the two."""

    name = "tune-pipeline"
    config: c.TunePipelineConfig

    def __init__(self, config: c.TunePipelineConfig) -> None:
        super().__init__(config, config.space)
        if config.reranker.needs_round_trip or config.reranker.needs_ratio or config.reranker.needs_scores:
            raise ConfigError("tune-pipeline trains on queries as they are written: the re-ranker's round_trip, negative_round_trip, "
                              "mined, ratio_min, score_best and unverified have no place in it. Leave them out here, and set them in "
                              "`readqg run`.")
        config.reranker.check_asked(config.generate.relevances)
        self._folder = open_input(config.documents, ("doc_id", "title", "text"))
        ids = subset(self._folder.read(columns=["doc_id"])["doc_id"].to_pylist(), config.max_documents)
        most = config.reranker.held_out(len(ids))
        if len(ids) - most < c.FEWEST_DOCUMENTS:
            raise InputError(f"{config.documents}: {len(ids)} documents leave fewer than {c.FEWEST_DOCUMENTS} to train on. Give more.")
        self._held_out = set(subset(ids, most))
        self._trained = set(ids) - self._held_out
        self._out = Path(config.out).absolute()
        self._generate = GenerateStage(self._generating(config.documents, {}))

    def _generating(self, documents: str, values: dict[str, Any]) -> c.GenerateConfig:
        config = self.config
        places = {"documents": documents, "out": config.out, "prompts": config.prompts, "backbone": config.backbone}
        return c.make(c.GenerateConfig, config.generate.model_dump(), places, {"compute": config.compute.model_dump()}, values)

    def _training(self, queries: str, values: dict[str, Any]) -> c.TrainRerankerConfig:
        config = self.config
        places = {"queries": queries, "documents": config.documents, "out": config.out, "start": config.start}
        own = {"held_out_share": _OWN_HELD_OUT, "compute": config.compute.model_dump()}
        return c.make(c.TrainRerankerConfig, config.reranker.model_dump(), places, own, values)

    def inputs(self) -> dict[str, str]:
        replay = self.config.reranker.replay
        return {**self._generate.inputs(), **({"replay": open_input(replay, COLUMNS).fingerprint} if replay else {})}

    def models(self) -> dict[str, str]:
        return {**self._generate.models(), "start": models.fingerprint(self.config.start)}

    @property
    def rungs(self) -> int:
        documents = len(self._trained) - 1
        batch = min(self.config.reranker.batch, documents)
        return len(rung_steps(-(-documents // batch) * self.config.reranker.epochs, self.config.rungs))

    def prepare(self, out: Path) -> None:
        self._write_documents(out / "_held_out" / "documents", self._held_out)
        self._write_documents(out / "_trained" / "documents", self._trained)
        config = self._generating(str(out / "_held_out" / "documents"), {"relevances": (1.0,), "samples": 1})
        stage = GenerateStage(config)
        run_here(stage, OutputFolder.begin(out / "_held_out" / "queries", stage.name, c.identity(config), stage.inputs(), stage.models()))

    def _write_documents(self, path: Path, ids: set[str]) -> None:
        folder = OutputFolder.begin(path, "tune-documents", {"documents": len(ids)}, self.inputs())
        if folder.done:
            return
        table = self._folder.read(columns=["doc_id", "title", "text"])
        kept = table.filter([doc_id in ids for doc_id in table["doc_id"].to_pylist()]).cast(SCHEMAS["documents"])
        folder.commit(0, 1, ShardResult(kept, kept.num_rows, 0, 0))
        folder.finish(1)

    def trial(self, values: Values, folder: Path) -> Iterator[Rung]:
        sampling = {"temperature": values["sampling_temperature"], "top_k": values["top_k"]}
        learning = {name: value for name, value in values.items() if name in c.RerankerSpace.model_fields}
        queries = self._write_queries(sampling, folder / "queries")
        config = self._training(str(queries), learning)
        devices.set_threads(config.compute)
        torch.manual_seed(config.seed)
        stage = RerankerTraining(config)
        model = stage.build()
        device, dtype = devices.device_and_dtype(config.compute)
        tokenize = PairTokenizer(models.resolve(config.start), config.max_length)
        scorer = TrainingScorer(tokenize, tokens_for(device, config.batch_tokens), dtype)
        documents = Documents.open(self.config.documents)
        held_out = HeldOut.search(self._held_out_queries(), documents)
        encoded = tokenize(held_out.pairs(documents))
        for step in train(stage, model, config, rung_steps(stage.steps, self.config.rungs)):
            found = held_out.judge(scorer.without_gradient(model, encoded, range(len(encoded.input_ids))))
            yield Rung({"step": float(step), "score": found.choice_score, "spread": found.spread}, step == stage.steps)

    def _write_queries(self, sampling: dict[str, Any], out: Path) -> Path:
        config = self._generating(str(self._out / "_trained" / "documents"), {"decoding": "top_k", **sampling})
        stage = GenerateStage(config)
        run_here(stage, OutputFolder.begin(out, stage.name, c.identity(config), stage.inputs(), stage.models()))
        return out

    def _held_out_queries(self) -> dict[str, str]:
        rows = open_input(self._out / "_held_out" / "queries").read(columns=list(QUERY_COLUMNS)).to_pylist()
        found = {row["doc_id"]: row["query"] for row in rows if row["error"] is None}
        if not found:
            raise InputError("No query could be written for the held-out documents: column `error` in _held_out/queries says why.")
        return found

    def winner(self, values: Values, folder: Path) -> dict[str, Any]:
        config = self.config
        learning = {name: value for name, value in values.items() if name in c.RerankerSpace.model_fields}
        sampling = {"decoding": "top_k", "temperature": values["sampling_temperature"], "top_k": values["top_k"]}
        places = {"prompts": config.prompts, "backbone": config.backbone, "start": config.start}
        return {
            **{name: place for name, place in places.items() if place is not None},
            "max_documents": config.max_documents,
            "generate": {**config.generate.model_dump(mode="json"), **sampling},
            "reranker": {**config.reranker.model_dump(), **learning, "judge_by_half": True},
        }
