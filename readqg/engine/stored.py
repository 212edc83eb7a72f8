"""Training into a store: it works in a folder of this machine, and what it made is uploaded when it is done.

Checkpoints and logs are files that are appended to and replaced, which a store does not offer. So they lie in the cache of the
machine that the driver runs on, under the fingerprint of what was asked: the same command on the same machine goes on from
the last checkpoint, on another it begins anew. Workers write there too, so all of them run on that machine.
"""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

from readqg.config import identity
from readqg.engine import cluster, train
from readqg.engine.shared import check_can_train, training_folder
from readqg.places import Place, is_store, remove_folder
from readqg.shards import OutputFolder, appearing, fingerprint, read_json
from readqg.training import TrainStage

log = logging.getLogger("readqg")

_OF_THE_FOLDER = ("_config.json", "_SUCCESS", "_attempts", "_tmp", "_train")


def run(stage: TrainStage, config: Any) -> dict[str, Any]:
    """`train.run`, whose `config.out` may lie in a store. Raises `ConfigError` where that is so, and Ray has several nodes that do not
    share this machine's cache folder."""
    if not is_store(config.out):
        return train.run(stage, config)
    folder = OutputFolder.begin(config.out, stage.name, identity(config), stage.inputs(), stage.models())
    if folder.done:
        log.info("%s: %s is complete", stage.name, folder.path)
        return folder.success()
    state = training_folder() / fingerprint([config.out, read_json(folder.path / "_config.json")])
    here = config.model_copy(update={"out": str(state)})
    log.info("%s: the state of training lies in %s until the model is in %s", stage.name, state, folder.path)
    with cluster.connect(config.compute):
        check_can_train(config.out)
        made = train.run(stage, here)
    _upload_trackers(state, folder.path)
    success = folder.commit_files(state, made["facts"], only=made["files"])
    remove_folder(state)
    return success


def _upload_trackers(state: Path, out: Place) -> None:
    """What trackers (TensorBoard and the like) have written beside the model."""
    for kept in sorted(path for path in state.glob("_*") if path.name not in _OF_THE_FOLDER):
        for file in [kept] if kept.is_file() else sorted(path for path in kept.rglob("*") if path.is_file()):
            with appearing(out / file.relative_to(state).as_posix()) as target:
                shutil.copyfile(file, target)
