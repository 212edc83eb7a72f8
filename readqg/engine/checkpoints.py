"""Checkpoints of a training, in OUT/_train: where they lie, which are whole, which one to go on from.

All workers write into one folder there, the steps that DeepSpeed's files must agree on; each leaves a mark once its part is
written. The newest with all marks is the one to go on from. Ray keeps its own snapshot of those that it was told of, to keep the
last few; it notes one at its next look and writes the snapshot in place, so what it says after a kill may be late, or half.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from readqg.config import TrainSettings
from readqg.errors import ConfigError
from readqg.shards.once import sync
from readqg.workers import Workers

log = logging.getLogger("readqg")

_SNAPSHOT = "checkpoint_manager_snapshot.json"  # Ray's name
_PREFIX = "checkpoint-"
_FACTS = "facts.json"


def begin(state: Path, step: int, workers: Workers) -> Path:
    """The folder for a checkpoint at `step`. One that a broken attempt left there is no longer whole."""
    folder = state / f"{_PREFIX}{step:09d}"
    folder.mkdir(exist_ok=True)
    _mark(folder, workers.rank).unlink(missing_ok=True)
    return folder


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    (folder / _FACTS).write_text(json.dumps(facts))


def read_facts(folder: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((folder / _FACTS).read_text())
    return facts


def end(folder: Path, workers: Workers) -> None:
    """This worker's part is written; it and the mark outlast a loss of power."""
    mark = _mark(folder, workers.rank)
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another worker's, under a name that it has while it is written
            sync(path)
    mark.touch()
    for path in (mark, folder, folder.parent):
        sync(path)


def fits(stage: str, facts: dict[str, Any], train: TrainSettings, workers: Workers, precision: str) -> None:
    """Raises `ConfigError` where a checkpoint was made with other workers or in another precision than it would be used in."""
    if train.zero_stage and facts["workers"] != workers.count:
        raise ConfigError(
            f"{stage}: begun with {facts['workers']} workers and ZeRO {train.zero_stage}, whose checkpoints no other number of workers "
            f"can read; there are {workers.count} now. Give --compute.workers {facts['workers']}, or another --out."
        )
    if facts["precision"] != precision:
        raise ConfigError(
            f"{stage}: begun in {facts['precision']}, and this machine would go on in {precision}: the result would be "
            f"neither's. Go on where it was begun, or give another --out."
        )


def newest(state: Path) -> Path | None:
    """The checkpoint to go on from: the last that is whole, whether Ray has noted it yet or not."""
    return max((folder for folder in state.glob(f"{_PREFIX}*") if _whole(folder)), default=None)


def set_aside_unreadable(state: Path) -> None:
    """Ray cannot start over a snapshot that a kill cut off, or that names a checkpoint that is not whole."""
    snapshot = state / _SNAPSHOT
    if snapshot.exists() and not _readable(snapshot):
        os.replace(snapshot, snapshot.with_suffix(".unreadable"))
        log.warning("%s cannot be read: a kill hit Ray as it wrote it. It is set aside", snapshot)


def keep_only(state: Path, names: set[str]) -> None:
    """What a kill left behind, and Ray will never remove, goes."""
    for folder in state.glob(f"{_PREFIX}*"):
        if folder.name not in names:
            shutil.rmtree(folder, ignore_errors=True)


def _readable(snapshot: Path) -> bool:
    try:
        named = [found["checkpoint_dir_name"] for found in json.loads(snapshot.read_bytes())["checkpoint_results"]]
    except (ValueError, KeyError, TypeError):
        return False
    return all(_whole(snapshot.parent / name) for name in named)


def _whole(folder: Path) -> bool:
    try:
        workers = int(read_facts(folder)["workers"])
    except (OSError, ValueError, KeyError):
        return False
    return all(_mark(folder, rank).exists() for rank in range(workers))


def _mark(folder: Path, rank: int) -> Path:
    return folder / f"written-{rank}"
