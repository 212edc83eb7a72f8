"""`readqg run`: the stages in order for one corpus. Each is resumable, so the same command goes on where it stopped.

```
OUT/corpus/{documents,queries,judgments}   imported
OUT/rounds                                 where the number of documents is chosen: what was made for each
OUT/chosen                                 the documents to write queries for, where they are not drawn by a hash
OUT/queries                                generated, r = 1 and r = 0; or those of `queries`, written elsewhere
OUT/select, OUT/round-trip, OUT/ratio      those that are like real ones, asked back of the corpus, with their likelihood ratio,
OUT/score-queries                          with the start's score; each where the settings need it
OUT/reranker                               the tuned cross-encoder, with its guard
OUT/bm25, OUT/start, OUT/tuned             runs, where the corpus comes with queries
OUT/dense, OUT/first                       what a bi-encoder finds, and the best of it and of BM25, where `candidates` asks for them
OUT/start-fused, OUT/tuned-fused           the same with BM25's scores added
OUT/grid/NUMBER                            queries at every r for so many documents, and their scores, for the report
OUT/quality                                where asked
OUT/summary.json, OUT/report.html
```
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from readqg import config as c
from readqg import models
from readqg.clock import Clock
from readqg.engine import cluster
from readqg.engine.shared import check_can_train
from readqg.errors import InputError
from readqg.growing import Round, grow, smallest
from readqg.places import Place, place_of
from readqg.progress import duration
from readqg.shards import write_whole
from readqg.steps import Steps, prompts_of

log = logging.getLogger("readqg")

MEASURES = ("nDCG@10", "R@100", "RR@10")


def run(config: c.RunConfig) -> dict[str, Any]:
    """From documents to a re-ranker, a ranking and a report; returns what is written to OUT/summary.json."""
    if config.queries is None:
        config.reranker.check_asked(config.generate.relevances)
        prompts_of(config)
    out = place_of(config.out)
    steps = Steps(config, out / "corpus")
    clock = Clock(out / "_seconds.json")
    with clock.stage("import"):
        imported = steps.import_corpus()
    if (usable := imported["documents"]) < c.FEWEST_DOCUMENTS:
        raise InputError(f"{config.corpus} has {usable} usable documents; training needs {c.FEWEST_DOCUMENTS} or more (two in a batch, and "
                         "one held out).")
    if config.queries is None:
        _warn_of_few(config, usable)
    searched = (out / "corpus" / "queries").is_dir()
    quality = None
    weights: dict[str, float] = {}
    rounds: list[Round] = []
    with cluster.connect(config.compute):
        if not (out / "reranker" / "_SUCCESS").exists():
            check_can_train(config.out)
        if searched:
            with clock.stage("retrieve"):
                steps.retrieve(out / "bm25", steps.judgments)
        if config.until_no_gain:
            with clock.stage("grow"):
                config, rounds = grow(config, Path(config.out))
            steps = Steps(config, out / "corpus")
        with clock.stage("generate"):
            steps.write(out)
        with clock.stage("train"):
            steps.adapt(out)
        if searched:
            with clock.stage("rank"):
                weights = _rank(steps, out)
        grid = f"grid/{config.grid_documents}" if steps.has_grid else None
        if grid is not None:
            with clock.stage("grid"):
                steps.grid(out / grid, out / "reranker")
        if config.quality is not None:
            with clock.stage("quality"):
                quality = steps.quality(config.quality, out / "queries", out / "quality")
    with clock.stage("report"):
        summary = _report(config, out, imported, quality, grid, weights, rounds, clock)
    _table(summary)
    return summary


def _warn_of_few(config: c.RunConfig, documents: int) -> None:
    """Hours before the guard says so."""
    if config.until_no_gain:
        config = smallest(config, documents)
    documents = min(documents, config.max_documents or documents)
    settings, held_out = config.reranker, config.reranker.held_out(documents)
    chooses = settings.judge_by_half or settings.batches(documents) > config.train.validate_steps * config.train.accumulation
    judging = held_out // 2 or held_out if chooses else held_out
    if judging < c.FEWEST_HELD_OUT:
        half = f" (the others of {held_out} choose what is judged)" if judging < held_out else ""
        cure = "raise --max-documents" if settings.judge_by_half else (
            "have queries written for more documents, or raise --reranker.held-out-share")
        log.warning("Training will be judged by %d held-out documents%s, and fewer than %d cannot show a gain, whatever it is (p <= 0.05): "
                    "%s.", judging, half, c.FEWEST_HELD_OUT, cure)


def _rank(steps: Steps, out: Place) -> dict[str, float]:
    """Returns the weights of BM25 beside the two models."""
    first = steps.first_stage(out / "bm25", out / "dense", out / "first", steps.judgments)
    models: dict[Literal["start", "tuned"], str] = {"start": steps.config.start, "tuned": str(out / "reranker")}
    weights: dict[str, float] = {}
    for name, model in models.items():
        steps.rank(first, model, out / name)
        weights[name] = steps.fusion_weight(out / "reranker", name)
        steps.fuse(out / name, out / "bm25", out / f"{name}-fused", weights[name])
    return weights


def _report(
    config: c.RunConfig, out: Place, imported: dict[str, Any], quality: dict[str, Any] | None, grid: str | None,
    weights: dict[str, float], rounds: list[Round], clock: Clock,
) -> dict[str, Any]:
    from readqg.evaluation import report

    summary = {
        "out": str(out),
        "sample": config.corpus is None,
        "corpus": imported,
        "seconds": clock.seconds,
        "cut": _cuts(config, imported["documents"], bool(weights)),
        "guard": json.loads((out / "reranker" / "guard.json").read_text()),
        "evaluation": report.evaluation(out, MEASURES),
        "fusion_weight": weights,
        "quality": quality,
        "grid": grid,
        "rounds": [asdict(r) for r in rounds],
        "config": config.model_dump(mode="json"),
    }
    summary["use"] = str(out / "reranker") if summary["guard"]["use"] == "tuned" else config.start
    summary["use_folder"] = models.resolve(summary["use"])
    summary["report"] = str(out / "report.html")
    write_whole(out / "summary.json", json.dumps(summary, indent=1, default=str))
    write_whole(out / "report.html", report.html(out, summary))
    return summary


def _cuts(config: c.RunConfig, documents: int, searched: bool) -> list[str]:
    """What was left out, in words, for every table. `searched`: the corpus has queries, which were ranked."""
    cuts = []
    if config.max_documents is not None and config.max_documents < documents:
        how = "drawn by a stable hash" if config.sampling == "hash" else "spread over the corpus"
        cuts.append(f"queries written for at most {config.max_documents} documents, {how}")
    if config.queries is not None:
        cuts.append("queries written elsewhere")
    usual = c.RunConfig.model_construct()
    read = {"in training": ("reranker", "max_length")}
    if config.queries is None:
        read = {"to write queries": ("generate", "document_tokens"), **read}
    if searched:
        read["in ranking"] = ("rank", "max_length")
    short = [f"{value} tokens {where}" for where, (part, name) in read.items()
             if (value := getattr(getattr(config, part), name)) < getattr(getattr(usual, part), name)]
    if short:
        cuts.append(f"texts cut at {', '.join(short)}")
    if searched and config.max_queries is not None:
        cuts.append(f"at most {config.max_queries} judged queries, drawn by a stable hash")
    if searched and config.retrieve.top_k != 100:
        found_by = "BM25" if config.candidates == "bm25" else "the first stage"
        cuts.append(f"{found_by}'s top {config.retrieve.top_k} re-ranked instead of 100")
    if config.corpus is None:
        cuts.append("a demonstration, too small to conclude from")
    return cuts


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
    for found in summary["rounds"]:
        console.print(f"  {found['documents']:,} documents: held-out nDCG@10 {100 * found['score']:.1f}, gain {100 * found['gain']:+.1f} "
                      f"({100 * found['low']:+.1f} to {100 * found['high']:+.1f})", markup=False, highlight=False)
    for line in summary["cut"]:
        console.print(f"  cut: {line}", markup=False, highlight=False)
    console.print(f"  guard: {summary['guard']['reason']}", markup=False, highlight=False)
    console.print(f"  use:   {summary['use']}", markup=False, highlight=False, style="bold")
    spent = ", ".join(f"{name} {duration(seconds)}" for name, seconds in summary["seconds"].items())
    console.print(f"  time:  {spent}\n  report: {summary['report']}", markup=False, highlight=False)
