"""Is one ranking better than another, or lucky? Tests on per-query differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from readqg.config import EvaluateConfig
from readqg.errors import InputError

_PERMUTATIONS: int = EvaluateConfig.model_fields["permutations"].default
_SEED: int = EvaluateConfig.model_fields["seed"].default
_LEVEL = 0.95
_BATCH_VALUES = 4_000_000


@dataclass(frozen=True)
class Difference:
    """Mean of the per-query differences, its p-value and 95 % interval."""

    mean: float
    p: float
    low: float
    high: float
    queries: int
    better: int
    """Queries on which the first is better."""
    worse: int


def compare(
    first: Mapping[str, float], second: Mapping[str, float], permutations: int = _PERMUTATIONS, seed: int = _SEED
) -> Difference:
    """First minus second, paired by query: mean, two-sided randomisation test and 95 % bootstrap interval.

    Raises `InputError` where the two do not have the same queries, or none."""
    if not first or set(first) != set(second):
        raise InputError(f"a paired test needs the same queries on both sides; here are {len(first)} and {len(second)}, "
                         f"{len(set(first) & set(second))} of them shared.")
    a, b = (np.array([values[query_id] for query_id in first]) for values in (first, second))
    low, high = bootstrap_interval(a - b, permutations, seed)
    return Difference(
        mean=float((a - b).mean()), p=paired_randomisation(a, b, permutations, seed), low=low, high=high,
        queries=len(a), better=int((a > b).sum()), worse=int((a < b).sum()),
    )


def paired_randomisation(first: np.ndarray, second: np.ndarray, permutations: int = _PERMUTATIONS, seed: int = _SEED) -> float:
    """Two-sided p of the mean difference of two runs' values (queries,), in the same order of queries, when the two change places
    at random query by query (Fisher's randomisation test; Smucker, Allan and Carterette, CIKM 2007).

    Exact where there are at most `permutations` ways to do so; else that many are drawn from `seed`, the observed one counted
    in, so p is never 0."""
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    if len(differences) < 2:
        return 1.0
    result = stats.permutation_test(
        (differences,), _mean, permutation_type="samples", alternative="two-sided", vectorized=True,
        n_resamples=permutations, batch=_batch(differences), rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def bootstrap_interval(values: np.ndarray, resamples: int = _PERMUTATIONS, seed: int = _SEED) -> tuple[float, float]:
    """95 % percentile interval of the mean of (queries,) values, queries drawn with replacement. One query: a point."""
    if len(values) < 2:
        return float(values[0]), float(values[0])
    interval = stats.bootstrap(
        (values,), _mean, confidence_level=_LEVEL, method="percentile", vectorized=True,
        n_resamples=resamples, batch=_batch(values), rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def _batch(values: np.ndarray) -> int:
    """Resamples held in memory at a time."""
    return max(_BATCH_VALUES // len(values), 1)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    return values.mean(axis=axis)
