"""What was shown and what was said of it: JSON lines that are only ever added to, each on the disk before it counts.

```
OUT/judgments.jsonl
  {"event": "shown", "query_id", "query", "left": "a" | "b", "a": [doc_id, ...], "b": [...], "at"}   once a query
  {"event": "choice", "query_id", "choice": "left" | "right" | "tie" | "skip", "at"}                 the last one of a query counts
  {"event": "grade", "query_id", "doc_id", "relevance": 1 | 0 | null, "at"}                          null: taken back
  {"event": "undo", "query_id", "at"}                                                                takes back a choice
  {"event": "end", "at"}                                                                             names were shown; nothing follows
```
A line that a kill has cut off was never acknowledged, and is removed when the file is opened again.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from readqg.errors import FolderError
from readqg.shards import explained
from readqg.shards.once import sync

log = logging.getLogger("readqg")

FILE = "judgments.jsonl"
Side = Literal["a", "b"]
Said = Literal["left", "right", "tie", "skip"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    at: str = Field(default_factory=_now)


class Shown(_Event):
    event: Literal["shown"] = "shown"
    query_id: str
    query: str
    left: Side
    a: tuple[str, ...]
    b: tuple[str, ...]

    @property
    def same(self) -> bool:
        return self.a == self.b

    def winner(self, choice: Said) -> Side | None:
        if choice not in ("left", "right"):
            return None
        return self.left if choice == "left" else _OTHER[self.left]


class Choice(_Event):
    event: Literal["choice"] = "choice"
    query_id: str
    choice: Said


class Grade(_Event):
    event: Literal["grade"] = "grade"
    query_id: str
    doc_id: str
    relevance: Literal[0, 1] | None


class Undo(_Event):
    event: Literal["undo"] = "undo"
    query_id: str


class End(_Event):
    event: Literal["end"] = "end"


Event = Annotated[Shown | Choice | Grade | Undo | End, Field(discriminator="event")]
_EVENT: TypeAdapter[Event] = TypeAdapter(Event)
_OTHER: Mapping[Side, Side] = {"a": "b", "b": "a"}


class UnfitError(ValueError):
    """What was said does not fit what was shown, or was said before."""


class Judgments:
    """The judgments of a folder, for one process at a time. `with Judgments(folder) as judgments: judgments.add(...)`

    Raises `FolderError` where another process has them open, a line in the middle is damaged, the disk is full or may not be
    written. What `add` has returned from is on the disk."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.shown: dict[str, Shown] = {}
        self.choices: dict[str, Said] = {}
        """By query, the latest last."""
        self.grades: dict[str, dict[str, int]] = {}
        self.ended = False
        self._file = self._open()
        try:
            self._replay()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Judgments:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def waiting(self) -> Shown | None:
        """The query that was shown last, if nothing has been said of it yet."""
        last = next(reversed(self.shown.values()), None)
        return last if last is not None and last.query_id not in self.choices else None

    @property
    def winners(self) -> list[Side]:
        """Of the queries without a tie, in the order in which they were judged."""
        found = map(self.winner, self.choices)
        return [side for side in found if side is not None]

    def winner(self, query_id: str) -> Side | None:
        """Of a query that was judged; None for a tie and for one that was skipped."""
        return self.shown[query_id].winner(self.choices[query_id])

    def wins(self, side: Side) -> int:
        return self.winners.count(side)

    def count(self, choice: Said) -> int:
        return sum(said == choice for said in self.choices.values())

    def add(self, event: Event) -> None:
        """Keep an event. Raises `UnfitError` for one that does not fit those before it, which is not kept."""
        self._check(event)
        end = self._file.seek(0, os.SEEK_END)
        with explained(f"writing {self.path}"):
            try:
                self._write(event.model_dump_json().encode() + b"\n")
            except OSError:
                self._file.truncate(end)
                raise
        self._apply(event)

    def _open(self) -> BinaryIO:
        with explained(f"writing {self.path}"):
            new = not self.path.exists()
            file = self.path.open("a+b", buffering=0)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, however it ends
            except BlockingIOError:
                file.close()
                raise FolderError(f"{self.path} is open in another `readqg compare`. Go on there, or end it first.") from None
            if new:
                sync(self.path.parent)
        return file

    def _write(self, line: bytes) -> None:
        while line:
            line = line[self._file.write(line):]
        os.fsync(self._file.fileno())

    def _replay(self) -> None:
        self._file.seek(0)
        lines = self._file.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            log.warning("%s: the last line was cut off by a kill and is removed; that click did not count.", self.path)
            self._file.truncate(sum(map(len, lines[:-1])))
            lines.pop()
        for number, line in enumerate(lines, 1):
            try:
                event = _EVENT.validate_json(line)
                self._check(event)
            except (ValidationError, UnfitError) as error:
                raise FolderError(f"{self.path}, line {number}: {_first(error)}; found {line[:200].decode(errors='replace').strip()!r}. "
                                  "The file is only ever added to: bring back what it was, or take that line out.") from None
            self._apply(event)

    def _check(self, event: Event) -> None:
        if self.ended:
            raise UnfitError("the comparison has ended; the names were shown")
        if isinstance(event, End):
            return
        if isinstance(event, Shown):
            if event.query_id in self.shown:
                raise UnfitError(f"query {event.query_id!r} was shown before")
            return
        shown = self.shown.get(event.query_id)
        if shown is None:
            raise UnfitError(f"query {event.query_id!r} was not shown")
        if isinstance(event, Choice) and shown.same and event.choice in ("left", "right"):
            raise UnfitError("both sides are the same, so neither can be better")
        if isinstance(event, Grade) and event.doc_id not in (*shown.a, *shown.b):
            raise UnfitError(f"document {event.doc_id!r} was not shown for query {event.query_id!r}")
        if isinstance(event, Undo) and event.query_id not in self.choices:
            raise UnfitError(f"nothing was said of query {event.query_id!r}")

    def _apply(self, event: Event) -> None:
        match event:
            case Shown():
                self.shown[event.query_id] = event
            case Choice():
                self.choices.pop(event.query_id, None)
                self.choices[event.query_id] = event.choice
            case Grade(query_id=query_id, doc_id=doc_id, relevance=relevance):
                grades = self.grades.setdefault(query_id, {})
                if relevance is None:
                    grades.pop(doc_id, None)
                else:
                    grades[doc_id] = relevance
            case Undo():
                del self.choices[event.query_id]
            case End():
                self.ended = True


def _first(error: ValidationError | UnfitError) -> str:
    if isinstance(error, ValidationError):
        found = error.errors()[0]
        return f"{'.'.join(map(str, found['loc']))}: {found['msg']}" if found["loc"] else found["msg"]
    return str(error)
