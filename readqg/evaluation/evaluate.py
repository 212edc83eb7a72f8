"""`readqg evaluate`: a run against judgments, and against a second run."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from readqg.config import EvaluateConfig
from readqg.corpus import read_judgments
from readqg.errors import InputError
from readqg.evaluation.metrics import Qrels, evaluate, per_query
from readqg.evaluation.significance import compare
from readqg.runs import Run, read_queries_beside, read_run

log = logging.getLogger("readqg")


def evaluate_command(config: EvaluateConfig) -> dict[str, Any]:
    """Measures of `config.run` over the judged queries, as values that JSON can hold:

    `run`, `qrels`; `judged` queries, and `queries` that are measured: all of them, or, where a run's folder says which it was
    asked, those; `unanswered` of them without a result (they count 0); `unjudged` queries of the run (left out); `measures`
    {name: mean}. With a second run: `against`, the same of it, and `differences` {name: {mean, p, low, high, queries, better,
    worse}} of the first run minus the second.

    Raises `InputError` where a file cannot be read or a run and the judgments share no query."""
    judgments = read_judgments(config.qrels)
    paths = [config.run] if config.against is None else [config.run, config.against]
    qrels = _asked(judgments, paths)
    runs = [read_run(path) for path in paths]
    first, *second = (_measured(qrels, run, path, config) for run, path in zip(runs, paths, strict=True))
    summary = {"qrels": config.qrels, "judged": len(judgments), "queries": len(qrels), **first}
    if second:
        values = [per_query(qrels, run, config.measures) for run in runs]
        summary["against"] = second[0]
        summary["differences"] = {
            name: asdict(compare(values[0][name], values[1][name], config.permutations, config.seed)) for name in config.measures
        }
    return summary


def _asked(judgments: dict[str, dict[str, int]], paths: list[str]) -> dict[str, dict[str, int]]:
    """The judgments of the queries that every run was asked, as far as its folder says. Raises `InputError` where two share none."""
    qrels = judgments
    for asked in filter(None, map(read_queries_beside, paths)):
        qrels = {query_id: qrels[query_id] for query_id in asked if query_id in qrels}
    if not qrels and len(paths) > 1:
        raise InputError(f"{' and '.join(paths)}: there is no judged query that both were asked, so they cannot be compared. Rank the same "
                         "queries with both.")
    return qrels or judgments


def _measured(qrels: Qrels, run: Run, path: str, config: EvaluateConfig) -> dict[str, Any]:
    answered = sum(query_id in run for query_id in qrels)
    if not answered:
        raise InputError(f"{path} and {config.qrels} share no query (one has {next(iter(run), 'none')!r}, the other "
                         f"{next(iter(qrels), 'none')!r}): do they belong to the same collection?")
    unanswered = len(qrels) - answered
    if unanswered:
        log.warning("%s has no result for %d of %d judged queries; they count 0. If it holds a subset of the queries on purpose, "
                    "give judgments of that subset.", path, unanswered, len(qrels))
    return {
        "run": path, "unanswered": unanswered, "unjudged": len(run) - answered,
        "measures": evaluate(qrels, run, config.measures),
    }
