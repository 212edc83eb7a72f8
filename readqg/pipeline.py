"""`readqg run`: the stages in order for one corpus. Each is resumable, so the same command goes on where it stopped.

```
OUT/corpus/{documents,queries,judgments}   imported
OUT/queries                                generated, r = 1 and r = 0
OUT/reranker                               the tuned cross-encoder, with its guard
OUT/bm25, OUT/start, OUT/tuned             runs, where the corpus comes with queries
OUT/start-fused, OUT/tuned-fused           the same with BM25's scores added
OUT/quality                                where asked
OUT/summary.json, OUT/report.html
```
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.table import Table

from readqg import api, sample
from readqg import config as c
from readqg.engine import cluster
from readqg.errors import ConfigError
from readqg.places import Place, place_of
from readqg.progress import duration
from readqg.shards import explained, write_whole

log = logging.getLogger("readqg")

_C = TypeVar("_C", bound=c.Settings)
MEASURES = ("nDCG@10", "R@100", "RR@10")


def run(config: c.RunConfig) -> dict[str, Any]:
    """From documents to a re-ranker, a ranking and a report; returns what is written to OUT/summary.json."""
    out = place_of(config.out)
    prompts = _prompts(config)
    clock = _Clock(out / "_seconds.json")
    with clock.stage("import"):
        imported = _import(config, out)
    searched = (out / "corpus" / "queries").is_dir()
    quality = None
    with cluster.connect(config.compute):
        if searched:
            with clock.stage("retrieve"):
                _retrieve(config, out)
        with clock.stage("generate"):
            _generate(config, out, prompts)
        with clock.stage("train"):
            _train(config, out)
        if searched:
            with clock.stage("rank"):
                _rank(config, out, "start", config.start)
                _rank(config, out, "tuned", str(out / "reranker"))
                _fuse(config, out)
        if config.quality is not None:
            with clock.stage("quality"):
                quality = _quality(config, config.quality, out)
    with clock.stage("report"):
        summary = _report(config, out, imported, quality, clock)
    _table(summary)
    return summary


def _prompts(config: c.RunConfig) -> str:
    """The prompts to write queries with; the package's own fit its default backbone only."""
    if config.prompts is not None:
        return config.prompts
    if config.backbone not in (None, c.SMOLLM2):
        raise ConfigError(
            f"There are no prompts for {config.backbone} yet. Train them once, from MS MARCO scores, and give them with --prompts:\n"
            "  readqg pairs --scores SCORES --queries QUERIES --documents PASSAGES --out pairs\n"
            f"  readqg train-generator --pairs pairs --backbone {config.backbone} --out prompts"
        )
    return str(sample.prompts_folder())


def _import(config: c.RunConfig, out: Place) -> dict[str, Any]:
    places = {"source": config.corpus or str(sample.corpus_folder()), "out": str(out / "corpus"), "split": config.split}
    return api.import_corpus(c.make(c.ImportConfig, config.documents.model_dump(), places))


def _retrieve(config: c.RunConfig, out: Place) -> None:
    judgments = out / "corpus" / "judgments"
    places = {
        "documents": str(out / "corpus" / "documents"),
        "queries": str(out / "corpus" / "queries"),
        "out": str(out / "bm25"),
        "max_queries": config.max_queries,
        "judgments": str(judgments) if judgments.is_dir() else None,
    }
    api.retrieve(c.make(c.RetrieveConfig, config.retrieve.model_dump(), places))


def _generate(config: c.RunConfig, out: Place, prompts: str) -> None:
    places = {"out": str(out / "queries"), "prompts": prompts, "backbone": config.backbone, "max_documents": config.max_documents}
    api.generate(_stage(c.GenerateConfig, config, config.generate, out, places))


def _train(config: c.RunConfig, out: Place) -> None:
    places = {
        "queries": str(out / "queries"),
        "out": str(out / "reranker"),
        "start": config.start,
        "train": config.train.model_dump(),
    }
    api.train_reranker(_stage(c.TrainRerankerConfig, config, config.reranker, out, places))


def _rank(config: c.RunConfig, out: Place, name: str, model: str) -> None:
    places = {"run": str(out / "bm25"), "queries": str(out / "corpus" / "queries"), "out": str(out / name), "model": model}
    api.rank(_stage(c.RankConfig, config, config.rank, out, places))


def _fuse(config: c.RunConfig, out: Place) -> None:
    for name in ("start", "tuned"):
        places = {"run": str(out / name), "first": str(out / "bm25"), "out": str(out / f"{name}-fused")}
        api.fuse(c.make(c.FuseConfig, config.fusion.model_dump(), places))


def _quality(config: c.RunConfig, settings: c.QualitySettings, out: Place) -> dict[str, Any]:
    places = {"queries": str(out / "queries"), "out": str(out / "quality"), "start": config.start}
    return api.quality(_stage(c.QualityConfig, config, settings, out, places))


def _stage(cls: type[_C], config: c.RunConfig, settings: c.Settings, out: Place, places: dict[str, Any]) -> _C:
    """The config of a stage over the imported documents: its settings in the run's config, where it runs, and its places."""
    shared = {"compute": config.compute.model_dump(), "documents": str(out / "corpus" / "documents")}
    return c.make(cls, settings.model_dump(), shared, places)


def _report(
    config: c.RunConfig, out: Place, imported: dict[str, Any], quality: dict[str, Any] | None, clock: _Clock
) -> dict[str, Any]:
    from readqg.evaluation import report

    summary = {
        "out": str(out),
        "sample": config.corpus is None,
        "corpus": imported,
        "seconds": clock.seconds,
        "cut": _cuts(config),
        "guard": json.loads((out / "reranker" / "guard.json").read_text()),
        "evaluation": report.evaluation(out, MEASURES),
        "quality": quality,
        "config": config.model_dump(mode="json"),
    }
    summary["use"] = str(out / "reranker") if summary["guard"]["use"] == "tuned" else config.start
    summary["report"] = str(out / "report.html")
    write_whole(out / "summary.json", json.dumps(summary, indent=1, default=str))
    write_whole(out / "report.html", report.html(out, summary))
    return summary


def _cuts(config: c.RunConfig) -> list[str]:
    """What was left out, in words, for every table."""
    cuts = []
    if config.max_documents is not None:
        cuts.append(f"queries written for at most {config.max_documents} documents, drawn by a stable hash")
    if config.max_queries is not None:
        cuts.append(f"at most {config.max_queries} judged queries, drawn by a stable hash")
    if config.retrieve.top_k != 100:
        cuts.append(f"BM25's top {config.retrieve.top_k} re-ranked instead of 100")
    if config.corpus is None:
        cuts.append("a demonstration, too small to conclude from")
    return cuts


class _Clock:
    """Seconds a stage, summed over interrupted runs."""

    def __init__(self, path: Place) -> None:
        self.path = path
        with explained(f"making {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        self.seconds: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began, before = time.monotonic(), self.seconds.get(name, 0.0)
        log.info("— %s", name)
        try:
            yield
        finally:
            self.seconds[name] = round(before + time.monotonic() - began, 1)
            write_whole(self.path, json.dumps(self.seconds))


def _table(summary: dict[str, Any]) -> None:
    console = Console(stderr=True)
    evaluation = summary["evaluation"]
    if evaluation:
        table = Table(title="nDCG@10 and more, × 100")
        table.add_column("ranking")
        for measure in MEASURES:
            table.add_column(measure, justify="right")
        for name, values in evaluation["runs"].items():
            table.add_row(name, *(f"{100 * values[m]:.1f}" for m in MEASURES))
        console.print(table)
    for line in summary["cut"]:
        console.print(f"  cut: {line}", markup=False, highlight=False)
    console.print(f"  guard: {summary['guard']['reason']}", markup=False, highlight=False)
    console.print(f"  use:   {summary['use']}", markup=False, highlight=False, style="bold")
    spent = ", ".join(f"{name} {duration(seconds)}" for name, seconds in summary["seconds"].items())
    console.print(f"  time:  {spent}\n  report: {summary['report']}", markup=False, highlight=False)
