"""Runs a shard stage in this process, one shard after another: no Ray, no worker, nothing of the engine."""

from __future__ import annotations

import time
from typing import Any

from readqg.shards import OutputFolder
from readqg.stage import ShardStage, compute_shard, prepare_shard


def run_here(stage: ShardStage, folder: OutputFolder, max_error_share: float = 1.0) -> dict[str, Any]:
    """Do the shards of `stage` that are not in `folder` yet, and return its `_SUCCESS`. The model is loaded once, and not
    at all where nothing is left to do."""
    missing = [] if folder.done else folder.missing(stage.total)
    if missing:
        stage.load()
    for index in missing:
        begun = time.monotonic()
        result = compute_shard(stage, prepare_shard(stage, stage.read(index)))
        folder.commit(index, stage.total, result, stage.row_groups(result.table), time.monotonic() - begun)
    return folder.finish(stage.total, max_error_share)
