"""What the training log says: loss, scores, and the held-out documents step by step."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from readqg.evaluation.charts import thinned
from readqg.evaluation.significance import bootstrap_interval
from readqg.places import Place
from readqg.reranker.selection import LOG_FILE

_MOST_POINTS, _MOST_CHECKS = 300, 24
_SMOOTHED_SHARE = 0.05
_RESAMPLES = 1_000
_SCORES = {"own_score": "a query and its document", "hardest_score": "and the hardest other", "negative_score": "and its negative query"}


@dataclass(frozen=True)
class Curve:
    """`ys` smoothed over a window of steps, `raw` as logged."""

    name: str
    steps: list[float]
    ys: list[float]
    raw: list[float]


@dataclass(frozen=True)
class Check:
    """Held-out nDCG@10 at a step, and its mean difference to the start's over documents with a 95 % interval."""

    step: int
    score: float
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Learning:
    """`losses`: the loss and its parts; `scores`: mean logits of the pairs that are trained on; `checks`: the start first;
    `chosen`: the step whose weights were kept; `documents`: doc_id -> held-out nDCG@10 (before, with these weights);
    `logits`: what the calibration of held-out pairs needs, (before, after)."""

    steps: int
    losses: list[Curve]
    scores: list[Curve]
    checks: list[Check]
    chosen: int
    documents: dict[str, tuple[float, float]]
    logits: tuple[Mapping[str, Sequence[int]], Mapping[str, Sequence[int]]]


def learning(model: Place) -> Learning:
    """From `training_log.jsonl` in a re-ranker's folder."""
    lines = [json.loads(line) for line in (model / LOG_FILE).read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    checks = [(line["step"], line["validation"]) for line in lines if "ndcg" in line.get("validation", {})]
    before = checks[0][1] if checks else {"ndcg": {}}
    # Of equal ones the last, as the training loop keeps them.
    chosen, after = max(reversed(checks[1:]), key=lambda check: check[1]["score"]) if checks[1:] else (0, before)
    return Learning(
        steps=steps[-1]["step"] if steps else 0,
        losses=_curves(steps, {"loss": "loss", "bce": "Eq. 5 (documents)", "mr": "Eq. 6 (queries)", "graded": "order of r"}),
        scores=_curves(steps, _SCORES),
        checks=[_check(step, before["ndcg"], found["ndcg"]) for step, found in (checks[i] for i in _kept(checks, chosen))],
        chosen=chosen,
        documents={doc_id: (value, after["ndcg"][doc_id]) for doc_id, value in before["ndcg"].items() if doc_id in after["ndcg"]},
        logits=(before.get("logits", {}), after.get("logits", {})),
    )


def _kept(checks: Sequence[tuple[int, Any]], chosen: int) -> list[int]:
    """Those that are drawn: evenly spaced, and the chosen one."""
    return sorted({*thinned(len(checks), _MOST_CHECKS), *(i for i, (step, _) in enumerate(checks) if step == chosen)})


def _check(step: int, before: Mapping[str, float], now: Mapping[str, float]) -> Check:
    differences = np.array([now[doc_id] - before[doc_id] for doc_id in before])
    interval = bootstrap_interval(differences, _RESAMPLES)
    return Check(step, float(np.mean(list(now.values()))), float(differences.mean()), *interval)


def _curves(lines: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> list[Curve]:
    found = []
    for key, name in names.items():
        with_it = [line for line in lines if key in line and np.isfinite(line[key])]
        if not with_it:
            continue
        values = np.array([line[key] for line in with_it], dtype=np.float64)
        at = thinned(len(values), _MOST_POINTS)
        smooth = _smoothed(values)
        found.append(Curve(name, [with_it[i]["step"] for i in at], smooth[at].tolist(), values[at].tolist()))
    return found


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of a window around each value, narrower at the ends."""
    half = round(_SMOOTHED_SHARE * len(values))
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    mean: np.ndarray = (total[high] - total[low]) / (high - low)
    return mean
