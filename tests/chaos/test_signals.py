"""Ctrl-C and SIGTERM put a command down in order, a second signal at once; the same command goes on from there."""

import os
import signal
import time

import pytest

from readqg.shards import verify
from tests.chaos.harness import Command
from tests.chaos.works import label, write_corpus

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def standing(out):
    return {p.name: p.stat().st_ino for p in out.glob("part-*")}


def at_work(args, out, log):
    """The command, once it has added a part; and the parts that are there."""
    command, before = Command(args, out, log), len(standing(out))
    while command.running and len(standing(out)) <= before:
        time.sleep(0.05)
    assert command.running, command.said
    return command, standing(out)


def test_a_command_that_is_stopped_says_so_and_goes_on_when_given_again(tmp_path):
    args = label(write_corpus(tmp_path))
    out, kept = tmp_path / "out", {}
    for name, code in (("SIGTERM", 143), ("SIGINT", 130)):
        command, there = at_work(args, out, tmp_path / f"{name}.log")
        assert kept.items() <= there.items()
        # A terminal sends Ctrl-C to all that it started; whoever ends a job sends SIGTERM to its first process.
        (os.killpg if name == "SIGINT" else os.kill)(command.pid, getattr(signal, name))
        assert command.end() == code
        assert "Stopped. What is done stays" in command.said
        assert "Traceback" not in command.said and "***" not in command.said
        kept = standing(out)
        assert there.items() <= kept.items()

    command, _ = at_work(args, out, tmp_path / "twice.log")
    os.killpg(command.pid, signal.SIGINT)
    time.sleep(0.1)
    began = time.monotonic()
    os.killpg(command.pid, signal.SIGINT)
    while command.running:
        time.sleep(0.01)
    assert time.monotonic() - began < 2
    assert command.end() == 130
    assert "Traceback" not in command.said

    command = Command(args, out, tmp_path / "last.log")
    assert command.end() == 0, command.said
    assert kept.items() <= standing(out).items()
    assert verify(out) == []
