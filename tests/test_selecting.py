"""Samples that look like real queries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readqg import api
from readqg.config import RunConfig, SelectConfig
from readqg.errors import InputError
from readqg.selecting import FORMS, distance, draw_probabilities, form
from readqg.shards import open_input
from tests.reranker.corpus import query_row, write_queries


def test_a_form_is_length_and_whether_it_asks():
    assert form("what is lift") == form("how much drag") == form("lift and drag?") != form("lift of wings")
    assert form("lift") != form("lift drag") and form(" ".join(["word"] * 30)) == form(" ".join(["word"] * 99))
    assert {form(" ".join(["word"] * n) + end) for n in range(60) for end in ("", "?")} <= set(range(FORMS))


GROUPS = st.lists(st.lists(st.tuples(st.integers(0, 4), st.floats(0.2, 1)), min_size=1, max_size=4), min_size=1, max_size=12)


@settings(deadline=None)
@given(GROUPS)
def test_whatever_distribution_some_draw_has_is_met(groups):
    forms = np.array([form for group in groups for form, _ in group])
    of = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    some = np.array([share / sum(s for _, s in group) for group in groups for _, share in group])
    target = np.bincount(forms, some, 5) / len(groups)
    found = draw_probabilities(forms, of, target)
    assert np.bincount(of, found) == pytest.approx(np.ones(len(groups)))
    assert distance(np.bincount(forms, found, 5) / len(groups), target) < 0.02
    for group in range(len(groups)):
        alike = {form: found[(of == group) & (forms == form)] for form in set(forms[of == group])}
        assert all(np.allclose(p, p[0]) for p in alike.values()), "samples of one form are drawn alike"


def test_where_the_samples_allow_the_target_is_met():
    forms, groups = np.tile([0, 1, 2], 50), np.repeat(np.arange(50), 3)
    drawn = np.bincount(forms, draw_probabilities(forms, groups, np.array([0.6, 0.3, 0.1])), 3) / 50
    assert drawn == pytest.approx([0.6, 0.3, 0.1], abs=1e-6)


def written(tmp_path, documents=200):
    rows = []
    for i in range(documents):
        for r in (1.0, 0.0):
            rows += [query_row(f"d{i}", r, f"what is the wing number {i} of the flow", 0), query_row(f"d{i}", r, f"wing {i}", 1),
                     query_row(f"d{i}", r, f"wing flow of {i}", 2)]
    rows += [query_row("bad", 1.0, None, 0, error="NaN"), query_row("bad", 1.0, None, 1, error="NaN"),
             query_row("half", 1.0, None, 0, error="NaN"), query_row("half", 1.0, "a long one that nobody would ask here", 1)]
    return write_queries(tmp_path / "queries", rows)


def test_one_query_stays_of_each_and_together_they_are_like_the_real_ones(tmp_path):
    (tmp_path / "real.txt").write_text("heat flow\n" * 70 + "\n" + "boundary layer of wings\n" * 30)
    config = SelectConfig(queries=str(written(tmp_path)), like=str(tmp_path / "real.txt"), out=str(tmp_path / "out"), shard_rows=100)
    summary = api.select(config)
    rows = open_input(tmp_path / "out").read().to_pylist()
    keys = [(row["doc_id"], row["relevance"]) for row in rows]
    assert len(keys) == len(set(keys)) == 402
    for relevance in (1.0, 0.0):
        words = [len(row["query"].split()) for row in rows if row["relevance"] == relevance and row["doc_id"].startswith("d")]
        assert words.count(2) / len(words) == pytest.approx(0.7, abs=0.08) and 8 not in words
    last = {row["doc_id"]: row for row in rows}
    assert last["bad"]["error"] == "NaN" and last["half"]["sample"] == 1
    assert summary["distance"]["1"]["after"] < 0.1 < 0.3 < summary["distance"]["1"]["before"]
    again = api.select(config.model_copy(update={"out": str(tmp_path / "again")}))
    assert again["fingerprint"] == summary["fingerprint"]
    other = api.select(config.model_copy(update={"out": str(tmp_path / "other"), "seed": 1}))
    assert other["fingerprint"] != summary["fingerprint"]


def test_a_file_without_queries_is_refused(tmp_path):
    queries = str(written(tmp_path, 2))
    (tmp_path / "real.txt").write_text("\n \n")
    for like, said in (("real.txt", "holds no queries"), ("absent.txt", "cannot be read")):
        with pytest.raises(InputError, match=said):
            api.select(SelectConfig(queries=queries, like=str(tmp_path / like), out=str(tmp_path / "out")))


def test_with_one_sample_there_is_nothing_to_choose_from():
    with pytest.raises(ValueError, match="chooses among the samples"):
        RunConfig(queries_like="real.txt")


def test_a_placebo_of_the_same_document_needs_two_samples_that_stay():
    placebo = {"negative": "last_positive"}
    for changes in ({}, {"generate": {"samples": 2}, "queries_like": "real.txt"}):
        with pytest.raises(ValueError, match="last_positive needs two samples"):
            RunConfig(reranker=placebo, **changes)
    RunConfig(reranker=placebo, generate={"samples": 2})


def test_distance_is_total_variation():
    assert distance(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 1.0
    assert distance(np.array([0.5, 0.5]), np.array([0.4, 0.6])) == pytest.approx(0.1)
