"""Preferences counted: interval, sign test, and how many it takes; against values worked out by hand or by whole numbers."""

from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from readqg.comparing.statistics import LEVEL, needed, power_at, preference

COUNTS = st.integers(0, 120)


def exact_p(wins_a, wins_b):
    """Twice the smaller tail of n fair coins, in whole numbers."""
    n = wins_a + wins_b
    tail = sum(comb(n, k) for k in range(min(wins_a, wins_b) + 1))
    return min(1.0, 2 * tail / 2**n)


def test_known_values():
    found = preference(2, 8)
    assert found.share == 0.8
    assert found.p == pytest.approx(112 / 1024)  # 2 (1 + 10 + 45) / 2^10
    assert (found.low, found.high) == pytest.approx((0.4439045, 0.9747893), abs=1e-6)  # Clopper and Pearson's, as R's binom.test(8, 10)
    assert preference(0, 5).p == pytest.approx(2 / 32)
    assert preference(0, 6).p == pytest.approx(2 / 64)


def test_nothing_judged_says_nothing():
    found = preference(0, 0)
    assert (found.share, found.low, found.high, found.p) == (None, 0, 1, 1)


@settings(deadline=None, max_examples=40)
@given(COUNTS, COUNTS)
def test_p_is_the_exact_one_and_sides_may_change_places(wins_a, wins_b):
    found, turned = preference(wins_a, wins_b), preference(wins_b, wins_a)
    assert found.p == pytest.approx(exact_p(wins_a, wins_b), rel=1e-9)
    assert turned.p == pytest.approx(found.p)
    assert (turned.low, turned.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(COUNTS, COUNTS)
def test_the_interval_leaves_out_one_half_just_where_the_test_says_so(wins_a, wins_b):
    found = preference(wins_a, wins_b)
    assert (found.low > 0.5 or found.high < 0.5) == (found.p < LEVEL)
    if found.share is not None:
        assert found.low <= found.share <= found.high


@pytest.mark.parametrize(("n", "share"), [(5, 0.9), (6, 0.9), (20, 0.75), (199, 0.6), (198, 0.6)])
def test_power_is_the_sum_over_outcomes_that_the_test_calls_a_difference(n, share):
    summed = sum(comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(n + 1) if exact_p(n - k, k) <= LEVEL)
    assert power_at(np.array([n]), share)[0] == pytest.approx(summed, abs=1e-12)


@pytest.mark.parametrize(
    ("share", "power", "expected"),
    [(0.6, 0.8, 199), (0.7, 0.8, 49), (0.75, 0.8, 30), (0.8, 0.8, 20), (0.9, 0.8, 12), (0.6, 0.9, 263), (0.55, 0.8, 786)],
)
def test_how_many_it_takes(share, power, expected):
    assert needed(share, power) == expected
    at, before = power_at(np.array([expected, expected - 1]), share)
    assert at >= power > before


@settings(deadline=None, max_examples=25)
@given(st.floats(0.55, 0.98), st.floats(0.3, 0.97))
def test_it_takes_no_fewer_than_the_power_says_and_about_what_the_normal_approximation_says(share, power):
    found = needed(share, power)
    assert power_at(np.array([found]), share)[0] >= power
    assert (power_at(np.arange(1, found), share) < power).all()
    approximate = ((norm.isf(LEVEL / 2) / 2 + norm.ppf(power) * sqrt(share * (1 - share))) / (share - 0.5)) ** 2
    assert found == pytest.approx(approximate, rel=0.12, abs=9)


def test_fewer_than_six_can_never_tell():
    assert all(preference(0, n).p >= LEVEL for n in range(6))
    assert preference(0, 6).p < LEVEL
    assert needed(0.99, 0.8) == 6
