"""Whether an output folder is the same on every node of a cluster.

Each worker commits its shards where the path leads on its own node. A path that is local to the nodes would leave the shards
scattered and the run never done, after hours: so that is looked for before any work begins."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from tempfile import TemporaryDirectory

from platformdirs import user_cache_path

from readqg.errors import ConfigError
from readqg.places import Place, StorePath, is_store

import ray  # isort: skip
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # isort: skip

log = logging.getLogger("readqg")

_WAIT_S = 90.0


def check_shared(folder: Place) -> None:
    """Raises `ConfigError` where a node does not see what has just been written to `folder`. Nodes that come later, and those
    that do not answer in time, are not looked at."""
    if isinstance(folder, StorePath):  # one and the same from everywhere
        return
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    if len(nodes) < 2:
        return
    expected = _seen(folder)
    asked = {
        ray.remote(num_cpus=0, max_retries=0)(_seen)
        .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False))
        .remote(folder): node
        for node_id, node in nodes.items()
    }
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=_WAIT_S)
    if late:
        log.warning("%d of %d nodes have not said in %.0f s whether they see %s", len(late), len(asked), _WAIT_S, folder)
    blind = [asked[answer]["NodeManagerAddress"] for answer in answered if _answer(answer) not in (expected, None)]
    if blind:
        raise ConfigError(
            f"{folder} is not the same folder on every node: {len(blind)} of {len(nodes)} do not see what this command has written "
            f"there ({', '.join(sorted(set(blind))[:5])}). Give an --out on a file system that all nodes share (NFS, EFS, Filestore, a "
            "ReadWriteMany volume), mounted at the same path.")


def training_folder() -> Path:
    """Where the state of trainings into stores lies, on this machine."""
    return user_cache_path("readqg") / "training"


def check_can_train(out: str) -> None:
    """On an open connection to Ray: raises `ConfigError` where `out` lies in a store, and the cluster has nodes that do not see where
    the state of training would lie."""
    if not is_store(out):
        return
    folder = training_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="look-", dir=folder) as probe:
        (Path(probe) / "_config.json").write_text(probe)
        try:
            check_shared(Path(probe))
        except ConfigError as error:
            raise ConfigError(
                f"{out} is a store, so the state of training lies in {folder} on the driver's machine, which this cluster's other nodes "
                "do not see. Train on one node, or give an --out on a file system that all nodes share and copy the model, or set "
                "XDG_CACHE_HOME to a folder that they share.") from error


def _answer(reference: ray.ObjectRef) -> str | None:
    """None where the node is gone."""
    try:
        found: str = ray.get(reference)
        return found
    except ray.exceptions.RayError:
        return None


def _seen(folder: Place) -> str:
    """A hash of the folder's `_config.json`, which its driver has written; "" where it is not there."""
    file = folder / "_config.json"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.exists() else ""
