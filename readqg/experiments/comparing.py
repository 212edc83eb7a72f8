"""Differences between two systems over several collections: queries are paired, seeds averaged, collections weigh the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Seeds = Mapping[int, Mapping[str, float]]
"""seed -> query_id -> value."""
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Comparison:
    """Mean over collections of the mean difference; its 95 % bootstrap interval, queries drawn anew within each collection; and the
    two-sided p of a paired randomisation test that turns the sign of single queries' differences."""

    mean: float
    low: float
    high: float
    p: float


def compare(own: Mapping[str, Seeds], other: Mapping[str, Seeds], resamples: int = _RESAMPLES, seed: int = 0) -> Comparison:
    """own minus other, by collection. Raises `ValueError` where a collection's queries are not the same on both sides."""
    differences = [_differences(own[name], other[name]) for name in own]
    rng = np.random.default_rng(seed)
    drawn = np.mean([d[rng.integers(len(d), size=(resamples, len(d)))].mean(axis=1) for d in differences], axis=0)
    turned = np.mean([(rng.choice([-1.0, 1.0], size=(resamples, len(d))) * d).mean(axis=1) for d in differences], axis=0)
    mean = float(np.mean([d.mean() for d in differences]))
    low, high = np.quantile(drawn, [0.025, 0.975])
    p = (1 + (np.abs(turned) >= abs(mean) - 1e-12).sum()) / (1 + resamples)
    return Comparison(mean, float(low), float(high), float(p))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (Holm, 1979): the k-th smallest of n times n - k + 1, made monotone, at most 1."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - place)))
        adjusted[index] = highest
    return adjusted


def _differences(own: Seeds, other: Seeds) -> np.ndarray:
    """(queries,) differences of the means over seeds."""
    means = [_over_seeds(side) for side in (own, other)]
    if means[0].keys() != means[1].keys():
        raise ValueError(f"{len(means[0].keys() ^ means[1].keys())} queries are on one side only")
    return np.array([means[0][query] - means[1][query] for query in means[0]])


def _over_seeds(seeds: Seeds) -> dict[str, float]:
    return {query: float(np.mean([values[query] for values in seeds.values()])) for query in next(iter(seeds.values()))}
