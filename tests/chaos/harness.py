"""Runs stages as users do, kills what they started, and looks at what is left.

A command runs in a process of its own, with its own local Ray. Only processes that descend from it are ever killed: they are
found through /proc, so this needs Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from readqg.places import Place
from readqg.shards import verify
from readqg.shards.attempts import process_start

TARGETS = ("worker", "worker", "driver", "raylet")
_END_WITHIN_S = 1800.0
_GONE_WITHIN_S = 300.0  # a worker that is importing libraries, at Ray's low priority on a busy machine, is slow to see that it is alone
_AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")  # a raylet's: it ends with them, they look after it once a minute
_POLL_S = 0.1


class Command:
    """`readqg ARGS --out OUT`, running."""

    def __init__(self, args: list[str], out: Place, log: Path) -> None:
        self.out, self.log = out, log
        self._seen: dict[int, str | None] = {}
        with log.open("w") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "readqg.cli", *args, "--out", str(out)], stdout=file, stderr=file, start_new_session=True,
                cwd=Path(__file__).parents[2], env={**os.environ, "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"},
                preexec_fn=die_with_parent,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def processes(self, kind: str) -> list[int]:
        """Of the command's own: the `driver`, the `raylet`s, the `worker`s that have something to do."""
        if kind == "driver":
            return [self.pid] if self.running else []
        titles = self._descendants()
        if kind == "raylet":
            return [pid for pid, title in titles.items() if "/raylet/raylet " in title]
        return [pid for pid, title in titles.items() if title.startswith("ray::") and not title.startswith(("ray::IDLE", *_AGENTS))]

    def kill(self, kind: str, draw: random.Random) -> bool:
        """SIGKILL one process of a kind; False where there is none just now."""
        found = sorted(self.processes(kind))
        if not found:
            return False
        self._descendants()
        try:
            os.kill(draw.choice(found), signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def end(self, timeout_s: float = _END_WITHIN_S) -> int:
        """The exit code (of one killed: minus the signal's number), once the command and all of its that could write are gone."""
        deadline = time.monotonic() + timeout_s
        while self.running:
            self._descendants()
            if time.monotonic() > deadline:
                self._process.kill()
                raise AssertionError(f"not done within {timeout_s:.0f} s:\n{self.said}")
            time.sleep(_POLL_S * 5)
        self._wait_until_gone(but=_AGENTS)
        return int(self._process.returncode)

    def leave_nothing(self) -> None:
        """Waits for the last processes of a command that has ended."""
        self._wait_until_gone(but=())

    def _wait_until_gone(self, but: tuple[str, ...]) -> None:
        deadline = time.monotonic() + _GONE_WITHIN_S
        while alive := [pid for pid, start in self._seen.items() if process_start(pid) == start and _runs(pid, but)]:
            if time.monotonic() > deadline:
                raise AssertionError(f"outlived their driver by {_GONE_WITHIN_S:.0f} s: {self._put_down(alive)}")
            time.sleep(_POLL_S * 5)

    @staticmethod
    def _put_down(pids: list[int]) -> list[str]:
        """Kills what is left; says what it was."""
        titles = []
        for pid in pids:
            with contextlib.suppress(OSError):
                titles.append(_title(pid))
                os.kill(pid, signal.SIGKILL)
        return titles

    def _descendants(self) -> dict[int, str]:
        """pid -> command line (of a Ray worker: its title) of every process below the driver."""
        children: dict[int, list[int]] = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(stat.parent.name))
        below, todo = {}, [self.pid]
        while todo:
            for pid in children.get(todo.pop(), []):
                todo.append(pid)
                self._seen.setdefault(pid, process_start(pid))
                try:
                    below[pid] = _title(pid)
                except OSError:
                    continue
        return below


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def die_with_parent() -> None:
    """Linux's PR_SET_PDEATHSIG: a test that is stopped leaves no command behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _runs(pid: int, but: tuple[str, ...]) -> bool:
    """Whether a process is more than an entry that nobody has collected, and has none of these titles."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX" and not _title(pid).startswith(but or "\0")
    except (OSError, IndexError):
        return False


def add_node(cluster: Any) -> Any:
    """Of the fixture `cluster`: another node, with room for two model workers."""
    return cluster.add_node(num_cpus=2, object_store_memory=100 << 20)


def parts(out: Place) -> dict[str, bytes]:
    """Relative name -> bytes of every part in a folder and the folders in it."""
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("part-*.parquet")}


def undisturbed(args: list[str], out: Path) -> dict[str, bytes]:
    """The parts that a run makes when it is left alone."""
    command = Command(args, out, out.with_suffix(".log"))
    assert command.end() == 0, command.said
    command.leave_nothing()
    return parts(out)


@dataclass
class Tally:
    """What a campaign did and saw. `lost`, `doubled` and `different` count parts, over every folder that was finished."""

    kills: Counter[str] = field(default_factory=Counter)
    commands: int = 0
    folders: int = 0
    lost: int = 0
    doubled: int = 0
    different: int = 0
    damaged: list[str] = field(default_factory=list)

    def compare(self, expected: dict[str, bytes], out: Place) -> None:
        """`out` is finished: every expected part is there, once, with the expected bytes."""
        found = parts(out)
        self.folders += 1
        self.lost += len(expected.keys() - found.keys())
        self.doubled += len(found.keys() - expected.keys())
        self.different += sum(found[name] != content for name, content in expected.items() if name in found)
        self.damaged += [line for folder in out.rglob("_SUCCESS") for line in verify(folder.parent)]

    def said(self, expected: int) -> str:
        """In a line; `expected`: parts of a folder."""
        return (f"{sum(self.kills.values())} kills {dict(self.kills)}, {self.commands} commands, {self.folders} folders of {expected} "
                f"parts: lost {self.lost}, doubled {self.doubled}, different {self.different}")

    def clean(self) -> bool:
        return not (self.lost or self.doubled or self.different or self.damaged)


def disturbed(
    args: list[str], expected: dict[str, bytes], root: Place, logs: Path, kills: int, draw: random.Random, tally: Tally,
) -> None:
    """Give the command again and again until `kills` SIGKILLs have hit it and every folder that was begun, in `root`, is finished and
    compared. Which process, and when, comes from `draw`."""
    target, commands = sum(tally.kills.values()) + kills, []
    while sum(tally.kills.values()) < target:
        out, log = root / f"out-{tally.folders}", logs / f"out-{tally.folders}.log"
        while True:
            before = sum(tally.kills.values())
            command = Command(args, out, log)
            commands.append(command)
            _kill_at_moments(command, draw, tally, target, len(expected))
            if command.end() == 0:
                break
            if sum(tally.kills.values()) == before:
                raise AssertionError(f"failed though nothing was killed:\n{log.read_text()}")
        tally.compare(expected, out)
    for command in commands:
        command.leave_nothing()


def _kill_at_moments(command: Command, draw: random.Random, tally: Tally, target: int, total: int) -> None:
    tally.commands += 1
    for moment in _moments(command, draw, total):
        if not command.running or sum(tally.kills.values()) >= target:
            break
        kind = draw.choice(TARGETS)
        hit = False
        while command.running and not hit:
            hit = command.kill(kind, draw)
            time.sleep(_POLL_S)  # until Ray is up
        if hit:
            tally.kills[f"{kind}, {moment}"] += 1
        if kind != "worker":
            break


def _moments(command: Command, draw: random.Random, total: int) -> Iterator[str]:
    """Waits for the moment of the next kill: one time in four any in the first seconds, else some parts later."""
    while command.running:
        if draw.random() < 0.25:
            _wait(command, draw.uniform(0, 15))
            yield "any time"
            continue
        more = _count(command.out) + draw.randint(1, max(1, total // 6))
        while command.running and _count(command.out) < more:
            time.sleep(_POLL_S)
        _wait(command, draw.uniform(0, 0.5))
        yield "at work"


def _count(out: Place) -> int:
    return sum(1 for _ in out.rglob("part-*.parquet"))


def _wait(command: Command, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while command.running and time.monotonic() < deadline:
        time.sleep(_POLL_S)
