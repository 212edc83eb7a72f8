import json
import logging
import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readqg.corpus import Documents
from readqg.errors import InputError
from readqg.reranker.selection import HeldOut, Validation, announce, for_choosing, guard, read_verdict, verdict_from_log
from tests.reranker.corpus import write_documents


def _held_out(candidates):
    return HeldOut(list(candidates), list(candidates.values()), ["query"] * len(candidates))


def _validation(*ndcg, spread=1.0, not_finite=0):
    return Validation({f"d{i}": value for i, value in enumerate(ndcg)}, spread, not_finite)


def test_ndcg_of_the_source_document_by_its_rank():
    held_out = _held_out({"a": ["b", "a", "c"], "d": ["d", "e"]})
    found = held_out.judge(np.array([3.0, 2.0, 1.0, 5.0, 4.0]))
    assert found.ndcg == {"a": pytest.approx(1 / math.log2(3)), "d": 1.0}
    assert found.score == pytest.approx((1 + 1 / math.log2(3)) / 2)


def test_logits_are_counted_to_the_nearest_quarter():
    held_out = _held_out({"a": ["b", "a", "c"], "d": ["d", "e"]})
    found = held_out.judge(np.array([3.1, 2.0, -0.1, 2.1, np.nan]))
    assert found.logits == {"0": [0, 1], "2": [2, 0], "3": [0, 1]}
    assert Validation.from_log(json.loads(json.dumps(found.to_log()))).logits == found.logits


def test_ties_go_to_the_higher_doc_id():
    assert _held_out({"b": ["a", "b"]}).judge(np.zeros(2)).score == 1.0
    assert _held_out({"a": ["a", "b"]}).judge(np.zeros(2)).score == pytest.approx(1 / math.log2(3))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(-5, 5), min_size=21, max_size=21), st.integers(0, 20))
def test_ndcg_equals_that_of_ir_measures(logits, source):
    ids = [f"d{i:02}" for i in range(21)]
    run = {"q": dict(zip(ids, map(float, logits), strict=True))}
    expected = ir_measures.calc_aggregate([ir_measures.nDCG @ 10], {"q": {ids[source]: 1}}, run)[ir_measures.nDCG @ 10]
    found = _held_out({ids[source]: ids}).judge(np.array(logits, dtype=np.float32))
    assert found.score == pytest.approx(expected)


def test_a_score_that_is_no_number_ranks_last_and_is_counted():
    found = _held_out({"a": ["a", "b"], "c": ["c", "d"]}).judge(np.array([np.nan, -9.0, 1.0, np.nan]))
    assert (found.ndcg, found.not_finite) == ({"a": 0.0, "c": 1.0}, 2)


def test_candidates_are_bm25s_best_of_the_whole_corpus_and_the_source(tmp_path):
    corpus = {f"d{i:02}": f"shock wave report {i}" for i in range(40)} | {"own": "boundary layer", "7": "heat"}
    documents = Documents.open(write_documents(tmp_path / "documents", corpus))
    held_out = HeldOut.search({"own": "shock wave", "7": "zzz"}, documents)
    assert len(held_out.candidates[0]) == 21
    assert held_out.candidates[0][-1] == "own"
    assert held_out.candidates[1] == ["7"]
    assert held_out.pairs(documents)[20:] == [("shock wave", "boundary layer"), ("zzz", "heat")]


def test_the_tuned_model_is_named_where_it_is_better():
    verdict = guard(_validation(*[0.5] * 30), _validation(*[0.5] * 10, *[0.9] * 20))
    assert verdict.use == "tuned"
    assert verdict.difference == pytest.approx(0.8 / 3)
    assert 0 < verdict.interval[0] < verdict.difference < verdict.interval[1]
    assert (verdict.better, verdict.worse, verdict.held_out_documents) == (20, 0, 30)
    assert verdict.p_value < 0.001
    assert "is better" in verdict.reason


def test_a_gain_that_could_be_chance_does_not_name_the_tuned_model():
    mixed = guard(_validation(0.5, 0.5, 0.5), _validation(0.2, 0.5, 1.0))
    single = guard(_validation(0.5, 0.5, 0.5, 0.5, 0.5), _validation(0.8, 0.5, 0.5, 0.5, 0.5))
    for verdict in (mixed, single):
        assert verdict.use == "start" and verdict.difference > 0
        assert verdict.reason.startswith("No gain could be shown")
    assert "1 better, 0 worse and 4 alike (p = 0.5" in single.reason


def test_documents_that_can_show_no_gain_are_told_of():
    assert "has each of the 2 first already" in guard(_validation(1.0, 1.0), _validation(1.0, 0.5)).reason
    assert "already" not in guard(_validation(1.0, 0.9), _validation(1.0, 0.5)).reason


def test_p_value_of_a_paired_randomisation_by_hand():
    # of the 2^3 ways to turn the signs, only the one found gives a mean as high
    assert guard(_validation(0.1, 0.2, 0.3), _validation(0.2, 0.4, 0.6)).p_value == pytest.approx(1 / 8, abs=0.015)
    assert guard(_validation(0.5, 0.5), _validation(0.5, 0.5)).p_value == 1


@pytest.mark.parametrize("after", [(0.5, 0.5), (0.9, 0.0)])
def test_the_start_is_named_where_the_tuned_model_is_equal_or_worse(after):
    verdict = guard(_validation(0.5, 0.5), _validation(*after))
    assert verdict.use == "start"
    assert "not better" in verdict.reason


def test_collapsed_scores_name_the_start_whatever_they_rank():
    verdict = guard(_validation(0.5, 0.5, spread=4.0), _validation(1.0, 1.0, spread=0.01))
    assert verdict.use == "start"
    assert "collapsed" in verdict.reason and verdict.broken == "collapsed"


def test_a_start_without_spread_has_none_to_lose():
    assert guard(_validation(0.5, 0.5, spread=0.0), _validation(1.0, 0.5, spread=0.0)).broken is None
    verdict = guard(_validation(1.0, 1.0, spread=0.0), _validation(1.0, 1.0, spread=0.0))
    assert (verdict.use, verdict.broken) == ("start", None)


def test_scores_that_are_no_numbers_name_the_start():
    verdict = guard(_validation(0.5, 0.5), _validation(1.0, 1.0, not_finite=3))
    assert verdict.use == "start"
    assert "3 of" in verdict.reason and verdict.broken == "not finite"


def test_models_judged_on_different_documents_are_not_compared():
    with pytest.raises(ValueError, match="different documents"):
        guard(_validation(0.5), _validation(0.5, 0.6))


def test_the_verdict_is_on_the_best_validation_after_the_start():
    log = [
        {"step": 0, "validation": _validation(0.6, 0.6).to_log()},
        {"step": 1, "loss": 0.3},
        {"step": 2, "validation": _validation(0.9, 0.9).to_log()},
        {"step": 4, "validation": _validation(0.5, 0.5).to_log()},
    ]
    verdict = verdict_from_log(json.loads(json.dumps(log)))
    assert (verdict.before, verdict.after, verdict.chosen_among) == (0.6, 0.9, 2)


def test_where_something_else_was_chosen_by_them_one_half_judges_though_there_was_one_validation():
    log = [{"step": step, "validation": _validation(*values).to_log()} for step, values in ((0, [0.5] * 10), (9, [0.9] * 10))]
    assert (verdict_from_log(log).held_out_documents, verdict_from_log(log, by_half=True).held_out_documents) == (10, 5)
    chosen = Validation.from_log(log[0]["validation"]).ndcg.keys()
    assert len(for_choosing(chosen)) == 5


def test_a_better_start_stays_named_though_trained_weights_are_kept():
    log = [{"step": step, "validation": _validation(v, v).to_log()} for step, v in ((0, 0.9), (2, 0.5), (4, 0.7))]
    verdict = verdict_from_log(log)
    assert (verdict.use, verdict.after) == ("start", 0.7)


def test_a_log_without_the_start_is_refused():
    with pytest.raises(InputError, match="no validation of the start"):
        verdict_from_log([{"step": 2, "validation": _validation(0.5).to_log()}])


def test_the_start_is_named_loudly(tmp_path, caplog):
    guard(_validation(0.5, 0.5), _validation(0.4, 0.4)).write(tmp_path, "the-start")
    with caplog.at_level(logging.INFO, "readqg"):
        found = announce(tmp_path)
    assert (found["use"], found["start"]) == ("start", "the-start")
    assert [r.levelname for r in caplog.records] == ["WARNING", "INFO"] and "What may help, cheapest first" in caplog.records[1].message
    assert "USE THE START, the-start" in caplog.text


def test_a_verdict_is_read_as_it_was_written(tmp_path):
    verdict = guard(_validation(0.5, 0.5), _validation(0.9, 0.7))
    verdict.write(tmp_path, "the-start")
    assert read_verdict(tmp_path) == (verdict, "the-start")


def test_a_folder_without_a_verdict_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"guard\.json cannot be read"):
        read_verdict(tmp_path)


def test_a_useless_training_is_not_taken_for_a_gain_because_its_best_moment_was_chosen():
    rng = np.random.default_rng(0)
    taken = 0
    for _ in range(60):
        start = rng.uniform(0, 1, 40)
        log = [{"step": 0, "validation": _validation(*start).to_log()}]
        log += [{"step": i, "validation": _validation(*np.clip(start + rng.normal(0, 0.2, 40), 0, 1)).to_log()} for i in range(1, 11)]
        taken += verdict_from_log(log).use == "tuned"
    assert taken < 45, "judged on the documents that chose, nearly all 60 would be"
