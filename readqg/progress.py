"""Progress of long work: one live line on a terminal, a line now and then elsewhere (a job's log, a file)."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

log = logging.getLogger("readqg")
console = Console(stderr=True)

_LINE_EVERY_S = 15.0


class Progress:
    """`with Progress("generate", total=40, unit="shards") as p: p.advance(1, rows=256)`.

    Shows done and total, rate and time left; `start` counts what an earlier run did, which the rate leaves out, and with `warms_up` the
    time until the first are done too."""

    def __init__(self, label: str, total: int, unit: str, start: int = 0, warms_up: bool = False) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.done = self._start = start
        self.note = ""
        self._began = self._said = time.monotonic()
        self._warms_up = warms_up
        self._bar: Bar | None = None

    def __enter__(self) -> Progress:
        if self._start:
            log.info("%s: %d of %d %s were done already", self.label, self._start, self.total, self.unit)
        if sys.stderr.isatty():
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._bar.add_task(self.label, total=self.total, completed=self._start, note="")
            self._bar.start()
        elif not self._start:  # the first line of progress may take minutes
            log.info("%s: %d %s to do", self.label, self.total, self.unit)
        return self

    def advance(self, count: int = 1, note: str = "") -> None:
        """`count` more are done; `note` is shown beside (a loss, rows a second)."""
        now = time.monotonic()
        self.done += count
        self.note = note
        if self._warms_up:
            self._warms_up, self._began, self._start = False, now, self.done
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, note=note)
            return
        if now - self._said >= _LINE_EVERY_S or self.done >= self.total:
            self._said = now
            log.info("%s", self._line(now))

    def _line(self, now: float) -> str:
        rate = (self.done - self._start) / max(now - self._began, 1e-9)
        note = f", {self.note}" if self.note else ""
        if not rate:
            return f"{self.label}: {self.done}/{self.total} {self.unit}{note}"
        speed = f"{rate:.1f} {self.unit}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
        return f"{self.label}: {self.done}/{self.total} {self.unit}, {speed}, {duration((self.total - self.done) / rate)} left{note}"

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()


def digits(rate: float) -> str:
    """`0.031`, `0.5`, `291000.0`: a rate below 1 is not 0.0."""
    return f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"


def duration(seconds: float) -> str:
    """`75` -> `1 min 15 s`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
