"""Drivers as processes of their own, on one bucket: two at once, and one that is killed again and again."""

import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from readqg.local import run_here
from readqg.shards import OutputFolder, open_input, verify
from tests.stores.drivers import SHARDS, Slow

KILLS = 10


def driver(out, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.stores.drivers", str(out), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


@pytest.fixture
def expected(tmp_path) -> dict[str, bytes]:
    """The parts of an undisturbed run on disk."""
    folder = OutputFolder.begin(tmp_path / "expected", Slow.name, {}, Slow().inputs())
    run_here(Slow(), folder)
    return {p.name: p.read_bytes() for p in folder.path.glob("part-*.parquet")}


def check_same(out, expected: dict[str, bytes]) -> None:
    assert {p.name: p.read_bytes() for p in out.glob("part-*.parquet")} == expected
    assert open_input(out).rows == SHARDS * 100
    assert verify(out) == []


def test_of_two_drivers_each_shard_is_committed_by_one(out, expected):
    drivers = [driver(out, 0.02), driver(out, 0.02)]
    said = [process.communicate(timeout=120)[0].splitlines()[1:] for process in drivers]
    assert [process.returncode for process in drivers] == [0, 0]
    committed = Counter(receipt["index"] for lines in said for receipt in map(json.loads, lines) if receipt["committed"])
    assert committed == Counter(range(SHARDS))
    check_same(out, expected)


@pytest.mark.slow
def test_a_driver_that_is_killed_ten_times_leaves_the_parts_of_an_unbroken_run(out, expected):
    draw, kills = random.Random(7), 0
    while kills < KILLS:
        process = driver(out, 0.1)
        for _ in range(1 + draw.randrange(3)):  # "begun", and up to two shards
            process.stdout.readline()
        try:
            process.wait(timeout=draw.uniform(0.0, 0.2))  # in the middle of a shard, of its upload, or between them
        except subprocess.TimeoutExpired:
            kills += 1
        process.kill()
        process.wait()
        process.stdout.close()
        assert not (out / "_SUCCESS").exists(), "the driver was done too soon for this test to say anything"
    there = len(list(out.glob("part-*.parquet")))
    assert 0 < there < SHARDS
    last = driver(out, 0.0)
    receipts = last.communicate(timeout=120)[0].splitlines()[1:]
    assert last.returncode == 0 and len(receipts) == SHARDS - there, "only what is missing is done"
    check_same(out, expected)
