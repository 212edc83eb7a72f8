"""`_attempts/`: which shard is in whose hand, so that the next try knows what became of the last.

`_attempts/00003.2` is the second try to compute shard 3 that has begun (`reading-00003.2`: to read and prepare it, `loading-ACTOR.2`:
of a model worker to load its model; what kills in one says nothing of the others): a small JSON file with host, process and driver
run, and with the row in hand where rows are done one by one. A try that ends, well or with an exception, removes its file; what stays
is that of a worker that died. It counts as the shard's doing only when its driver lived on and tried again: a try that went down with
its driver, or was stopped with it, says nothing of the shard.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from readqg.errors import ReadQGError
from readqg.places import Place, StorePath, create
from readqg.shards.files import explained, write_whole

WHOLE = -1
"""Noted in place of a row: every row has been done alone, and now the shard is done whole."""
HALVED = -2
"""The same, at half the token budget."""

_READING = "reading-"
_BETWEEN_SIGNS_S = 5.0  # in a store a sign of life is a request


@dataclass
class Attempt:
    """A try under way. `deaths`: what earlier tries of the shard left that killed their worker, oldest first."""

    path: Place
    facts: dict[str, Any]
    deaths: list[dict[str, Any]]
    _signed: float = field(default_factory=time.monotonic)

    def note(self, row: int) -> None:
        """`row` (0-based in the shard, or `WHOLE` or `HALVED`) is in hand now."""
        self.facts["row"] = row
        self.path.parent.mkdir(exist_ok=True)  # another driver that has finished the folder removes it
        write_whole(self.path, json.dumps(self.facts))

    def alive(self) -> None:
        """There is progress: the file is as new as now. A sign that cannot be given is no reason to lose what is in hand."""
        with suppress(OSError, ReadQGError):
            if not isinstance(self.path, StorePath):
                os.utime(self.path)
            elif time.monotonic() - self._signed > _BETWEEN_SIGNS_S:
                self._signed = time.monotonic()
                write_whole(self.path, json.dumps(self.facts))


@contextmanager
def attempt(out: Place, run_id: str, what: int | str, where: dict[str, Any] | None = None) -> Iterator[Attempt]:
    """A try under way in this process, for the driver run `run_id`: of shard number `what`, or of what is so named. `where` is
    kept in its file. Raises `FolderError` where the file cannot be written."""
    folder = out / "_attempts"
    with explained(f"writing {folder}"):
        folder.mkdir(exist_ok=True)
        earlier = sorted((p for p in folder.glob(f"{_name(what)}.*") if p.suffix[1:].isdigit()), key=_number)
        deaths = [death for path in earlier if (death := _death(path, run_id)) is not None]
        facts = {
            "host": socket.gethostname(), "pid": os.getpid(), "started": process_start(os.getpid()),
            "run": run_id, "oom_kills": oom_kills(), **(where or {}),
        }
        path = _begun(folder, _name(what), _number(earlier[-1]) + 1 if earlier else 1, facts)
    try:
        yield Attempt(path, facts, deaths)
    finally:
        path.unlink(missing_ok=True)


def clear_attempts(out: Place, what: int | str) -> None:
    """Forget the tries of what is done; of a shard those to read it, too."""
    for name in (_name(what), *((reading(what),) if isinstance(what, int) else ())):
        for path in (out / "_attempts").glob(f"{name}.*"):
            path.unlink(missing_ok=True)


def reading(index: int) -> str:
    """The name of the reading and preparing of a shard."""
    return f"{_READING}{index:05d}"


def described(path: Place) -> str:
    """What a try is of, in words."""
    if path.stem.isdigit():
        return f"shard {int(path.stem)}"
    return f"the reading of shard {int(path.stem.removeprefix(_READING))}" if path.stem.startswith(_READING) else "the loading of a model"


def under_way(out: Place, run_id: str) -> dict[Place, dict[str, Any]]:
    """The tries of a driver run that have neither ended nor been found dead, each with when its file last changed, in `changed`
    (seconds on the file system's clock)."""
    found: dict[Place, dict[str, Any]] = {}
    for path in (out / "_attempts").glob("*"):
        if not path.suffix[1:].isdigit():
            continue  # one that is being written
        with suppress(FileNotFoundError, ValueError):
            facts = {"changed": path.stat().st_mtime, **json.loads(path.read_text())}
            if facts["run"] == run_id and not facts.get("died"):
                found[path] = facts
    return found


def oom_kills() -> int | None:
    """How many processes the kernel has killed on this machine for want of memory; None where it does not say."""
    with suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def process_start(pid: int) -> str | None:
    """When a process began, in the kernel's ticks: with its number, what identifies it. None where the kernel does not say."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return None


def _name(what: int | str) -> str:
    return f"{what:05d}" if isinstance(what, int) else what


def _number(path: Place) -> int:
    return int(path.suffix[1:])


def _begun(folder: Place, name: str, number: int, facts: dict[str, Any]) -> Place:
    while True:
        try:
            if create(path := folder / f"{name}.{number}", json.dumps(facts).encode()):
                return path
            number += 1  # another driver's try of the same shard
        except FileNotFoundError:  # another driver has finished the folder, and removed this one
            folder.mkdir(exist_ok=True)


def _death(path: Place, run_id: str) -> dict[str, Any] | None:
    """What a try left that killed its worker; one of this run is marked as such, for the runs to come."""
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):  # it has ended meanwhile; or the machine went down while it was written
        return None
    if facts.get("died"):
        return facts
    if facts.get("run") != run_id:
        return None
    write_whole(path, json.dumps({**facts, "died": True}))
    return facts
