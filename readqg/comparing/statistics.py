"""How sure a count of preferences is, and how many of them it takes.

Ties are left out, as the sign test has it (Dixon and Mood, JASA 1946; Conover, "Practical Nonparametric Statistics", 3.4): they say
that the difference is small, not who is better, and are told apart. Test and interval are both exact and agree: the
Clopper-Pearson interval leaves out one half just where the two-sided sign test's p is below 5 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import stats

LEVEL = 0.05


@dataclass(frozen=True)
class Preference:
    """The share of B among queries without a tie, its exact 95 % interval, and the two-sided p of the exact sign test; None and
    (0, 1) where there are none."""

    share: float | None
    low: float
    high: float
    p: float


def preference(wins_a: int, wins_b: int) -> Preference:
    """Of so many queries at which A, and at which B, was found better."""
    decided = wins_a + wins_b
    if not decided:
        return Preference(None, 0.0, 1.0, 1.0)
    test = stats.binomtest(wins_b, decided)
    interval = test.proportion_ci(1 - LEVEL, method="exact")
    return Preference(wins_b / decided, float(interval.low), float(interval.high), float(test.pvalue))


def power_at(decided: np.ndarray, share: float) -> np.ndarray:
    """How probable it is that the exact sign test at 5 % shows a difference on (n,) counts of queries without a tie, when one side is
    better at `share` of them."""
    most = stats.binom.ppf(LEVEL / 2, decided, 0.5)  # the fewest wins whose tail reaches half the level ...
    most = most - (stats.binom.cdf(most, decided, 0.5) > LEVEL / 2)  # ... or one less, where they exceed it
    return np.asarray(stats.binom.cdf(most, decided, share) + stats.binom.sf(decided - most - 1, decided, share))


@lru_cache(maxsize=64)
def needed(share: float, power: float) -> int:
    """The fewest queries without a tie at which the exact sign test shows, with probability `power`, that one side is better at
    `share` of them. 0.6 and 0.8: 199. (The normal approximation, (z_0.975 / 2 + z_power sqrt(share (1 - share)))² / (share - 1/2)²,
    which says 194, is where the search begins: an exact test keeps a little below its 5 %.)"""
    deviation = stats.norm.isf(LEVEL / 2) / 2 + stats.norm.ppf(power) * (share * (1 - share)) ** 0.5
    approximate = (max(deviation, 0.0) / (share - 0.5)) ** 2
    start = max(1, int(0.9 * approximate) - 10)
    while True:
        counts = np.arange(start, start + 2048)
        enough = power_at(counts, share) >= power
        if enough.any():
            return int(counts[enough.argmax()])
        start += len(counts)
