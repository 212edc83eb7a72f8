"""Searches on a real Ray Tune: budget, early ending, restoring after kills."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from readqg.config import RunConfig, make
from readqg.engine import tune
from readqg.engine.alone import alone
from readqg.errors import FolderError, RunError
from readqg.shards import verify
from readqg.tuning.search import Trial, trials
from tests.engine import toys


def config(folder, **changes):
    return make(toys.HillConfig, {"out": str(folder / "out"), "trials": 6, "rungs": 9}, changes)


@pytest.mark.usefixtures("ray_here")
def test_a_search_finds_ends_early_and_leaves_table_page_and_winner(tmp_path):
    settings = config(tmp_path, trials=5)
    found = tune.search(toys.Hill(settings), settings)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert len(rows) == 5 and {r["status"] for r in rows} == {"finished", "stopped"}
    assert rows[0]["score"] == max(r["score"] for r in rows)
    assert all(r["rungs"] < 9 for r in rows if r["status"] == "stopped")
    assert found["score"] == max(r["score"] for r in rows if r["status"] == "finished")
    assert verify(tmp_path / "out") == []
    assert make(RunConfig, yaml.safe_load(Path(found["config_file"]).read_text())).reranker.margin == found["winner"]["x"]
    assert "<svg" in Path(found["table"]).read_text()
    assert tune.search(toys.Hill(settings), settings)["winner"] == found["winner"]


@pytest.mark.usefixtures("ray_here")
@pytest.mark.slow
def test_a_trial_that_fails_costs_one_trial_and_is_not_tried_again(tmp_path):
    settings = config(tmp_path, trials=3, fail_above=0.6)
    tune.search(toys.Hill(settings), settings)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    failed = [r for r in rows if r["status"] == "failed"]
    assert len(rows) == 3 and 0 < len(failed) < 3
    assert all("too steep" in r["error"] and r["x"] > 0.6 for r in failed)


@pytest.mark.usefixtures("ray_here")
def test_where_no_trial_finishes_the_first_reason_is_said(tmp_path):
    settings = config(tmp_path, trials=1, fail_above=-1.0)
    with pytest.raises(RunError, match="no trial of 1 finished: ValueError: too steep"):
        tune.search(toys.Hill(settings), settings)


@pytest.mark.usefixtures("ray_here")
def test_a_restored_search_keeps_results_and_begins_what_was_under_way_first(tmp_path):
    settings = config(tmp_path, trials=3)
    root = tmp_path / "out" / "_trials"
    done = Trial.begin(root, {"x": 0.25})
    for rung in range(1, 10):
        done.add(rung, {"score": 0.9, "step": float(rung)}, 1.0)
    done.end("finished")
    under_way = Trial.begin(root, {"x": 0.125})
    under_way.add(1, {"score": 0.1, "step": 1.0}, 1.0)
    tune.search(toys.Hill(settings), settings)
    rows = {r["x"]: r for r in pq.read_table(tmp_path / "out").to_pylist()}
    assert len(rows) == 3 and rows[0.25]["score"] == 0.9 and rows[0.25]["seconds"] == 1.0
    assert rows[0.125]["status"] in ("finished", "stopped") and rows[0.125]["score"] != 0.1


def test_asha_knows_what_trials_before_the_kill_had(tmp_path):
    for number, score in enumerate([0.9, 0.8]):
        made = Trial.begin(tmp_path, {"x": number / 10})
        for rung in range(1, 4):
            made.add(rung, {"score": score * rung, "step": float(rung)}, 1.0)
        made.end("finished")
    rungs = dict(tune._asha(9, 3, trials(tmp_path))._brackets[0]._rungs)
    assert {milestone: sorted(recorded.values()) for milestone, recorded in rungs.items()} == {
        9: [], 3: pytest.approx([2.4, 2.7]), 1: [0.8, 0.9]}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_trial_whose_process_dies_is_begun_again(tmp_path):
    settings = config(tmp_path, trials=2, rungs=3, die_once=str(tmp_path / "died"))
    tune.search(toys.Hill(settings), settings)
    assert (tmp_path / "died").exists()
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert len(rows) == 2 and all(r["status"] in ("finished", "stopped") and not r["error"] for r in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_what_the_hours_cut_off_is_ended_and_more_trials_are_not_done_in_silence(tmp_path, caplog):
    settings = config(tmp_path, trials=40, rungs=3, pause_s=0.5, hours=12 / 3600)
    tune.search(toys.Hill(settings), settings)
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert 0 < len(rows) < 40 and {r["status"] for r in rows} <= {"finished", "stopped"}
    assert len(rows) == len(list((tmp_path / "out" / "_trials").glob("*/values.json")))
    tune.search(toys.Hill(settings), settings)
    assert f"this search is done, with {len(rows)} trials; 40 are asked for now" in caplog.text


def test_two_commands_do_not_search_into_one_folder(tmp_path):
    settings = config(tmp_path)
    root = tmp_path / "out" / "_trials"
    root.mkdir(parents=True)
    with alone(root), pytest.raises(FolderError, match="another command is at work in it"):
        tune.search(toys.Hill(settings), settings)


def test_a_trial_that_died_before_it_began_is_a_trial_with_a_result(tmp_path):
    Trial.named(tmp_path, {"x": 0.5}).end("failed", "its process died")
    assert [(t.values, t.status) for t in trials(tmp_path)] == [({"x": 0.5}, "failed")]


def test_a_search_that_begins_again_does_not_propose_what_it_had():
    search = toys.Hill(config(Path()))
    first = tune._optuna(search.space, 0, [], [])
    proposed = [first.suggest(f"a{i}") for i in range(3)]
    again = tune._optuna(search.space, 0, [], proposed)
    assert [again.suggest(f"b{i}") for i in range(3)] == proposed, "what was under way comes first"
    assert all(again.suggest(f"c{i}") not in proposed for i in range(3))


@pytest.mark.usefixtures("ray_here")
def test_keys_of_a_store_are_in_no_runtime_environment(tmp_path, monkeypatch):
    import ray

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a key")
    settings = config(tmp_path, trials=1, rungs=1)
    given = []
    remote = ray.remote
    monkeypatch.setattr(ray, "remote", lambda *args, **options: given.append(options.get("runtime_env")) or remote(*args, **options))
    tune.search(toys.Hill(settings), settings)
    assert any(given) and "a key" not in str(given)


COMMAND = """
import sys
from readqg.config import make
from readqg.engine import tune
from tests.engine import toys
import ray
ray.cloudpickle.register_pickle_by_value(toys)
from readqg.stopping import Stopped, stoppable
settings = make(toys.HillConfig, {"out": sys.argv[1], "trials": 20, "rungs": 3, "pause_s": 0.3})
try:
    with stoppable():
        tune.search(toys.Hill(settings), settings)
except Stopped as stop:
    print("Stopped. What is done stays")
    sys.exit(stop.exit_code)
"""


@pytest.mark.slow
def test_twenty_trials_killed_twice_lose_no_result(tmp_path):
    root, kept = tmp_path / "out" / "_trials", {}
    for wanted in (4, 10, None):
        with (tmp_path / "log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-c", COMMAND, str(tmp_path / "out")], stderr=log, stdout=log,
                                       cwd=Path(__file__).parents[2], start_new_session=True)
        deadline = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < deadline:
            if wanted is not None and len(list(root.glob("*/result.json"))) >= wanted:
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.1)
        code = process.wait()
        assert code == (0 if wanted is None else -signal.SIGKILL), (tmp_path / "log").read_text()[-3000:]
        time.sleep(3)  # a trial of the dead driver may still be on its last rung
        for path, text in kept.items():
            assert path.read_text() == text
        kept |= {path: path.read_text() for path in root.glob("*/result.json")}
        kept |= {path.parent / "curve.jsonl": (path.parent / "curve.jsonl").read_text() for path in root.glob("*/result.json")}
    rows = pq.read_table(tmp_path / "out").to_pylist()
    assert len(rows) >= 20 and all(r["status"] in ("finished", "stopped") for r in rows)
    named = {path.parent.name: json.loads(path.read_text())["status"] for path in root.glob("*/result.json")}
    assert {r["trial"]: r["status"] for r in rows} == named


@pytest.mark.slow
def test_ctrl_c_stops_a_search_and_does_not_end_it(tmp_path):
    root = tmp_path / "out" / "_trials"
    for stopped in (True, False):
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-c", COMMAND, str(tmp_path / "out")], stderr=log, stdout=log,
                                       cwd=Path(__file__).parents[2], start_new_session=True)
        deadline = time.monotonic() + 240
        while stopped and process.poll() is None and time.monotonic() < deadline:
            if len(list(root.glob("*/result.json"))) >= 3:
                os.kill(process.pid, signal.SIGINT)
                break
            time.sleep(0.1)
        code = process.wait(timeout=240)
        said = (tmp_path / "log").read_text()[-3000:]
        assert (code == 130) == stopped and (tmp_path / "out" / "_SUCCESS").exists() != stopped, (code, said)
        assert not stopped or "Stopped. What is done stays" in said
    assert len(pq.read_table(tmp_path / "out")) == 20
