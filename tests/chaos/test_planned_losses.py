"""What `readqg plan` expects failures to cost, against a real stage whose worker is really killed at random."""

import os
import random
import signal
import threading
import time

import psutil
import pytest

from readqg.engine import data
from readqg.planning.machine import Machine, Rates, estimate
from readqg.planning.work import Work
from tests.engine.toys import Squares, SquaresConfig

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("ray_here")]

SHARD_S, SHARDS, KILLS_AN_HOUR = 2.0, 90, 120.0
RATES = Rates(1000.0, 1000.0, 1000.0, 1000.0, 1e4, 100.0, 0.0, 1e-9, "a test")


def seconds_of(out, shards: int, kill_after=()) -> float:
    """A stage's time while its model worker is killed, each so long after the one before."""
    done = threading.Event()

    def kill() -> None:
        for wait in kill_after:
            if done.wait(wait):
                return
            while not (workers := model_workers()) and not done.wait(0.1):
                pass
            for pid in workers:
                os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    began = time.monotonic()
    killer.start()
    data.run(Squares(shards=shards, takes_s=SHARD_S), SquaresConfig(out=str(out)))
    done.set()
    killer.join()
    return time.monotonic() - began


def model_workers() -> list[int]:
    children = psutil.Process().children(recursive=True)
    return [p.pid for p in children if p.is_running() and "MapBatches(_Model)" in " ".join(p.cmdline())]


@pytest.mark.timeout(900)
def test_a_stage_takes_about_what_the_plan_expects(tmp_path, capsys):
    seconds_of(tmp_path / "first", 2)  # Ray's processes import what they keep
    start_s = seconds_of(tmp_path / "undisturbed", 6) - 6 * SHARD_S
    probes = [start_s + 2.5 * SHARD_S, *[5.5 * SHARD_S] * 3]
    restart_s = (seconds_of(tmp_path / "probed", 16, probes) - start_s - 16 * SHARD_S) / len(probes) - SHARD_S / 2
    draw = random.Random(4)
    gaps = [draw.expovariate(KILLS_AN_HOUR / 3600) for _ in range(100)]
    taken = seconds_of(tmp_path / "killed", SHARDS, gaps) - start_s
    work = Work("generate", 1, "queries", "documents", generated=SHARDS * SHARD_S * RATES.generate_tokens_per_s, shards=SHARDS)
    machine = Machine("here", RATES, failures_per_node_hour=KILLS_AN_HOUR, restart_s=restart_s)
    expected = 3600 * estimate(work, 1, machine, 20).expected_hours
    with capsys.disabled():
        print(f"\n{SHARDS * SHARD_S:.0f} s of work, {KILLS_AN_HOUR:g} kills an hour of {restart_s:.1f} s each: expected {expected:.0f} s, "
              f"taken {taken:.0f} s")
    assert taken == pytest.approx(expected, rel=0.2)
