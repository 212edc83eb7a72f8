"""Are the scores probabilities? Reliability of sigmoid(logit) before and after training.

Against judgments where there are some (candidates that nobody judged count as not relevant), else against held-out synthetic labels (the
document that a query was written for is relevant, BM25's other candidates are not). Training looks at other pairs than either, so a
model is not expected to be calibrated; what counts is by how much, for whoever wants to cut a ranking at a score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import binomtest
from sklearn.isotonic import IsotonicRegression

from readqg import runs
from readqg.evaluation.report.measured import asked_judgments
from readqg.places import Place
from readqg.shards import stable_hash

_BINS = 10
_FEWEST = 10
_MOST_QUERIES = 2_000


@dataclass(frozen=True)
class Bin:
    """Pairs of like probability: its mean, the share that is relevant with a 95 % Wilson interval, how many."""

    predicted: float
    observed: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Reliability:
    """One model. The Brier score is miscalibration - discrimination + uncertainty (CORP: Dimitriadis, Gneiting and Jordan, PNAS 2021):
    what the best monotone map of the scores, `isotonic`, would take off; what knowing the scores is worth; what the share of
    relevant pairs leaves open."""

    name: str
    bins: list[Bin]
    isotonic: list[tuple[float, float]]
    brier: float
    miscalibration: float
    discrimination: float
    mean_predicted: float


@dataclass(frozen=True)
class Calibration:
    """`labels`: in words, what the scores are held against. `models` is empty where either kind of pair is too rare to say."""

    labels: str
    pairs: int
    relevant: int
    models: list[Reliability]


Weighted = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(logits, labels 0 or 1, weights), each (pairs,)."""


def against_judgments(out: Place) -> Calibration | None:
    """Of the candidates that were re-ranked for judged queries; None where there are none."""
    judgments = asked_judgments(out)
    queries = sorted(judgments, key=stable_hash)[:_MOST_QUERIES]
    if not queries:
        return None
    found = {}
    for name in ("start", "tuned"):
        run = runs.read_run(out / name)
        pairs = [(score, judgments[q].get(doc_id, 0) > 0) for q in queries for doc_id, score in run.get(q, {}).items()]
        scores, labels = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
        found[name] = scores, labels, np.ones(len(scores))
    return _calibration(f"judgments of {len(queries)} queries; candidates that nobody judged count as not relevant", found)


def against_held_out(before: Mapping[str, Sequence[int]], after: Mapping[str, Sequence[int]], documents: int) -> Calibration | None:
    """Of held-out pairs as the training log has them: logit -> (pairs of a query and its own document, pairs with others). None where
    the log has none."""
    if not before or not after:
        return None
    labels = f"synthetic labels of {documents} held-out documents: a query's own document against BM25's other candidates for it"
    return _calibration(labels, {"start": _counted(before), "tuned": _counted(after)})


def _counted(logits: Mapping[str, Sequence[int]]) -> Weighted:
    at = np.array([float(logit) for logit in logits])
    own, others = np.array(list(logits.values()), dtype=np.float64).T
    return np.tile(at, 2), np.repeat([1.0, 0.0], len(at)), np.concatenate([own, others])


def _calibration(labels: str, found: Mapping[str, Weighted]) -> Calibration:
    _, of_start, weights = found["start"]
    pairs, relevant = round(weights.sum()), round((weights * of_start).sum())
    rare = min(relevant, pairs - relevant) < _FEWEST
    return Calibration(labels, pairs, relevant, [] if rare else [reliability(name, *values) for name, values in found.items()])


def reliability(name: str, logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Reliability:
    """Reliability of sigmoid(logits) as probabilities of `labels` (0 or 1), each pair counting `weights` times; all (pairs,)."""
    kept = weights > 0
    predicted, labels, weights = expit(logits[kept]), labels[kept], weights[kept]
    fit = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(predicted, labels, sample_weight=weights)
    mean = lambda values: float(np.average(values, weights=weights))  # noqa: E731
    brier, recalibrated = mean((predicted - labels) ** 2), mean((fit.predict(predicted) - labels) ** 2)
    base = mean(labels)
    curve = list(zip(fit.X_thresholds_.tolist(), fit.y_thresholds_.tolist(), strict=True))
    return Reliability(name, _bins(predicted, labels, weights), curve, brier, brier - recalibrated,
                       base * (1 - base) - recalibrated, mean(predicted))


def _bins(predicted: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> list[Bin]:
    """Of equally many pairs, as far as equal predictions stay together."""
    order = np.argsort(predicted, kind="stable")
    place = np.cumsum(weights[order]) - weights[order] / 2
    _, value = np.unique(predicted[order], return_inverse=True)
    first = np.minimum((place * _BINS / weights.sum()).astype(int), _BINS - 1)
    numbers = first[np.unique(value, return_index=True)[1]][value]
    found = []
    for number in np.unique(numbers):
        rows = order[numbers == number]
        count, positive = round(weights[rows].sum()), round((weights[rows] * labels[rows]).sum())
        interval = binomtest(positive, count).proportion_ci(method="wilson")
        found.append(Bin(float(np.average(predicted[rows], weights=weights[rows])), positive / count, interval.low, interval.high, count))
    return found
