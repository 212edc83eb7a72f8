"""What is said of the counts, before, during and after."""

import pytest

from readqg.comparing.judgments import Choice, Judgments, Shown
from readqg.comparing.rankings import Rankings
from readqg.comparing.results import beforehand, progress, summary, table_of_needs
from tests.comparing.collection import config_of, write_collection


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_collection(tmp_path_factory.mktemp("collection"))


@pytest.mark.parametrize(("wins_a", "wins_b", "ties", "verdict", "sentence"), [
    (0, 0, 0, "too few to tell", "Too few to tell: 12 more without a tie to tell 90:10 from a coin."),
    (3, 2, 9, "too few to tell", "Too few to tell: 7 more without a tie to tell 90:10 from a coin."),
    (0, 6, 0, "B is ahead", "One is ahead by more than chance gives, if you meant to stop here all along."),
    (11, 1, 2, "A is better", "Enough to tell: one of the two is better."),
    (6, 7, 0, "no difference was found", "Enough to tell: 90:10 or more would probably have shown, and has not."),
])
def test_the_verdict_follows_from_test_and_plan(folder, tmp_path, wins_a, wins_b, ties, verdict, sentence):
    config = config_of(folder, a="bm25", out=str(tmp_path), share=0.9)
    choices = ["left"] * wins_a + ["right"] * wins_b + ["tie"] * ties + ["skip"]
    with Judgments(tmp_path) as judgments:
        for number, choice in enumerate(choices):
            judgments.add(Shown(query_id=str(number), query="q", left="a", a=("d01",), b=("d02",)))
            judgments.add(Choice(query_id=str(number), choice=choice))
        counts, told = progress(config, judgments), summary(config, Rankings(config), judgments)
    assert (counts["judged"], counts["decided"], counts["ties"], counts["skipped"]) == (len(choices) - 1, wins_a + wins_b, ties, 1)
    assert told["verdict"] == verdict and told["sentence"].startswith(sentence) and told["needed"] == 12
    assert not {"wins_a", "wins_b", "share_b", "p"} & set(counts)


def test_how_many_it_takes_is_told_beforehand(folder):
    assert beforehand(config_of(folder)) == "To tell 60:40 from a coin with 80% power: 199 judged queries without a tie."
    assert beforehand(config_of(folder, share=0.625, power=0.9)).startswith("To tell 62.5:37.5 from a coin with 90% power: ")
    assert dict(table_of_needs(config_of(folder, share=0.9)))["90:10"] == 12
