"""JSON lines of what training saw: written by its first worker, followed by the driver's progress."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from readqg.engine import checkpoints
from readqg.progress import Progress
from readqg.shards import write_whole
from readqg.training import TrainStage

log = logging.getLogger("readqg")


class TrainingLog:
    """One line a logged step or validation."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def read(self) -> list[dict[str, Any]]:
        return read_log(self.path)

    def keep_until(self, step: int) -> None:
        """Drop what a broken run logged after the checkpoint."""
        kept = [line for line in self.read() if line["step"] <= step]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept))


def read_log(path: Path) -> list[dict[str, Any]]:
    return _parsed(path.read_bytes()) if path.exists() else []


def _parsed(content: bytes) -> list[dict[str, Any]]:
    lines = []
    for text in content.splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:  # the line that was being written when a worker was killed
            continue
    return lines


@contextmanager
def progress(stage: TrainStage, state: Path) -> Iterator[None]:
    """Shows the log of a training in `state` as it grows, from its last checkpoint on."""
    stop = threading.Event()
    path, last = state / "log.jsonl", checkpoints.newest(state)
    first = checkpoints.read_facts(last)["step"] if last else 0

    def follow(shown: Progress) -> None:
        seen = path.stat().st_size if path.exists() else 0  # what lies beyond the checkpoint is dropped, and done again
        while not stop.wait(1.0):
            content = path.read_bytes() if path.exists() and path.stat().st_size != seen else b""
            fresh, seen = content[seen if seen < len(content) else 0 :], len(content) or seen
            steps = [line for line in _parsed(fresh) if "loss" in line]
            if steps and steps[-1]["step"] > shown.done:
                shown.advance(steps[-1]["step"] - shown.done, f"loss {steps[-1]['loss']:.4f}")

    log.info("%s: workers start%s; then come the steps", stage.name, "" if first else ", held-out documents are judged as a beginning")
    with Progress(stage.name, stage.steps, "steps", first, warms_up=True) as shown:
        thread = threading.Thread(target=follow, args=(shown,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
