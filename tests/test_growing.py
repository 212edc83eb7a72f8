"""`readqg run --until-no-gain`, with tiny models on a real local Ray."""

import json
import shutil

import pytest

from readqg import growing
from readqg.config import RunConfig
from tests.test_pipeline import place, run  # noqa: F401  (a fixture)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def grown(place, ray_here):  # noqa: F811
    out = place / "grown"
    assert run(place, out, "--until-no-gain", "--max-documents", "8", "--least-gain", "0.3") == 0
    return out


def test_a_doubling_that_gains_too_little_is_not_taken_and_the_size_before_it_lies_in_out(grown):
    summary = json.loads((grown / "summary.json").read_text())
    sizes = [r["documents"] for r in summary["rounds"]]
    assert sizes == [8, 16, 32, 36][: len(sizes)] and len(sizes) > 1
    assert summary["rounds"][-1]["gain"] < 0.3
    assert summary["config"]["max_documents"] == sizes[-2]
    for name in ("queries", "reranker"):
        assert (grown / name / "_SUCCESS").exists()
        assert not (grown / "rounds" / str(sizes[-2]) / name).exists()
        assert (grown / "rounds" / str(sizes[-1]) / name / "_SUCCESS").exists()
    assert "How many documents" in (grown / "report.html").read_text()


def test_every_size_is_judged_on_the_same_documents(grown):
    rounds = json.loads((grown / "rounds/rounds.json").read_text())
    judged = [json.loads((folder / "reranker/training_log.jsonl").read_text().splitlines()[0])["validation"]["ndcg"].keys()
              for folder in (grown, grown / "rounds" / str(rounds["rounds"][-1]["documents"]))]
    assert judged[0] == judged[1] and len(judged[0]) == 2
    assert {r["held_out"] for r in rounds["rounds"]} == {1}, "one half chooses the size"
    assert json.loads((grown / "reranker/guard.json").read_text())["held_out_documents"] == 1, "by the other the guard judges"


def test_killed_anywhere_the_same_command_goes_on(place, grown):  # noqa: F811
    before = {p.relative_to(grown): p.read_bytes() for p in grown.rglob("*.parquet")}
    chosen = json.loads((grown / "rounds/rounds.json").read_text())["chosen"]
    flags = ("--until-no-gain", "--max-documents", "8", "--least-gain", "0.3")
    # Between the choice and the moving of the second folder; and before the choice.
    shutil.move(grown / "reranker", grown / "rounds" / str(chosen) / "reranker")
    assert run(place, grown, *flags) == 0
    shutil.move(grown / "queries", grown / "rounds" / str(chosen) / "queries")
    shutil.move(grown / "reranker", grown / "rounds" / str(chosen) / "reranker")
    (grown / "rounds/rounds.json").unlink()
    assert run(place, grown, *flags) == 0
    assert {p.relative_to(grown): p.read_bytes() for p in grown.rglob("*.parquet")} == before


def test_sizes_double_up_to_the_whole_corpus():
    assert growing._sizes(8, 36) == [8, 16, 32, 36]
    assert growing._sizes(36, 36) == [36]
    small = growing._of_size(RunConfig(), 36, 36)
    assert small.reranker.held_out_max == 9 and small.max_documents == 36 and small.reranker.judge_by_half


def test_another_least_gain_on_the_same_folder_is_refused(place, grown, capsys):  # noqa: F811
    assert run(place, grown, "--until-no-gain", "--max-documents", "8", "--least-gain", "0.2") == 1
    assert "was made with {'max_documents': 8, 'least_gain': 0.3}" in capsys.readouterr().err
