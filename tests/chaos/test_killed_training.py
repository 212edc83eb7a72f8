"""The driver is killed in the middle of training, or a node of a two-node cluster is lost: where another comes, the same weights as
undisturbed."""

import json
import random
import time
from pathlib import Path

import pytest

from tests.chaos.harness import Command, add_node
from tests.reranker.corpus import reranker_config

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1500)]

EVERY = 40  # steps a checkpoint
STEPS = 1800  # so many that a quick machine, whose log comes in gulps, is not done before it is killed


def steps(out: Path) -> int:
    """The last step logged."""
    log = out / "_train" / "log.jsonl"
    lines = log.read_text().splitlines()[:-1] if log.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def gone_on_from(command: Command, out: Path, reached: int) -> int:
    """The first step below `reached` that the log is seen to end with: it is cut back to the checkpoint. `reached` where it is not."""
    again = reached
    while command.running and again >= reached:
        again = min(again, steps(out) or again)
        time.sleep(0.02)
    return again


def command_line(folder: Path) -> list[str]:
    """Trains a tiny re-ranker for `STEPS` steps."""
    config = reranker_config(folder)
    return ["train-reranker", "--queries", config.queries, "--documents", config.documents, "--start", config.start, "--batch", "4",
            "--max-length", "48", "--epochs", str(STEPS // 3), "--train.checkpoint-steps", str(EVERY), "--train.validate-steps", str(STEPS),
            "--compute.device", "cpu", "--compute.precision", "fp32", "--compute.threads", "1"]


def assert_same(broken: Path, whole: Path) -> None:
    """The same weights, and a line in the log for every step."""
    name = "model.safetensors"
    assert (broken / name).read_bytes() == (whole / name).read_bytes()
    lines = [json.loads(line) for line in (broken / "training_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))


def test_a_killed_driver_costs_at_most_one_checkpoint_interval_and_changes_nothing(tmp_path, capsys):
    args = command_line(tmp_path)
    whole = Command(args, tmp_path / "whole", tmp_path / "whole.log")
    assert whole.end() == 0, whole.said

    out = tmp_path / "broken"
    for at in (130, 900):
        broken = Command(args, out, tmp_path / "broken.log")
        while broken.running and steps(out) < at:
            time.sleep(0.02)
        assert broken.kill("driver", random.Random(0)), broken.said
        broken.end()
        reached = steps(out)
        broken = Command(args, out, tmp_path / "broken.log")
        again = gone_on_from(broken, out, reached)
        assert again < reached and reached - again <= EVERY, (again, reached, broken.said)
        with capsys.disabled():
            print(f"\ndriver killed at step {reached}, gone on from {again}: {reached - again} steps lost, a checkpoint every {EVERY}")
        broken.kill("driver", random.Random(0))
        broken.end()
    broken = Command(args, out, tmp_path / "broken.log")
    assert broken.end() == 0, broken.said
    assert_same(out, tmp_path / "whole")


@pytest.mark.cluster
def test_a_lost_node_costs_at_most_one_checkpoint_interval_and_changes_nothing(tmp_path, cluster, capsys):
    args = [*command_line(tmp_path), "--compute.workers", "2", "--compute.ray-address", cluster.address]
    second = add_node(cluster)
    whole = Command(args, tmp_path / "whole", tmp_path / "whole.log")
    assert whole.end() == 0, whole.said

    broken = Command(args, tmp_path / "broken", tmp_path / "broken.log")
    while broken.running and steps(tmp_path / "broken") < 250:
        time.sleep(0.05)
    assert broken.running, broken.said
    cluster.remove_node(second, allow_graceful=False)
    time.sleep(1)
    reached = steps(tmp_path / "broken")
    add_node(cluster)
    again = gone_on_from(broken, tmp_path / "broken", reached)
    assert broken.end() == 0, broken.said
    with capsys.disabled():
        print(f"\nnode lost at step {reached}, gone on from {again}: {reached - again} steps lost, a checkpoint every {EVERY}")
    assert again < reached, "the log was seen to be cut back"
    assert reached - again <= EVERY
    assert_same(tmp_path / "broken", tmp_path / "whole")


@pytest.mark.cluster
def test_a_training_of_one_to_two_workers_goes_on_with_the_one_that_is_left(tmp_path, cluster):
    args = [*command_line(tmp_path), "--compute.workers", "2", "--train.min-workers", "1", "--compute.ray-address", cluster.address]
    second = add_node(cluster)
    out = tmp_path / "out"
    training = Command(args, out, tmp_path / "out.log")
    while training.running and steps(out) < 250:
        time.sleep(0.05)
    assert training.running, training.said
    assert {json.loads(facts.read_text())["workers"] for facts in (out / "_train").glob("*/facts.json")} == {2}
    cluster.remove_node(second, allow_graceful=False)
    again = gone_on_from(training, out, steps(out))
    while training.running and steps(out) < again + 2 * EVERY:
        time.sleep(0.05)
    assert training.running, training.said
    assert 1 in {json.loads(facts.read_text())["workers"] for facts in (out / "_train").glob("*/facts.json")}
    assert training.end() == 0, training.said
    lines = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, STEPS + 1))
