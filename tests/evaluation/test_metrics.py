"""Measures by trec_eval's definitions."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readqg.errors import ConfigError, InputError
from readqg.evaluation.metrics import evaluate, per_query
from readqg.runs import ranked

MEASURES = ("nDCG@10", "R@100", "RR@10")
QRELS = {"q1": {"a": 2, "b": 1, "c": 0}, "q2": {"a": 1}, "q3": {"z": 1}}
RUN = {"q1": {"b": 3.0, "x": 2.0, "a": 1.0}, "q2": {"a": 0.5}}


def test_means_are_the_definitions_worked_by_hand_and_an_unanswered_query_counts_0():
    ndcg = (1 / math.log2(2) + 2 / math.log2(4)) / (2 / math.log2(2) + 1 / math.log2(3))
    assert evaluate(QRELS, RUN, MEASURES) == pytest.approx({"nDCG@10": (ndcg + 1 + 0) / 3, "R@100": 2 / 3, "RR@10": 2 / 3})


def test_a_query_without_judgments_is_left_out():
    assert evaluate(QRELS, {**RUN, "q9": {"a": 1.0}}, MEASURES) == evaluate(QRELS, RUN, MEASURES)


def test_an_empty_result_is_no_result():
    assert evaluate(QRELS, {**RUN, "q3": {}}, MEASURES) == evaluate(QRELS, RUN, MEASURES)


def test_no_results_at_all_measure_0():
    assert evaluate(QRELS, {}, MEASURES) == dict.fromkeys(MEASURES, 0.0)


def test_a_query_whose_judgments_are_all_0_counts_0_in_every_measure():
    qrels = {"q1": {"a": 1}, "q2": {"a": 0}}
    assert evaluate(qrels, {"q1": {"a": 1.0}, "q2": {"a": 1.0}}, MEASURES) == dict.fromkeys(MEASURES, 0.5)


def test_judgments_of_documents_that_are_nowhere_are_harmless_and_count_as_missed():
    assert evaluate({"q": {"a": 1, "gone": 1}}, {"q": {"a": 1.0}}, ["R@100"]) == {"R@100": 0.5}


@pytest.mark.parametrize("measure", ["nDCG@10", "RR@10", "RR", "P@1", "AP"])
def test_ties_go_to_the_higher_doc_id_in_every_measure(measure):
    scores = {"a": 1.0, "b": 1.0 + 1e-12}
    first, second = ({"q": {relevant: 1}} for relevant in ("b", "a"))
    assert evaluate(first, {"q": scores}, [measure])[measure] == 1
    assert evaluate(second, {"q": scores}, [measure])[measure] < 1


def test_what_counts_as_relevant_is_set_in_the_measures_name():
    assert evaluate(QRELS, RUN, ["R(rel=2)@1", "R(rel=2)@3", "RR(rel=2)@10"]) == pytest.approx(
        {"R(rel=2)@1": 0.0, "R(rel=2)@3": 1 / 3, "RR(rel=2)@10": 1 / 9})


def test_names_come_back_as_they_were_asked():
    assert list(evaluate(QRELS, RUN, ["MRR@10", "RR@10", "NDCG@10"])) == ["MRR@10", "RR@10", "NDCG@10"]
    assert per_query(QRELS, RUN, ["MRR@10", "RR@10"])["MRR@10"] == {"q1": 1.0, "q2": 1.0, "q3": 0.0}


@pytest.mark.parametrize("name", ["nDGC@10", "nDCG@ten", "", "recall@100", "__import__('os')"])
def test_unknown_measures_are_refused_by_name(name):
    with pytest.raises(ConfigError, match="is no measure"):
        evaluate(QRELS, RUN, ["nDCG@10", name])


def test_no_judgments_are_refused():
    with pytest.raises(InputError, match="no judgments"):
        evaluate({}, RUN, MEASURES)


GRADES = st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 3), min_size=1)
SCORES = st.dictionaries(st.sampled_from("abcdefgh"), st.sampled_from([-1.0, 0.0, 0.25, 0.5]))


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("123"), GRADES, min_size=1), st.dictionaries(st.sampled_from("1234"), SCORES))
def test_means_are_of_the_per_query_values_and_depend_on_the_order_alone(qrels, run):
    means, values = evaluate(qrels, run, MEASURES), per_query(qrels, run, MEASURES)
    for measure in MEASURES:
        assert list(values[measure]) == list(qrels)
        assert means[measure] == pytest.approx(sum(values[measure].values()) / len(qrels))
    reordered = {q: {d: 1e6 - place for place, (d, _) in enumerate(ranked(scores))} for q, scores in run.items()}
    assert per_query(qrels, reordered, MEASURES) == values


@pytest.mark.real
@pytest.mark.parametrize(("year", "ndcg"), [("dl19", 0.698), ("dl20", 0.682)])
def test_published_monot5_runs_have_their_published_ndcg(shared, year, ndcg):
    from readqg.corpus import read_judgments
    from readqg.runs import read_run

    folder = shared / "data" / "msmarco-v1-dl"
    qrels = read_judgments(folder / "qrels" / f"{year}.full.tsv")
    found = evaluate(qrels, read_run(folder / "runs" / f"{year}.BM25+monoT5.trec"), MEASURES)
    assert found["nDCG@10"] == pytest.approx(ndcg, abs=0.001)
