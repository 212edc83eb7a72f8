"""Statistics over collections."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from readqg.experiments.comparing import compare, holm


def values(differences, base=0.5):
    return {0: {f"q{i}": base + d for i, d in enumerate(differences)}}


def test_collections_weigh_the_same_whatever_their_number_of_queries():
    own = {"small": values([0.2] * 4), "large": values([0.0] * 400)}
    other = {"small": values([0.0] * 4), "large": values([0.0] * 400)}
    assert compare(own, other).mean == pytest.approx(0.1)


def test_seeds_are_averaged_before_queries_are_drawn():
    own = {"a": {0: {"q": 1.0, "p": 0.0}, 1: {"q": 0.0, "p": 1.0}}}
    found = compare(own, {"a": {0: {"q": 0.5, "p": 0.5}}})
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)


def test_a_true_difference_is_found_and_none_is_not():
    rng = np.random.default_rng(1)
    noise = {name: rng.normal(0, 0.1, 200) for name in "ab"}
    better = compare({k: values(v + 0.05) for k, v in noise.items()}, {k: values(np.zeros(200)) for k in noise})
    assert better.low > 0 and better.p < 0.001
    ps = [compare({"a": values(rng.normal(0, 0.1, 30))}, {"a": values(np.zeros(30))}, resamples=500, seed=i).p for i in range(200)]
    assert 0.01 < np.mean([p < 0.05 for p in ps]) < 0.1


def test_other_queries_on_the_other_side_are_refused():
    with pytest.raises(ValueError, match="1 queries are on one side only"):
        compare({"a": values([0.1, 0.2])}, {"a": values([0.1])})


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_is_never_below_the_raw_value(p_values):
    adjusted = holm(p_values)
    assert min(adjusted) == pytest.approx(min(1.0, len(p_values) * min(p_values)))
    assert all(raw <= new <= 1.0 for raw, new in zip(p_values, adjusted, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)
