"""The training loop on a real Ray Train and DeepSpeed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path

import pytest
import ray
from filelock import FileLock
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError
from safetensors.torch import load_file

from readqg.config import Compute, TrainSettings
from readqg.engine import checkpoints, train
from readqg.engine.training_log import progress
from readqg.engine.training_loop import _trouble
from readqg.errors import FolderError, InputError, RunError
from readqg.shards import verify
from readqg.workers import Workers
from tests.chaos.harness import die_with_parent
from tests.engine.scalars import scalars
from tests.engine.toys import Line, LineConfig, begun

pytestmark = pytest.mark.usefixtures("ray_here")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "out"
    train.run(Line(), LineConfig(out=str(out)))
    return out


def test_training_learns_and_keeps_the_best_weights(unbroken):
    log = json.loads((unbroken / "log.json").read_text())
    scores = [line["validation"]["score"] for line in log if "validation" in line]
    assert scores[-1] > scores[0] + 1
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 31))
    assert verify(unbroken) == []
    shown = scalars(unbroken / "_tensorboard")
    assert shown["loss"] == pytest.approx({line["step"]: line["loss"] for line in log if "loss" in line})
    assert shown["validation/score"] == pytest.approx({line["step"]: line["validation"]["score"] for line in log if "validation" in line})
    assert not (unbroken / "_train").exists(), "checkpoints are for going on alone"


def test_a_stage_is_prepared_in_the_driver_and_only_where_there_is_training_to_do(unbroken):
    processes = json.loads((unbroken / "processes.json").read_text())
    assert processes["arenas"] == "1", "malloc's settings have reached the worker"
    assert processes["prepared"] == os.getpid() != processes["trained"]
    again = Line()
    train.run(again, LineConfig(out=str(unbroken)))
    assert again.prepared_by is None


STOPPED = """
import sys
import ray
from readqg.config import Compute, TrainSettings
from readqg.engine import train
from readqg.stopping import Stopped, stoppable
from tests.engine import toys
ray.cloudpickle.register_pickle_by_value(toys)
config = toys.LineConfig(out=sys.argv[1], train=TrainSettings(checkpoint_steps=5, validate_steps=1000))
try:
    with stoppable():
        train.run(toys.Line(steps=100_000), config)
except Stopped as stop:
    sys.exit(stop.exit_code)
"""


@pytest.mark.slow
def test_ctrl_c_ends_a_training_in_order(tmp_path):
    log = tmp_path / "out" / "_train" / "log.jsonl"
    with (tmp_path / "said").open("w") as said:
        training = subprocess.Popen([sys.executable, "-c", STOPPED, str(tmp_path / "out")], stdout=said, stderr=said,
                                    cwd=Path(__file__).parents[2], start_new_session=True, preexec_fn=die_with_parent)
    while training.poll() is None and not (log.exists() and log.read_text().count('"loss"') > 10):
        time.sleep(0.1)
    assert training.poll() is None, (tmp_path / "said").read_text()
    os.killpg(training.pid, signal.SIGINT)  # as a terminal does
    assert training.wait(timeout=60) == 130, (tmp_path / "said").read_text()
    assert "Traceback" not in (tmp_path / "said").read_text()
    assert any((tmp_path / "out" / "_train").glob("checkpoint*")), "the next command goes on from there"


@pytest.fixture
def interruptible():
    """SIGINT does here what it does in a terminal, also where a shell has started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_training_whose_connection_to_ray_stays_open(tmp_path):
    log = tmp_path / "out" / "_train" / "log.jsonl"

    def interrupt():
        while not (log.exists() and log.read_text().count('"loss"') > 10):
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        train.run(Line(steps=100_000), LineConfig(out=str(tmp_path / "out"), train=TrainSettings(checkpoint_steps=5, validate_steps=1000)))
    ended = log.read_text()
    time.sleep(2)
    assert log.read_text() == ended


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_training_whose_workers_do_not_come(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "_ABORT_S", 3.0)

    @ray.remote(num_cpus=ray.cluster_resources()["CPU"])
    class All:
        def there(self):
            return True

    holder = All.remote()
    assert ray.get(holder.there.remote())
    threading.Timer(8.0, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        train.run(Line(), LineConfig(out=str(tmp_path / "out")))
    ray.kill(holder)
    time.sleep(8)  # room for workers, if anyone still waits for them
    assert not (tmp_path / "out" / "_train" / "log.jsonl").exists()
    assert ray.available_resources()["CPU"] == ray.cluster_resources()["CPU"], "nothing is kept for them"


@pytest.mark.slow
def test_a_killed_worker_goes_on_from_its_checkpoint_to_the_same_weights(unbroken, tmp_path):
    (tmp_path / "marks").mkdir()
    train.run(Line(deadly=(15,), marks=str(tmp_path / "marks")), LineConfig(out=str(tmp_path / "out")))
    assert begun(tmp_path / "marks") == [0, 15], "the step after a checkpoint, which Ray may not have noted yet"
    assert (tmp_path / "out" / "line.safetensors").read_bytes() == (unbroken / "line.safetensors").read_bytes()
    log = json.loads((tmp_path / "out" / "log.json").read_text())
    assert [line["step"] for line in log if "loss" in line] == list(range(1, 31)), "each step is logged once"
    assert scalars(tmp_path / "out" / "_tensorboard") == scalars(unbroken / "_tensorboard")


@pytest.mark.slow
def test_workers_may_die_as_often_as_it_happens_where_checkpoints_lie_between(unbroken, tmp_path):
    train.run(Line(deadly=(6, 11, 16, 21, 26), marks=str(tmp_path)), LineConfig(out=str(tmp_path / "out")))
    assert begun(tmp_path) == [0, 5, 10, 15, 20, 25]
    assert (tmp_path / "out" / "line.safetensors").read_bytes() == (unbroken / "line.safetensors").read_bytes()


@pytest.mark.slow
def test_workers_that_come_to_no_checkpoint_end_the_run(tmp_path):
    with pytest.raises(RunError, match=r"line: training failed: its workers died 4 times with no checkpoint between, the last time with"):
        train.run(Line(deadly=(0, 1, 2, 3, 4), marks=str(tmp_path)), LineConfig(out=str(tmp_path / "out")))
    assert begun(tmp_path) == [0] * 4


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_that_would_come_again_ends_the_run_at_once(tmp_path, workers):
    stage = Line(unusable=2, marks=str(tmp_path))
    with pytest.raises(InputError, match="batch 2 cannot be used"):
        train.run(stage, LineConfig(out=str(tmp_path / "out"), compute=Compute(workers=workers, threads=1)))
    assert begun(tmp_path) == [0] * workers, "one attempt"


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 0.5], ids=["an empty snapshot", "half a snapshot"])
def test_a_snapshot_of_rays_that_a_kill_cut_off_costs_no_step(unbroken, tmp_path, left):
    config = LineConfig(out=str(tmp_path / "out"))
    with pytest.raises(InputError):
        train.run(Line(unusable=17, marks=str(tmp_path)), config)
    snapshot = tmp_path / "out" / "_train" / "checkpoint_manager_snapshot.json"
    content = snapshot.read_bytes()
    snapshot.write_bytes(content[: int(len(content) * left)])
    train.run(Line(marks=str(tmp_path)), config)
    assert begun(tmp_path) == [0, 15]
    assert (tmp_path / "out" / "line.safetensors").read_bytes() == (unbroken / "line.safetensors").read_bytes()


def test_a_node_that_is_taken_away_with_notice_is_no_failure_however_often_it_is_said(tmp_path):
    attempts = train._Attempts("line", tmp_path)
    for preempted in [True] * 9 + [False] * 3:
        gone = ray.exceptions.RayActorError(preempted=preempted)
        attempts.after_exception(None, {0: WorkerHealthCheckFailedError("its actor is gone", gone), 1: RuntimeError("collective")})
    with pytest.raises(RunError, match="died 4 times with no checkpoint between"):
        attempts.after_exception(None, {0: RuntimeError("again")})


def test_a_checkpoint_without_the_marks_of_all_its_workers_is_not_gone_on_from(tmp_path):
    for step, marked in ((5, (0, 1)), (10, (1,)), (15, ())):
        for rank in (0, 1):
            folder = checkpoints.begin(tmp_path, step, Workers(rank, 2))
            checkpoints.write_facts(folder, {"workers": 2})
            if rank in marked:
                checkpoints.end(folder, Workers(rank, 2))
    assert checkpoints.newest(tmp_path) == tmp_path / "checkpoint-000000005"
    checkpoints.begin(tmp_path, 5, Workers(0, 2))
    assert checkpoints.newest(tmp_path) is None, "it is being written anew"
    checkpoints.keep_only(tmp_path, {"checkpoint-000000010"})
    assert [folder.name for folder in tmp_path.iterdir()] == ["checkpoint-000000010"]


def test_what_is_shown_as_done_is_what_the_checkpoint_has(tmp_path, caplog):
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps({"step": step, "loss": 1.0}) + "\n" for step in range(1, 34)))
    caplog.set_level("INFO", "readqg")
    with progress(Line(), tmp_path):
        pass
    assert "done already" not in caplog.text and "judged as a beginning" in caplog.text
    folder = checkpoints.begin(tmp_path, 20, Workers(0, 1))
    checkpoints.write_facts(folder, {"workers": 1, "step": 20})
    checkpoints.end(folder, Workers(0, 1))
    with progress(Line(), tmp_path):
        pass
    assert "line: 20 of 30 steps were done already" in caplog.text


def test_a_file_that_another_worker_is_writing_meanwhile_hinders_none(tmp_path):
    folder = checkpoints.begin(tmp_path, 5, Workers(0, 1))
    (folder / ".tmp").symlink_to("moved to its own name since")
    checkpoints.write_facts(folder, {"workers": 1})
    checkpoints.end(folder, Workers(0, 1))
    assert checkpoints.newest(tmp_path) == folder


def test_a_second_driver_is_refused_while_the_first_trains(tmp_path):
    out = tmp_path / "out"
    state = out / "_train"
    state.mkdir(mode=0o700, parents=True)
    with FileLock(state / "lock"), pytest.raises(FolderError, match="another command is at work in it"):
        train.run(Line(), LineConfig(out=str(out)))


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_stops_the_run_with_what_to_change(tmp_path):
    with pytest.raises(RunError, match=r"collapsed at step 4: the loss is nan.*Lower learning_rate \(0.01 now\), and give"):
        train.run(Line(steps=8, broken=4), LineConfig(out=str(tmp_path / "out")))
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_a_gradient_that_bursts_is_trouble_and_a_few_times_larger_is_not():
    usual = deque([1.0] * 50, maxlen=50)
    assert _trouble(0.5, 300.0, usual) is None
    assert _trouble(0.5, 2e4, deque([1.0] * 3, maxlen=50)) is None, "too few to compare with"
    assert "the norm of the gradient is 2e+04, that of the last 50 steps was 1" in _trouble(0.5, 2e4, usual)
    assert _trouble(0.5, 2e4, deque([0.0] * 50, maxlen=50)) is None, "a loss that was at 0 begins to move"
    assert _trouble(float("inf"), 1.0, usual) == "the loss is inf"
    assert _trouble(0.5, float("nan"), usual) == "the norm of the gradient is nan"


@pytest.mark.slow
def test_a_burst_is_trouble_for_whoever_goes_on_just_before_it_too(tmp_path):
    """The norms that it is measured by are part of a checkpoint."""
    for _ in range(2):
        with pytest.raises(RunError, match="collapsed at step 60: the norm of the gradient"):
            train.run(Line(steps=70, bursts=60, marks=str(tmp_path)), LineConfig(out=str(tmp_path / "out")))
    assert begun(tmp_path)[1] >= 55


@pytest.mark.slow
def test_a_stage_that_says_it_has_collapsed_stops_the_run(tmp_path):
    with pytest.raises(RunError, match="collapsed at step 10: its scores are all the same"):
        train.run(Line(steps=20, flat=True), LineConfig(out=str(tmp_path / "out")))


@pytest.mark.slow
def test_two_workers_learn_what_one_does(unbroken, tmp_path):
    """Without dropout, whose random states differ from worker to worker."""
    weights = {}
    for workers in (1, 2):
        out = tmp_path / str(workers)
        config = LineConfig(out=str(out), compute=Compute(workers=workers, threads=1), train=TrainSettings(optimizer="sgd"))
        train.run(Line(dropout=0.0), config)
        weights[workers] = load_file(out / "line.safetensors")
    for name, one in weights[1].items():
        assert (one - weights[2][name]).abs().max() < 1e-6


@pytest.mark.slow
def test_accumulated_batches_make_one_step(tmp_path):
    """Two batches' mean gradient is that of a batch of both, where the loss is a mean over rows."""
    import torch

    config = LineConfig(out=str(tmp_path / "out"), gradient_clip=0.0, weight_decay=0.0,
                        train=TrainSettings(optimizer="sgd", accumulation=2, validate_steps=100))
    stage = Line(steps=5, dropout=0.0)
    train.run(stage, config)
    found = load_file(tmp_path / "out" / "line.safetensors")
    torch.manual_seed((stage.seed * 1_000_003 - 1) * 4_099)
    model = stage.build()
    optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rate)
    for step in range(5):
        x, y = (torch.cat(both) for both in zip(*(stage.batch(2 * step + i)[1:] for i in range(2)), strict=True))
        optimizer.zero_grad()
        ((model(x) - y) ** 2).mean().backward()
        optimizer.step()
    for name, weight in model.state_dict().items():
        assert (weight - found[name]).abs().max() < 1e-6


def test_a_state_folder_that_others_may_write_to_is_not_read(tmp_path):
    (tmp_path / "out" / "_train").mkdir(parents=True, mode=0o777)
    (tmp_path / "out" / "_train").chmod(0o777)
    with pytest.raises(FolderError, match=r"_train can be written by others .* not read"):
        train.run(Line(), LineConfig(out=str(tmp_path / "out")))
