"""Scores of a re-ranker and of BM25, added up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from readqg import api
from readqg.config import FuseConfig
from readqg.fusion import fuse
from readqg.runs import read_queries_beside, read_run, write_trec

SCORES = st.dictionaries(st.sampled_from("abcdefgh"), st.floats(-20, 20), min_size=2)


def test_both_sides_are_standardised_and_weighted() -> None:
    fused = fuse({"a": 3.0, "b": 1.0}, {"a": 10.0, "b": 40.0}, 0.5)
    assert fused == pytest.approx({"a": 1.0 - 0.5, "b": -1.0 + 0.5})


def test_a_document_that_bm25_lacks_has_its_lowest_score_and_equal_scores_say_nothing() -> None:
    fused = fuse({"a": 2.0, "b": 2.0, "c": 2.0}, {"a": 5.0, "b": 1.0}, 1.0)
    assert fused["c"] == fused["b"] < fused["a"]
    assert fuse({"a": 1.0}, {}, 1.0) == {"a": 0.0}
    assert fuse({}, {"a": 1.0}, 1.0) == {}


@given(SCORES, SCORES, st.floats(0.5, 30), st.floats(-50, 50))
def test_neither_scale_nor_offset_counts(scores: dict, first: dict, factor: float, offset: float) -> None:
    if max(scores.values()) - min(scores.values()) < 1e-3:
        return
    moved = {doc: factor * score + offset for doc, score in scores.items()}
    assert fuse(moved, first, 0.5) == pytest.approx(fuse(scores, first, 0.5), abs=1e-6)


def test_weight_0_keeps_the_order(tmp_path) -> None:
    run = {"q1": {"d1": 1.0, "d2": 3.0, "d3": 2.0}, "q2": {"d9": 1.0}}
    write_trec(tmp_path / "ranked.trec", run)
    write_trec(tmp_path / "bm25.trec", {"q1": {"d1": 9.0, "d2": 1.0, "d3": 5.0}, "q2": {"d9": 2.0}})
    out = tmp_path / "fused"
    api.fuse(FuseConfig(run=str(tmp_path / "ranked.trec"), first=str(tmp_path / "bm25.trec"), out=str(out), weight=0.0))
    assert list(read_run(out)["q1"]) == ["d2", "d3", "d1"]
    assert (out / "_run.trec").exists() and read_queries_beside(out) is None
