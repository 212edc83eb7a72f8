"""Scores of a re-ranker and of BM25, added up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readqg import api
from readqg.config import FuseConfig
from readqg.errors import InputError
from readqg.fusion import best_weight, fuse, learned_weight, write_weights
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


@pytest.mark.parametrize("weight", [float("inf"), float("nan"), -0.1])
def test_a_weight_is_a_finite_number(weight) -> None:
    with pytest.raises(ValueError, match="weight"):
        FuseConfig(run="run", first="first", out="out", weight=weight)


def test_weight_0_keeps_the_order(tmp_path) -> None:
    run = {"q1": {"d1": 1.0, "d2": 3.0, "d3": 2.0}, "q2": {"d9": 1.0}}
    write_trec(tmp_path / "ranked.trec", run)
    write_trec(tmp_path / "bm25.trec", {"q1": {"d1": 9.0, "d2": 1.0, "d3": 5.0}, "q2": {"d9": 2.0}})
    out = tmp_path / "fused"
    api.fuse(FuseConfig(run=str(tmp_path / "ranked.trec"), first=str(tmp_path / "bm25.trec"), out=str(out), weight=0.0))
    assert list(read_run(out)["q1"]) == ["d2", "d3", "d1"]
    assert (out / "_run.trec").exists() and read_queries_beside(out) is None


def test_of_both_sides_documents_each_gives_its_lowest_score_to_what_it_lacks(tmp_path) -> None:
    write_trec(tmp_path / "dense.trec", {"q1": {"d1": 1.0, "d2": 3.0}})
    write_trec(tmp_path / "bm25.trec", {"q1": {"d2": 9.0, "d3": 8.0}, "q2": {"d9": 2.0}})
    config = FuseConfig(run=str(tmp_path / "dense.trec"), first=str(tmp_path / "bm25.trec"), out=str(tmp_path / "both"), weight=1.0,
                        documents="both")
    api.fuse(config)
    expected = fuse({"d1": 1.0, "d2": 3.0, "d3": 1.0}, {"d1": 8.0, "d2": 9.0, "d3": 8.0}, 1.0)
    assert read_run(tmp_path / "both")["q1"] == pytest.approx(expected, abs=1e-6) and list(read_run(tmp_path / "both")["q2"]) == ["d9"]
    api.fuse(config.model_copy(update={"out": str(tmp_path / "one"), "top_k": 1}))
    assert {query: list(found) for query, found in read_run(tmp_path / "one").items()} == {"q1": ["d2"], "q2": ["d9"]}


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.lists(st.integers(-9, 9), min_size=12, max_size=12), st.lists(st.integers(-9, 9), min_size=12, max_size=12),
                          st.integers(0, 11)), min_size=1, max_size=5))
def test_no_weight_of_the_grid_is_better_than_the_learned_one(queries) -> None:
    def ndcg(weight: float) -> float:
        total = 0.0
        for scores, first, source in queries:
            fused = fuse(dict(enumerate(map(float, scores))), dict(enumerate(map(float, first))), weight)  # type: ignore[arg-type]
            rank = sum(value >= fused[source] for value in fused.values())  # type: ignore[call-overload]
            total += 1 / np.log2(1 + rank) if rank <= 10 else 0.0
        return total

    columns = [[np.array(side, dtype=float) for side in sides] for sides in list(zip(*queries, strict=True))[:2]]
    found = best_weight(*columns, [source for _, _, source in queries])
    assert ndcg(found) == pytest.approx(max(ndcg(weight / 20) for weight in range(41)))


def test_a_side_that_knows_gets_the_weight_and_without_a_difference_the_default_stays() -> None:
    right, wrong = np.array([3.0, 1.0, 0.0]), np.array([0.0, 3.0, 1.0])
    assert best_weight([wrong], [right], [0]) > 0.5
    assert best_weight([right], [wrong], [0]) == 0.5, "already first at the default"
    assert best_weight([np.array([3.0, 2.9, 0.0])], [wrong], [0]) < 0.5
    assert best_weight([np.zeros(3)], [np.zeros(3)], [1]) == 0.5


def test_a_learned_weight_travels_with_the_model_and_its_runs(tmp_path) -> None:
    for name in ("run", "bm25"):
        (tmp_path / name).mkdir()
        write_trec(tmp_path / name / "_run.trec", {"q1": {"d1": 1.0, "d2": 3.0, "d3": 2.0}})
    values = {"run": str(tmp_path / "run" / "_run.trec"), "first": str(tmp_path / "bm25" / "_run.trec"), "weight": "learned"}
    with pytest.raises(InputError, match="holds no learned weight"):
        api.fuse(FuseConfig(**values, out=str(tmp_path / "early")))
    write_weights(tmp_path, 0.25, 0.75, 40)
    assert (learned_weight(tmp_path), learned_weight(tmp_path, "start")) == (0.25, 0.75)
    (tmp_path / "readqg.json").rename(tmp_path / "run" / "_readqg.json")
    api.fuse(FuseConfig(**values, out=str(tmp_path / "fused")))
    api.fuse(FuseConfig(**{**values, "weight": 0.25}, out=str(tmp_path / "same")))
    assert read_run(tmp_path / "fused") == read_run(tmp_path / "same")


@pytest.mark.parametrize("content", ["{", "{}", '{"fusion_weight": "x"}', '{"fusion_weight": -1}', '{"fusion_weight": NaN}', "[1]"])
def test_a_damaged_weight_is_refused(tmp_path, content) -> None:
    (tmp_path / "readqg.json").write_text(content)
    with pytest.raises(InputError, match=r"readqg.json"):
        learned_weight(tmp_path)


def test_a_weight_is_a_number_or_learned() -> None:
    with pytest.raises(ValueError, match="weight"):
        FuseConfig(run="a", first="b", out="c", weight="guessed")
