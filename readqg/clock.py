"""Seconds that work took, summed over interrupted runs."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from readqg.places import Place
from readqg.shards import explained, write_whole

log = logging.getLogger("readqg")


class Clock:
    """`with clock.stage("rank"): ...` adds to what the file at `path` says of "rank"."""

    def __init__(self, path: Place) -> None:
        self.path = path
        with explained(f"making {path.parent}"):
            path.parent.mkdir(parents=True, exist_ok=True)
        found = json.loads(path.read_text()) if path.exists() else {"seconds": {}, "done": []}
        self.seconds: dict[str, float] = found["seconds"]
        self._done = set(found["done"])

    @contextmanager
    def stage(self, name: str, again: bool = False) -> Iterator[None]:
        """Where it was done already, a look at what is there adds nothing, unless it is done `again`."""
        log.info("— %s", name)
        if name in self._done and not again:
            yield
            return
        began, before = time.monotonic(), self.seconds.get(name, 0.0)
        try:
            yield
            self._done.add(name)
        finally:
            self.seconds[name] = round(before + time.monotonic() - began, 1)
            write_whole(self.path, json.dumps({"seconds": self.seconds, "done": sorted(self._done)}))
