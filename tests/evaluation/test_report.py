"""The report gathers what a run's folders hold, says it in one sentence, and shows nothing that can run."""

import json
import math
import re

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from readqg.evaluation import report
from readqg.evaluation.charts import signed, thinned, ticks
from readqg.evaluation.report import calibration, figures, verdict
from readqg.evaluation.report.changes import changes, rank_biased_overlap
from readqg.evaluation.report.learning import learning
from readqg.evaluation.report.verdict import Evidence
from readqg.evaluation.report.written import quality, written
from readqg.places import place_of
from tests.builders import write_folder
from tests.evaluation.finished_run import SCRIPT, finished_run, summary_of


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("judged") / "out")


@pytest.fixture(scope="module")
def unjudged(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("unjudged") / "out", judged=False)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("bare") / "out", queries=0)


def _summary(use="tuned", judged=None, fused=None, held_out=(0.03, 0.01, 0.05), p=0.001, count=60, broken=None, documents=30):
    mean, low, high = held_out
    guard = {"use": use, "before": 0.6, "after": 0.6 + mean, "difference": mean, "interval": [low, high], "p_value": p,
             "better": 5, "worse": 2, "held_out_documents": documents, "broken": broken}
    differences = [
        {"of": of, "against": against, "mean": d[0], "low": d[1], "high": d[2], "p": 0.5, "queries": count, "better": 4, "worse": 3}
        for of, against, d in (("tuned", "start", judged), ("tuned-fused", "start-fused", fused)) if d
    ]
    runs = {name: {"nDCG@10": 0.5} for name in ("start", "tuned", "start-fused", "tuned-fused")}
    return {"guard": guard, "evaluation": {"runs": runs, "differences": differences} if judged else None}


UP, DOWN, NONE, WIDE = (0.02, 0.01, 0.03), (-0.02, -0.03, -0.01), (0.001, -0.009, 0.011), (0.01, -0.04, 0.06)


@pytest.mark.parametrize(("summary", "advice", "says"), [
    (_summary(judged=UP), "Use the tuned model", "by +2.0 points (+1.0 to +3.0, better) on 60 judged queries"),
    (_summary(judged=UP, fused=DOWN), "Use the tuned model, but without BM25's score", "(−3.0 to −1.0, worse) with BM25's score added"),
    (_summary(judged=DOWN), "Keep the start, though the guard does not", "(−3.0 to −1.0, worse) on 60 judged queries"),
    (_summary(judged=NONE), "Use the tuned model, but do not count on a gain", "no difference of note"),
    (_summary(judged=WIDE), "Use the tuned model, but do not count on a gain", "too few to tell"),
    (_summary(judged=WIDE, fused=UP), "Use the tuned model, with BM25's score added", "(+1.0 to +3.0, better) with BM25's"),
    (_summary(judged=UP, count=5), "Use the tuned model, but do not count on a gain", "too few to tell) on 5 judged queries"),
    (_summary("start", UP, held_out=DOWN), "Consider the tuned model, though the guard does not", "−3.0 to −1.0, worse) on 30"),
    (_summary("start", DOWN, held_out=DOWN), "Keep the start", "by −2.0 points (−3.0 to −1.0, worse) on 60"),
    (_summary("start", NONE, UP, held_out=DOWN), "Keep the start, unless you add BM25's score", "(+1.0 to +3.0, better) with BM25's"),
    (_summary("start", UP, broken="collapsed"), "Keep the start, for the tuned model's scores have collapsed", "on 60 judged queries"),
    (_summary("start", UP, held_out=DOWN, broken="not finite"), "Keep the start, for the tuned model's scores are not finite", "on 60"),
    (_summary("start", DOWN, held_out=NONE), "Keep the start", "on 60 judged queries"),
    (_summary("start", held_out=DOWN), "Keep the start", "on 30 held-out synthetic documents."),
    (_summary(), "Use the tuned model, on synthetic evidence alone", "+3.0 points (95 % interval +1.0 to +5.0, better)"),
    (_summary(documents=9, p=0.03), "Use the tuned model, but the evidence is weak", "too few to tell) on 9 held-out"),
    (_summary(documents=10, p=0.03), "Use the tuned model, on synthetic evidence alone", "better) on 10 held-out"),
    (_summary("start", p=0.0625), "Keep the start, for no gain is shown", "(95 % interval +1.0 to +5.0, too few to tell) on 30 held-out"),
    (_summary(held_out=(0.03, -0.001, 0.06), p=0.04), "Use the tuned model, on synthetic evidence alone", "+6.0, better) on 30 held-out"),
])
def test_one_sentence_says_what_to_use_and_how_sure_that_is(summary, advice, says):
    sentence = verdict.sentence(summary, verdict.evidence(summary))
    assert sentence.startswith(f"{advice}: the tuned model changes nDCG@10 by ")
    assert says in sentence
    assert re.findall(r"[.!?](?: |$)", sentence) == ["."]


@pytest.mark.parametrize("use", ["tuned", "start"])
@pytest.mark.parametrize("judged", [UP, NONE, WIDE, DOWN])
@pytest.mark.parametrize("fused", [UP, NONE, WIDE, DOWN, None])
def test_the_advice_heeds_the_guard_the_judged_queries_and_those_with_bm25s_score(use, judged, fused):
    summary = _summary(use, judged, fused, held_out=UP if use == "tuned" else DOWN)
    advice = verdict.sentence(summary, verdict.evidence(summary)).split(":")[0]
    tuned = judged == UP or (use == "tuned" and judged != DOWN)
    assert tuned != advice.startswith("Keep the start")
    assert ("Use" in advice) == (tuned and use == "tuned")
    assert ("the guard does not" in advice) == (judged == (DOWN if use == "tuned" else UP))
    assert ("do not count on a gain" in advice) == (use == "tuned" and judged in (NONE, WIDE) and fused != UP)
    assert ("unless you add BM25's score" in advice) == (not tuned and fused == UP)
    assert ("without BM25's score" in advice or "not with BM25's score" in advice) == (tuned and fused == DOWN)


def test_a_wide_interval_is_never_no_difference():
    evidence = Evidence("tuned", "start", "judged queries", 200, 0.5, 0.5, 0.0, -0.021, 0.01, 1.0, 3, 3)
    assert evidence.reading == "too few to tell"
    assert evidence.equal == 194


def test_rank_biased_overlap_by_hand():
    assert rank_biased_overlap("abc", "abc") == pytest.approx(1)
    assert rank_biased_overlap("ab", "cd") == 0
    # agreement 0 at depth 1 and 1 at depth 2: 1 * .9^2 + (.1 / .9) * .9^2
    assert rank_biased_overlap("ab", "ba") == pytest.approx(0.9)
    assert rank_biased_overlap("abcd", "abdc") > rank_biased_overlap("abcd", "bacd")
    assert rank_biased_overlap("", "") == 1
    assert rank_biased_overlap("ab", "") == 0


def test_gains_and_losses_come_with_their_documents(out):
    found = changes(place_of(out), summary_of(out)["evaluation"]["per_query"])
    assert found.queries == 12
    assert found.unchanged == 0
    assert [c.after - c.before > 0 for c in found.gained] == [True] * 5
    assert [c.after - c.before < 0 for c in found.lost] == [True] * 5
    first = found.gained[0]
    assert (first.before, first.after) == (pytest.approx(1 / math.log2(3)), 1.0)
    assert [(d.rank, d.grade, d.before) for d in first.top_after[:3]] == [(1, 2, 2), (2, None, 1), (3, None, 3)]
    assert [(f.before, f.after, f.grade) for f in first.relevant] == [(2, 1, 2)]
    assert [(f.before, f.after) for f in found.lost[0].relevant] == [(2, 10)]


def test_without_judgments_the_queries_whose_top_changed_most_are_shown(unjudged):
    found = changes(place_of(unjudged), None)
    assert not found.gained
    assert not found.lost
    overlaps = [c.overlap for c in found.moved]
    assert overlaps == sorted(overlaps)
    assert all(c.before is None and c.top_before != c.top_after for c in found.moved)


def test_reliability_of_scores_that_are_probabilities():
    p = np.repeat([0.2, 0.5, 0.9], 100)
    labels = np.concatenate([np.arange(100) < n for n in (20, 50, 90)]).astype(float)
    found = calibration.reliability("start", np.log(p / (1 - p)), labels, np.ones(300))
    assert found.miscalibration == pytest.approx(0, abs=1e-12)
    assert found.brier == pytest.approx(brier_score_loss(labels, p))
    assert [(round(b.predicted, 3), b.observed, b.pairs) for b in found.bins] == [(0.2, 0.2, 100), (0.5, 0.5, 100), (0.9, 0.9, 100)]
    assert all(b.low < b.observed < b.high for b in found.bins)


def test_the_brier_score_is_miscalibration_less_discrimination_plus_uncertainty():
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(3, 2, 500), (rng.random(500) < 0.3).astype(float)
    found = calibration.reliability("tuned", logits, labels, np.ones(500))
    assert found.miscalibration > 0.3
    assert found.brier == pytest.approx(found.miscalibration - found.discrimination + labels.mean() * (1 - labels.mean()))
    assert sum(b.pairs for b in found.bins) == 500


def test_a_pair_that_counts_twice_is_two_pairs():
    logits, labels, weights = np.array([-1.0, 0.0, 2.0, 2.0]), np.array([0.0, 1.0, 1.0, 0.0]), np.array([3.0, 2.0, 4.0, 0.0])
    once = calibration.reliability("start", logits, labels, weights)
    many = calibration.reliability("start", logits.repeat(weights.astype(int)), labels.repeat(weights.astype(int)), np.ones(9))
    assert once.bins == many.bins
    assert (once.brier, once.miscalibration) == (pytest.approx(many.brier), pytest.approx(many.miscalibration))


def test_held_out_pairs_are_what_calibration_has_without_judgments(bare):
    before, after = learning(place_of(bare) / "reranker").logits
    found = calibration.against_held_out(before, after, 20)
    assert (found.pairs, found.relevant) == (400, 20)
    assert "synthetic labels" in found.labels
    assert [model.name for model in found.models] == ["start", "tuned"]
    assert found.models[1].discrimination > found.models[0].discrimination
    assert calibration.against_held_out({}, {}, 20) is None


def test_too_few_relevant_pairs_are_no_calibration(tmp_path):
    few = calibration.against_judgments(place_of(finished_run(tmp_path / "out", queries=4)))
    assert (few.pairs, few.relevant, few.models) == (40, 4, [])


def test_queries_are_counted_by_relevance(out):
    found = written(place_of(out))
    assert (found.rows, found.queries, found.documents, found.failed, found.sampled) == (120, 120, 40, 0, 40)
    assert [a.relevance for a in found.at] == [1.0, 0.5, 0.0]
    assert [a.words.mean for a in found.at] == [5.0, 3.0, 1.0]
    shared = [a.shared.mean for a in found.at]
    assert shared == sorted(shared, reverse=True)
    assert shared[2] == 0.375  # zzz, script, alert and 1: three of four stand in the title of every second document
    assert [a.log_likelihood.mean for a in found.at] == [-2.0] * 3
    assert found.at[0].found is found.at[0].judged is None
    assert len(found.grids) == 8
    assert [r for r, _, _ in found.grids[0].rows] == [1.0, 0.5, 0.0]
    assert [f.title for f in figures.control(found.at)] == ["Words shared with the document", "Likelihood"]


def test_a_row_without_a_query_says_why(tmp_path):
    from readqg.generator.generate import QUERIES

    out = finished_run(tmp_path / "out", queries=0)
    rows = [{"doc_id": "d0", "relevance": r, "sample": 0, "query": None, "error": "no room"} for r in (1.0, 0.0)]
    (out / "queries").rename(out / "old")
    write_folder(out / "queries", rows, QUERIES)
    found = written(place_of(out))
    assert (found.queries, found.failed, found.at) == (0, 2, [])
    assert found.grids[0].rows[0][1] == ["(could not be written: no room)"]


def test_the_judge_and_its_curve_come_from_the_quality_folder(tmp_path):
    from readqg.evaluation.quality import QUALITY

    out = finished_run(tmp_path / "out", queries=0)
    assert quality(place_of(out)) == []
    rows = [{"doc_id": f"d{i}", "rel_plus": 0.9, "judged": [{"relevance": r, "probability": r * 0.8} for r in (1.0, 0.5, 0.0)]}
            for i in range(4)]
    write_folder(out / "quality", rows, QUALITY)
    assert [(mean.mean, mean.count) for _, mean in quality(place_of(out))] == [(pytest.approx(0.9), 4)]
    assert [a.judged.mean for a in written(place_of(out)).at] == [pytest.approx(p) for p in (0.8, 0.4, 0.0)]


def test_the_weights_kept_are_the_best_of_the_validations(out):
    found = learning(place_of(out) / "reranker")
    assert (found.steps, found.chosen) == (6, 3)
    assert [check.step for check in found.checks] == [0, 3, 6]
    assert (found.checks[0].difference, found.checks[0].low, found.checks[0].high) == (0, 0, 0)
    assert found.checks[1].difference > 0
    assert found.checks[1].low <= found.checks[1].difference <= found.checks[1].high
    assert np.mean([after for _, after in found.documents.values()]) == pytest.approx(found.checks[1].score)


def test_a_loss_that_is_no_number_is_left_out(tmp_path):
    out = finished_run(tmp_path / "out", queries=0)
    with (out / "reranker" / "training_log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 7, "loss": float("nan")}) + "\n")
    assert learning(place_of(out) / "reranker").losses[0].steps == [1, 2, 3, 4, 5, 6]


def test_cost_is_hours_times_workers_times_price():
    priced = figures.time({"train": 7200.0}, 4, 2.5)
    assert priced.rows == [("train", "7,200.0", "$20.00")]
    assert figures.time({"train": 7200.0}, 4, None).columns == ("stage", "seconds")


@pytest.mark.parametrize("kind", ["out", "unjudged", "bare"])
def test_nothing_from_the_data_can_run_and_nothing_is_fetched(kind, request):
    folder = request.getfixturevalue(kind)
    page = report.html(place_of(folder), summary_of(folder))
    assert "&lt;script&gt;alert(1)" in page
    assert "<script" not in page
    assert SCRIPT not in page
    assert not re.search(r"(?:src|href)=\"(?!#)", page)
    assert "http" not in page.replace("http-equiv", "")


def test_a_run_without_fused_rankings_has_a_report(tmp_path):
    out = finished_run(tmp_path / "out", fused=False)
    summary = summary_of(finished_run(tmp_path / "whole"))
    found = summary["evaluation"]
    for name in ("start-fused", "tuned-fused"):
        del found["runs"][name]
    found["differences"] = [d for d in found["differences"] if "fused" not in d["of"]]
    assert "BM25's score added" not in report.html(place_of(out), summary)


def test_a_large_run_has_a_page_of_the_same_size(tmp_path):
    out = finished_run(tmp_path / "out", documents=600, queries=120, depth=20, relevances=tuple(k / 10 for k in range(11)), words=300)
    assert len(report.html(place_of(out), summary_of(out)).encode()) < 500_000


def test_round_ticks_and_signs():
    assert ticks(-0.06, 1.06) == [0, 0.25, 0.5, 0.75, 1]
    assert [f"{t:g}" for t in ticks(-1, 1, 4)] == ["-1", "-0.5", "0", "0.5", "1"]
    assert [signed(v) for v in (1.26, -0.04, -3.0)] == ["+1.3", "0.0", "−3.0"]
    assert thinned(3, 10) == [0, 1, 2]
    assert thinned(0, 10) == []
    assert len(thinned(10_000, 300)) == 300
    assert thinned(10_000, 300)[-1] == 9_999
