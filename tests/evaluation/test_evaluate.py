"""What `readqg evaluate` tells of a run, and of the difference between two."""

import json
import logging

import pytest

from readqg.config import EvaluateConfig
from readqg.errors import InputError
from readqg.evaluation.evaluate import evaluate_command
from readqg.evaluation.metrics import evaluate, per_query
from readqg.evaluation.significance import compare
from readqg.runs import write_queries_beside, write_trec

QRELS = {f"q{i}": {"a": 1, "b": i % 3} for i in range(12)}
GOOD = {q: {"a": 2.0, "b": 1.5, "c": 1.0} for q in QRELS}
BAD = {q: {"c": 2.0, "b": 1.5, "a": 1.0} for q in list(QRELS)[:9]} | {"q9": {"a": 1.0}, "other": {"a": 1.0}}


@pytest.fixture
def files(tmp_path):
    rows = [(q, d, grade) for q, grades in QRELS.items() for d, grade in grades.items()]
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{g}\n" for q, d, g in rows))
    (tmp_path / "qrels.txt").write_text("".join(f"{q} 0 {d} {g}\n" for q, d, g in rows))
    write_trec(tmp_path / "good.trec", GOOD)
    write_trec(tmp_path / "bad.trec.gz", BAD)
    return tmp_path


def command(files, **kwargs):
    names = {key: str(files / value) if key in ("run", "qrels", "against") else value for key, value in kwargs.items()}
    return evaluate_command(EvaluateConfig(**{"run": str(files / "good.trec"), "qrels": str(files / "qrels.tsv"), **names}))


def test_measures_of_one_run(files):
    found = command(files)
    assert found["measures"] == evaluate(QRELS, GOOD, ("nDCG@10", "R@100", "RR@10"))
    assert (found["judged"], found["queries"], found["unanswered"], found["unjudged"]) == (12, 12, 0, 0)
    assert "against" not in found
    assert json.loads(json.dumps(found)) == found


def test_beirs_tsv_and_trecs_qrels_are_the_same_judgments(files):
    assert command(files, qrels="qrels.txt")["measures"] == command(files)["measures"]


def test_two_runs_are_compared_in_every_measure(files, caplog):
    with caplog.at_level(logging.WARNING, "readqg"):
        found = command(files, against="bad.trec.gz", measures=("RR@10", "P@1"), permutations=500, seed=2)
    assert found["against"]["measures"] == evaluate(QRELS, BAD, ("RR@10", "P@1"))
    assert (found["against"]["unanswered"], found["against"]["unjudged"]) == (2, 1)
    assert "no result for 2 of 12 judged queries" in caplog.text
    values = [per_query(QRELS, run, ["RR@10"])["RR@10"] for run in (GOOD, BAD)]
    expected = compare(*values, 500, 2)
    assert found["differences"]["RR@10"] == vars(expected)
    assert found["differences"]["P@1"]["mean"] == pytest.approx(found["measures"]["P@1"] - found["against"]["measures"]["P@1"])
    assert 0 < found["differences"]["P@1"]["p"] < 0.05 and found["differences"]["P@1"]["low"] > 0


def test_a_run_that_was_asked_a_subset_is_measured_on_that_subset(files):
    (files / "run").mkdir()
    write_trec(files / "run" / "_run.trec", {"q1": GOOD["q1"], "q2": {"c": 1.0}})
    write_queries_beside(files / "run", ["q1", "q2", "q3", "unjudged"])
    found = command(files, run="run/_run.trec", against="good.trec", measures=("R@10",))
    assert (found["judged"], found["queries"], found["unanswered"]) == (12, 3, 1)
    assert found["measures"]["R@10"] == pytest.approx(1 / 3)
    assert found["against"]["measures"]["R@10"] == 1
    assert found["differences"]["R@10"]["queries"] == 3


def test_two_runs_that_were_asked_no_query_in_common_are_not_compared(files):
    for name, query in (("one", "q1"), ("other", "q2")):
        (files / name).mkdir()
        write_trec(files / name / "_run.trec", {query: GOOD[query]})
        write_queries_beside(files / name, [query])
    with pytest.raises(InputError, match="no judged query that both were asked"):
        command(files, run="one/_run.trec", against="other/_run.trec")


def test_a_run_of_another_collection_is_refused(files):
    write_trec(files / "strange.trec", {"x1": {"a": 1.0}})
    with pytest.raises(InputError, match=r"strange\.trec and .*qrels\.tsv share no query \(one has 'x1', the other 'q0'\)"):
        command(files, run="strange.trec")
    with pytest.raises(InputError, match=r"strange\.trec"):
        command(files, against="strange.trec")
    write_queries_beside(files, ["x1"])
    (files / "strange.trec").rename(files / "_run.trec")
    with pytest.raises(InputError, match=r"share no query .one has 'x1', the other 'q0'"):
        command(files, run="_run.trec")


def test_a_missing_run_and_missing_judgments_are_refused(files):
    with pytest.raises(InputError, match=r"none\.trec"):
        command(files, run="none.trec")
    with pytest.raises(InputError, match=r"none\.tsv"):
        command(files, qrels="none.tsv")


def test_an_imported_folder_of_judgments_is_read(files):
    from readqg.config import ImportConfig
    from readqg.corpus import import_corpus

    import_corpus(ImportConfig(source=str(files / "qrels.tsv"), out=str(files / "imported"), kind="judgments"))
    assert command(files, qrels="imported/judgments")["measures"] == command(files)["measures"]
