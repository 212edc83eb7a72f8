"""Which queries become positives and negatives: by hand for each rule, and as properties for any scores."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readqg.labeling.rules import AUTHORS_STORED_A_SIDE, choose

RULES = ["paper", "authors", "spread"]


def frame(passages):
    """{doc_id: {query_id: score}} as rows."""
    rows = [(d, q, s) for d, scores in passages.items() for q, s in scores.items()]
    return pl.DataFrame(rows, schema={"doc_id": pl.String, "query_id": pl.String, "score": pl.Float32}, orient="row")


def chosen_of(passages, rule, m):
    """({doc_id: (positives, negatives)} with each side as [(query_id, score, relevance)], dropped by reason, at least one)."""
    chosen, dropped = choose(frame(passages), rule, m)
    kept = {}
    for doc_id, query_id, score, relevance, positive in chosen.iter_rows():
        kept.setdefault(doc_id, ([], []))[not positive].append((query_id, score, relevance))
    return kept, {reason: count for reason, count in dropped.items() if count}


# Scores 6 to -4 in one passage: min -4, max 6, so r = (s + 4) / 10.
PASSAGE = {"a": 6.0, "b": 3.5, "c": 1.0, "d": 0.0, "e": -1.0, "f": -3.0, "g": -4.0}


def test_paper_takes_the_highest_positives_and_the_lowest_negatives():
    kept, dropped = chosen_of({"p": PASSAGE}, "paper", m=2)
    positives, negatives = kept["p"]
    assert positives == [("a", 6.0, 1.0), ("b", 3.5, 0.75)]
    assert negatives == [("g", -4.0, 0.0), ("f", -3.0, pytest.approx(0.1))]
    assert dropped == {}


def test_authors_take_the_highest_negatives_so_that_r_0_is_lost():
    scores = {"x": 5.0, "y": 1.0} | {f"n{i:02d}": float(-i) for i in range(12)}
    positives, negatives = chosen_of({"p": scores}, "authors", m=4)[0]["p"]
    assert [q for q, _, _ in positives] == ["x", "y"]
    assert [q for q, _, _ in negatives] == [f"n{i:02d}" for i in range(9, -1, -1)]
    assert min(r for _, _, r in negatives) == pytest.approx(2 / 16)


def test_spread_takes_equal_quantiles_with_signs_as_they_fall():
    # 7 queries, 2m = 4: places 0, 2, 4, 6 of a, b, c, d, e, f, g.
    positives, negatives = chosen_of({"p": PASSAGE}, "spread", m=2)[0]["p"]
    assert [q for q, _, _ in positives] == ["a", "c"]
    assert [q for q, _, _ in negatives] == ["g", "e"]


def test_a_score_of_0_is_negative():
    kept, _ = chosen_of({"p": {"a": 1.0, "b": 0.0}}, "paper", m=1)
    assert [q for q, _, _ in kept["p"][1]] == ["b"]


def test_relevance_is_rescaled_over_all_scores_before_any_cut():
    # With m = 1 the query of score 2 is cut, yet the third of the scale from -2 to 10 is where it lies.
    positives, negatives = chosen_of({"p": {"a": 10.0, "b": 2.0, "c": -2.0}}, "spread", m=1)[0]["p"]
    assert (positives, negatives) == ([("a", 10.0, 1.0)], [("c", -2.0, 0.0)])
    positives, _ = chosen_of({"p": {"a": 10.0, "b": 2.0, "c": -2.0, "d": -2.0}}, "paper", m=2)[0]["p"]
    assert positives[1] == ("b", 2.0, pytest.approx(1 / 3))


def test_equal_scores_stand_in_the_order_of_query_id():
    scores = {"z": 1.0, "a": 1.0, "m": 1.0, "y": -1.0, "b": -1.0, "n": -1.0}
    positives, negatives = chosen_of({"p": scores}, "paper", m=2)[0]["p"]
    assert [q for q, _, _ in positives] == ["a", "m"]
    assert [q for q, _, _ in negatives] == ["b", "n"]


@pytest.mark.parametrize("rule", RULES)
def test_thousands_of_equal_scores_are_in_order_too(rule):
    ids = [f"{i:05d}" for i in range(6000)]
    scores = {q: 1.0 if i % 2 else -1.0 for i, q in enumerate(ids)}
    positives, negatives = chosen_of({f"p{i}": dict(reversed(scores.items())) for i in range(4)}, rule, m=4)[0]["p3"]
    if rule == "spread":  # places 0, 857, 1714 and 2571 of 3000, and as far from the other end
        assert [q for q, _, _ in positives] == [ids[1::2][p] for p in (0, 857, 1714, 2571)]
        return
    count = 4 if rule == "paper" else AUTHORS_STORED_A_SIDE
    assert [q for q, _, _ in positives] == ids[1::2][:count]
    assert [q for q, _, _ in negatives] == ids[::2][:count]


def test_passages_are_dropped_for_the_first_reason_that_fits():
    passages = {
        "few": {"a": 1.0, "b": -1.0, "c": -2.0},
        "equal": dict.fromkeys("abcd", -3.0),
        "no positive": {"a": 0.0, "b": -1.0, "c": -2.0, "d": -3.0},
        "no negative": {"a": 4.0, "b": 1.0, "c": 2.0, "d": 3.0},
        "good": {"a": 4.0, "b": -1.0, "c": -2.0, "d": -3.0},
    }
    reasons = {"too_few_queries": 1, "equal_scores": 1, "too_few_positives": 1, "too_few_negatives": 1}
    for rule in ("paper", "spread"):
        kept, dropped = chosen_of(passages, rule, m=2)
        assert (set(kept), dropped) == ({"good"}, reasons)


def test_authors_keep_two_and_two_whatever_m_is():
    passages = {"2+2": {"a": 1.0, "b": 2.0, "c": -1.0, "d": -2.0}, "1+4": {"a": 1.0} | {q: -1.0 for q in "bcde"},
                "4+1": {"a": -1.0} | {q: 1.0 for q in "bcde"}, "2+1": {"a": 1.0, "b": 2.0, "c": -1.0}}
    kept, dropped = chosen_of(passages, "authors", m=4)
    assert set(kept) == {"2+2"}
    assert dropped == {"too_few_queries": 1, "too_few_positives": 1, "too_few_negatives": 1}


def test_scores_a_hair_apart_still_give_relevance_from_0_to_1():
    low = np.float32(1e-30)
    kept, _ = chosen_of({"p": {"a": float(np.nextafter(low, np.float32(1))), "b": -float(low)}}, "paper", m=1)
    assert (kept["p"][0][0][2], kept["p"][1][0][2]) == (1.0, 0.0)


# Few distinct values, so that ties, zeros and equal passages are common.
any_float = st.floats(width=32, allow_nan=False, allow_infinity=False)
scores = st.one_of(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 2.0]), st.floats(-12, 12, width=32), any_float)
passages = st.dictionaries(st.sampled_from(["p", "q", "r", "s"]),
                           st.dictionaries(st.integers(0, 40).map(str), scores, min_size=1, max_size=30), min_size=1)


@settings(deadline=None)
@given(passages, st.sampled_from(RULES), st.integers(1, 5))
def test_every_rule_holds_for_any_scores(given_passages, rule, m):
    kept, dropped = chosen_of(given_passages, rule, m)
    assert len(kept) + sum(dropped.values()) == len(given_passages)
    for doc_id, queries in given_passages.items():
        values = list(queries.values())
        side = {True: [s for s in values if s > 0], False: [s for s in values if s <= 0]}
        enough = min(map(len, side.values())) >= 2 if rule == "authors" else len(values) >= 2 * m and all(side.values())
        assert (doc_id in kept) == enough
        if not enough:
            continue
        for positive, stored in zip((True, False), kept[doc_id], strict=True):
            assert all((s > 0) == positive and queries[q] == s for q, s, _ in stored)
            assert all(0 <= r <= 1 for _, _, r in stored)
            assert all(r == pytest.approx((s - min(values)) / (max(values) - min(values)), abs=1e-6) for _, s, r in stored)
            taken, available = [s for _, s, _ in stored], sorted(side[positive], reverse=positive)
            assert taken == sorted(taken, reverse=positive), "the extreme comes first"
            if rule == "paper":
                assert taken == available[:m]
            elif rule == "authors":
                assert sorted(taken, reverse=True) == sorted(available, reverse=True)[:AUTHORS_STORED_A_SIDE]
        if rule == "spread":
            ranked = sorted(values)
            expected = [ranked[::-1][(2 * j * (len(values) - 1) + 2 * m - 1) // (2 * (2 * m - 1))] for j in range(2 * m)]
            assert sorted(s for stored in kept[doc_id] for _, s, _ in stored) == sorted(expected)
        if rule != "authors":
            assert kept[doc_id][0][0][2] == 1.0 and kept[doc_id][1][0][2] == 0.0, "both ends of the scale are always there"


@settings(deadline=None)
@given(passages, st.sampled_from(RULES), st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_changes_nothing(given_passages, rule, m, random):
    rows = frame(given_passages)
    shuffled = rows[random.sample(range(rows.height), rows.height)]
    chosen, dropped = choose(rows, rule, m)
    again, dropped_again = choose(shuffled, rule, m)
    assert chosen.equals(again)
    assert dropped == dropped_again
