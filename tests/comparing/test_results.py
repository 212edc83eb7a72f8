"""What is said of the counts, before, during and after."""

import pytest

from readqg.comparing.judgments import Choice, End, Judgments, Shown
from readqg.comparing.rankings import Rankings
from readqg.comparing.results import beforehand, progress, summary, table_of_needs
from tests.comparing.collection import config_of, write_collection


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.mark.parametrize(("said", "verdict", "sentence"), [
    ("", "too few to tell", "Too few to tell: 12 more without a tie to tell 90:10 from a coin."),
    ("aaabb" + "t" * 9, "too few to tell", "Too few to tell: 7 more without a tie to tell 90:10 from a coin."),
    ("b" * 11, "too few to tell", "Too few to tell: 1 more without a tie to tell 90:10 from a coin."),  # however clear
    ("a" * 11 + "btt", "A is better", "Enough to tell: one of the two is better."),
    ("a" * 11 + "b" * 10, "A is better", "Enough to tell: one of the two is better. 9 beyond the plan: they are counted"),
    ("ab" * 6, "a difference of 90:10 is ruled out", "Enough to tell: if there is a difference, it is smaller than 90:10."),
    ("aaab" * 3, "not settled: the interval still holds 90:10", "As many as planned, and no difference shows; 90:10 is not ruled out"),
    ("ab" * 6 + "b" * 20, "a difference of 90:10 is ruled out", "Enough to tell: if there is a difference, it is smaller"),
    ("aaab" * 3 + "ab" * 9, "not settled: the interval still holds 90:10", "As many as planned, and no difference shows; 90:10 is not"),
])
def test_the_verdict_follows_from_test_and_plan(folder, tmp_path, said, verdict, sentence):
    config = config_of(folder, a="bm25", out=str(tmp_path), share=0.9)
    rankings = Rankings(config)
    choices = {"a": "left", "b": "right", "t": "tie", "s": "skip"}
    with Judgments(tmp_path) as judgments:
        for number, one in enumerate(said + "s"):
            judgments.add(Shown(query_id=str(number), query="q", left="a", a=("d01",), b=("d02",)))
            judgments.add(Choice(query_id=str(number), choice=choices[one]))
        counts, before = progress(config, judgments), summary(config, rankings, judgments)
        judgments.add(End())
        told = summary(config, rankings, judgments)
    decided, ties = len(said.replace("t", "")), said.count("t")
    assert (counts["judged"], counts["decided"], counts["ties"], counts["skipped"]) == (len(said), decided, ties, 1)
    assert told["verdict"] == verdict and told["sentence"].startswith(sentence) and told["needed"] == 12
    assert ("ruled out" in verdict) <= (told["low"] > 0.1 and told["high"] < 0.9)
    assert ("still holds" in verdict) <= (told["low"] <= 0.1 or told["high"] >= 0.9)
    assert told["tested"] == min(decided, 12)
    assert (told["tested"] == 12 and told["p"] < 0.05) == told["verdict"].endswith("is better")
    assert (before["p"], before["tested"]) == ((told["p"], 12) if decided >= 12 else (None, 0)), "no look before the plan is full"
    blind = {"wins_a", "wins_b", "share_b", "low", "high"}
    assert not blind & set(before) and not (blind | {"p"}) & set(counts)
    assert before["verdict"] == verdict.replace("A is", "one is")


def test_how_many_it_takes_is_told_beforehand(folder):
    assert beforehand(config_of(folder)) == "To tell 60:40 from a coin with 80% power: 199 judged queries without a tie."
    assert beforehand(config_of(folder, share=0.625, power=0.9)).startswith("To tell 62.5:37.5 from a coin with 90% power: ")
    assert dict(table_of_needs(config_of(folder, share=0.9)))["90:10"] == 12
