"""Connecting to Ray: a local one that is started and ended here, or a running cluster."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Ray reads these when it is imported, or hands them on: no usage reports, no notices meant for other programs.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
# Ray notes a checkpoint as it looks after its workers, every 2 s, and the next waits for that; small models make one in less.
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")

import ray

from readqg.config import Compute
from readqg.engine import access
from readqg.engine.shared import check_shared
from readqg.errors import ConfigError, ReadQGError, RunError
from readqg.places import Place
from readqg.stopping import keeping_handlers

log = logging.getLogger("readqg")

_OBJECT_STORE_BYTES = 1 << 30
_STARTS = 5
_FIRST_WORKER_S = 1800.0
_IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"


@contextmanager
def connect(compute: Compute, out: Place | None = None) -> Iterator[None]:
    """A Ray to work on, whose nodes all see the folder `out`. A connection that is open already is used and left open; a local
    Ray started here ends here. In a job of Ray's it is the job's cluster, where no address is given.

    Raises `RunError` where the cluster at `compute.ray_address` does not answer, or no node of it runs work, `ConfigError` where it is
    off this machine and lets in whoever reaches it, or where `out` is not the same on all its nodes."""
    address = compute.ray_address or ("auto" if _IN_A_JOB in os.environ else None)
    wants_gpu = compute.device == "cuda" and address is not None
    if ray.is_initialized():
        _await_a_worker(wants_gpu)  # idle nodes may have left since the last stage
        _look(out)
        yield
        return
    access.check_version(ray.__version__, "here")
    try:
        with keeping_handlers():  # Ray's own for SIGTERM exits without a word
            if address is None:
                _start_local_patiently()
            else:
                _join(address)
                _await_a_worker(wants_gpu)
    except ReadQGError:
        ray.shutdown()
        raise
    except Exception as error:  # Ray raises bare ones, too
        ray.shutdown()
        where = address or "this machine"
        raise RunError(
            f"Ray on {where} does not answer: {error}. Check --compute.ray-address, and RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH "
            "where the cluster wants a token."
        ) from error
    try:
        _look(out)
        yield
    finally:
        ray.shutdown()


def _look(out: Place | None) -> None:
    if out is not None:
        check_shared(out)


def _join(address: str) -> None:
    """Connect to a running cluster. `auto` is the one of this machine, or of the job that runs this; where it lies is known
    once it is joined."""
    if address != "auto":
        access.check_address(address)
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    where = ray.get_runtime_context().gcs_address if address == "auto" else address
    if access.is_loopback(access.host_of(where)):
        return
    access.require_token(where)
    if ray.get(_auth_mode.remote()) != "token":
        access.refuse_open(where)


def _await_a_worker(gpu: bool) -> None:
    """The head of a cluster runs no work, and other nodes may come only when they are asked for: one is, and is waited for, for what the
    nodes have decides how work is shared out. The work itself asks for the rest.

    Raises `RunError` where none comes."""
    wanted = {"CPU": 1, "GPU": 1} if gpu else {"CPU": 1}
    if _is_there(wanted):
        return
    from ray.autoscaler.sdk import request_resources

    what = "node with a GPU" if gpu else "node that runs work"
    log.info("the cluster has no %s: one is asked for, and waited for", what)
    request_resources(bundles=[wanted])
    try:
        began = time.monotonic()
        while not _is_there(wanted):
            if time.monotonic() - began > _FIRST_WORKER_S:
                raise RunError(f"No {what} has come in {_FIRST_WORKER_S / 60:.0f} minutes: is there quota, or spot capacity? "
                               "`ray status` on the head says what it waits for.")
            time.sleep(1.0)
    finally:
        request_resources(bundles=[])


def _is_there(wanted: dict[str, int]) -> bool:
    return any(node["Alive"] and all(node["Resources"].get(name, 0.0) >= n for name, n in wanted.items()) for node in ray.nodes())


@ray.remote(num_cpus=0)
def _auth_mode() -> str:
    """How the node that runs this was started: a token that is sent proves nothing, for an open cluster does not look at it."""
    return os.environ.get("RAY_AUTH_MODE", "").lower()


def _start_local_patiently() -> None:
    """A machine that is very busy may not be up within the 30 s that Ray grants a node: it gets a few more."""
    for left in reversed(range(_STARTS)):
        try:
            return _start_local()
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
            log.warning("Ray did not start within the 30 s that it grants itself; it is tried again")
            ray.shutdown()


def _start_local() -> None:
    access.make_token_if_none()
    # A pool and its CPU steps need two logical CPUs to make progress, also on a machine with one core.
    shm = shutil.disk_usage("/dev/shm").free if os.path.isdir("/dev/shm") else _OBJECT_STORE_BYTES
    # Ray Data's actors make Ray's core print advice meant for its developers. RAY_BACKEND_LOG_LEVEL=info shows all again.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray ends a worker that has been idle for a second, where there are more than CPUs; the next shard then waits for another to start
    # and import all that it needs.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", "600000")
    with _without_lines_of("Set ray log level from environment"):
        ray.init(
            address="local",
            num_cpus=max(2, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=max(80 << 20, min(_OBJECT_STORE_BYTES, int(shm * 0.5))),
            logging_level=logging.ERROR,
        )


@contextmanager
def _without_lines_of(text: str) -> Iterator[None]:
    """What is written to the process's stderr meanwhile, below Python too, comes out afterwards, less the lines with `text`."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            held.seek(0)
            for line in held:
                if text.encode() not in line:
                    os.write(2, line)


def gpus() -> int:
    """Of the cluster as it is now."""
    return int(ray.cluster_resources().get("GPU", 0.0))


def has_gpu(compute: Compute) -> bool:
    """Whether model workers get a GPU each: they do where the cluster has one, unless the config says `cpu`."""
    return compute.device != "cpu" and gpus() >= 1


def actor_cpus(compute: Compute) -> float:
    """Logical CPUs of each of `compute.workers` actors with a model. With a GPU each, those that there is no GPU for yet wait for nodes
    that bring their own CPUs, and one is enough."""
    if has_gpu(compute):
        return min(1.0, model_cpus(min(compute.workers, gpus())))
    return model_cpus(compute.workers)


def model_cpus(workers: int) -> float:
    """Logical CPUs a model worker asks for, so that `workers` of them and the CPU steps (0.25 each) always fit. A third of all is left
    to the steps: else Ray Data may keep the last of them, which commits, without a share until the first has read everything.

    Raises `ConfigError` where that many workers do not fit."""
    largest = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=1.0)
    total = ray.cluster_resources().get("CPU", 1.0)
    for_models = total - max(0.5, total / 3)
    share = min(largest - 0.5, for_models / workers)
    if share < 0.05:
        raise ConfigError(
            f"{workers} workers do not fit on {total:g} CPUs; give at most {int(for_models / 0.05)} with --compute.workers."
        )
    return float(int(share)) if share >= 1 else int(share * 20) / 20
