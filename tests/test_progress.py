"""What a log says of long work: done, rate and time left."""

import pytest

from readqg import progress
from readqg.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: False, raising=False)
    return now


def told(caplog, clock, at, **how):
    """The lines of work of 10 steps that are done one by one at these seconds."""
    with caplog.at_level("INFO", logger="readqg"), Progress("train", 10, "steps", **how) as shown:
        for seconds in at:
            clock[0] = 100.0 + seconds
            shown.advance(1, "loss 1")
    return caplog.messages


def test_rate_and_time_left_are_of_what_this_run_did(caplog, clock):
    assert told(caplog, clock, [20, 40], start=3) == [
        "train: 3 of 10 steps were done already", "train: 4/10 steps, 20.0 s each, 2 min 00 s left, loss 1",
        "train: 5/10 steps, 20.0 s each, 1 min 40 s left, loss 1"]


def test_a_start_that_takes_long_is_no_part_of_the_rate(caplog, clock):
    assert told(caplog, clock, [200, 220, 240], warms_up=True) == [
        "train: 10 steps to do", "train: 1/10 steps, loss 1", "train: 2/10 steps, 20.0 s each, 2 min 40 s left, loss 1",
        "train: 3/10 steps, 20.0 s each, 2 min 20 s left, loss 1"]


def test_lines_come_now_and_then_and_at_the_end(caplog, clock):
    assert len(told(caplog, clock, range(10))) == 2
    assert caplog.messages[-1] == "train: 10/10 steps, 1.1 steps/s, 0 s left, loss 1"
