"""The paired randomisation test and the bootstrap interval."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readqg.errors import InputError
from readqg.evaluation.significance import bootstrap_interval, compare, paired_randomisation

VALUES = st.lists(st.tuples(st.sampled_from([0, 0.25, 0.5, 1]), st.sampled_from([0, 0.25, 0.5, 1])), min_size=2, max_size=8)


@settings(deadline=None, max_examples=40)
@given(VALUES)
def test_few_queries_give_the_exact_p_over_all_swaps(pairs):
    first, second = np.array(pairs, float).T
    differences = first - second
    means = [abs((differences * signs).sum()) for signs in itertools.product((1, -1), repeat=len(pairs))]
    expected = np.mean([mean >= abs(differences.sum()) - 1e-9 for mean in means])
    assert paired_randomisation(first, second) == pytest.approx(expected)


def test_the_test_is_two_sided_and_the_seed_decides_it():
    rng = np.random.default_rng(1)
    first = rng.random(60)
    second = first + rng.normal(0.05, 0.2, 60)
    p = paired_randomisation(first, second, permutations=2000, seed=3)
    assert paired_randomisation(first, second, permutations=2000, seed=3) == p
    assert paired_randomisation(second, first, permutations=2000, seed=3) == p
    assert paired_randomisation(first, second, permutations=2000, seed=4) != p
    assert paired_randomisation(first, second, permutations=2000, seed=4) == pytest.approx(p, abs=0.03)


def test_a_steady_difference_is_significant_and_p_is_never_0():
    first = np.linspace(0, 1, 200)
    assert paired_randomisation(first + 0.1, first, permutations=500) == pytest.approx(2 / 501)


def test_equal_runs_have_p_1():
    assert paired_randomisation(np.ones(50), np.ones(50)) == 1
    assert paired_randomisation(np.ones(1), np.zeros(1)) == 1


def test_p_is_uniform_where_there_is_no_difference():
    rng = np.random.default_rng(0)
    ps = [paired_randomisation(rng.random(30), rng.random(30), permutations=400) for _ in range(200)]
    assert np.mean(np.array(ps) <= 0.1) == pytest.approx(0.1, abs=0.05)
    assert np.mean(ps) == pytest.approx(0.5, abs=0.06)


def test_the_interval_is_the_normal_ones_for_many_queries():
    values = np.random.default_rng(0).normal(0.1, 0.5, 400)
    error = values.std(ddof=1) / 20
    expected = (values.mean() - 1.96 * error, values.mean() + 1.96 * error)
    assert bootstrap_interval(values) == pytest.approx(expected, abs=0.1 * error)
    assert bootstrap_interval(values, seed=5) == bootstrap_interval(values, seed=5)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_interval(rng.normal(0.3, 1, 50), resamples=300) for _ in range(200)]
    assert np.mean([low <= 0.3 <= high for low, high in intervals]) == pytest.approx(0.94, abs=0.05)


def test_one_query_gives_a_point():
    assert bootstrap_interval(np.array([0.25])) == (0.25, 0.25)


def test_compare_pairs_by_query_whatever_their_order():
    first, second = {"a": 1.0, "b": 0.5, "c": 0.2}, {"c": 0.2, "b": 0.75, "a": 0.0}
    found = compare(first, second)
    assert (found.mean, found.queries, found.better, found.worse, found.p) == (pytest.approx(0.25), 3, 1, 1, 1.0)
    assert found.low <= found.mean <= found.high


@pytest.mark.parametrize(("first", "second"), [({}, {}), ({"a": 1.0}, {"b": 1.0}), ({"a": 1.0}, {"a": 1.0, "b": 1.0})])
def test_unpaired_queries_are_refused(first, second):
    with pytest.raises(InputError, match="same queries"):
        compare(first, second)
