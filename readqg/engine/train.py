"""Training stages on Ray Train and DeepSpeed, seen from the driver; the loop itself is `training_loop`.

`datasets=` of Ray Train is not used: the order of the data must not depend on streaming. Checkpoints of DeepSpeed are pickles:
only the run's own folder, OUT/_train (mode 0700), is ever loaded, and it is removed when the model is there.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
from pathlib import Path
from typing import Any

from readqg import tracking
from readqg.config import Compute, TrainSettings, identity
from readqg.engine import checkpoints, cluster
from readqg.engine.alone import alone
from readqg.engine.training_log import progress, read_log
from readqg.engine.training_loop import Job, train_here
from readqg.errors import FolderError, ReadQGError, RunError, first_line
from readqg.shards import OutputFolder, explained
from readqg.training import TrainStage

import ray.train  # isort: skip  (after `cluster`, which sets what Ray reads at import)
import ray.train.torch  # isort: skip
from ray._raylet import PlacementGroupID  # isort: skip
from ray.util.placement_group import PlacementGroup  # isort: skip

log = logging.getLogger("readqg")

_STATE = "_train"
_MOST_FAILURES = 3
_ABORT_S = 30.0
# glibc gives large tensors back to the system as they are freed, and gets them again page by page: on a CPU, a twentieth of a step. In
# one arena that keeps what it has it need not. Only in training: other processes should not keep their peaks. Other libraries of C than
# glibc do not read these.
_KEEP_MEMORY = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


def run(stage: TrainStage, config: Any) -> dict[str, Any]:
    """Train `stage` into `config.out`; returns what `_SUCCESS` says. The same call goes on from the last checkpoint.

    Raises `RunError` where training collapses or its worker dies more than a few times, `ConfigError` where a checkpoint was made
    with other workers or in another precision than it would now be used in."""
    folder = OutputFolder.begin(config.out, stage.name, identity(config), stage.inputs(), stage.models())
    state = folder.local.resolve() / _STATE  # as Ray will name it
    if folder.done:
        log.info("%s: %s is complete", stage.name, folder.local)
        shutil.rmtree(state, ignore_errors=True)
        return folder.success()
    tracking.check(config.train.trackers)
    _make_private(state)
    with alone(state):
        if folder.done:  # by another command, just now
            shutil.rmtree(state, ignore_errors=True)
            return folder.success()
        return _trained(stage, config, folder, state)


def _trained(stage: TrainStage, config: Any, folder: OutputFolder, state: Path) -> dict[str, Any]:
    stage.prepare()
    checkpoints.set_aside_unreadable(state)
    made = folder.tmp / "model"
    job = Job(
        stage=stage,
        train=config.train,
        state=str(state),
        compute=config.compute,
        log=str(state / "log.jsonl"),
        tracked=str(folder.local.resolve()),
        made=str(made.resolve()),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        gradient_clip=config.gradient_clip,
    )
    with cluster.connect(config.compute, folder.local), progress(stage, state):
        _fit(stage, job, folder, config.compute, config.train)
    success = folder.commit_files(made, {**stage.counts, "steps": stage.steps})
    shutil.rmtree(state, ignore_errors=True)
    return success


class _Attempts(ray.train.UserCallback):  # type: ignore[misc]
    """Which failure ends the run: Ray retries what workers raise, as often as it happens, but not what a callback does. An error that a
    worker raised on purpose will come again. (One that it returned would leave its fellows waiting for it.) And where a few
    attempts in a row have come to no checkpoint, none will."""

    def __init__(self, name: str, state: Path) -> None:
        self._name, self._state = name, state
        self._from: Path | None = None
        self._failures = 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if isinstance(error, ReadQGError):
                raise error
        if any(map(_preempted, worker_exceptions.values())):  # no fault of the work, and said again until all its workers are gone
            return
        newest = checkpoints.newest(self._state)
        self._failures = self._failures + 1 if newest == self._from else 1
        self._from = newest
        if self._failures > _MOST_FAILURES:
            last = first_line(next(iter(worker_exceptions.values())))
            raise RunError(f"{self._name}: training failed: its workers died {self._failures} times with no checkpoint between, the last "
                           f"time with: {last}. The same command goes on from the last checkpoint.")


def _preempted(error: Exception) -> bool:
    """Whether a worker went because its node was taken away with notice."""
    return getattr(getattr(error, "health_check_failure", error), "preempted", False) is True


class _Trainer(ray.train.torch.TorchTrainer):
    """Ray Train's own answer to Ctrl-C ends the program without a word, with exit code 1, and stays after `fit`. Here the run is put
    down, for the connection to Ray may stay open, and the interrupt goes on up."""

    _controller: Any = None

    def _register_sigint_handler(self, controller: Any) -> None:
        self._controller = controller

    def fit(self) -> Any:
        reserved = _reserved()
        try:
            return super().fit()
        except KeyboardInterrupt:
            if self._controller is not None:
                log.warning("Stopping: the workers are put down. A second Ctrl-C ends at once.")
                _put_down(self._controller, reserved)
            raise


def _put_down(controller: Any, others: set[PlacementGroupID]) -> None:
    """End the run of `controller` and give back what it had reserved; `others` are the reservations from before it."""
    try:
        ray.get(controller.abort.remote(), timeout=_ABORT_S)
    except ray.exceptions.GetTimeoutError:  # it waits for workers that do not come: they go with it
        ray.kill(controller)
        for group in _reserved() - others:  # Ray would keep it until the whole job ends
            ray.util.remove_placement_group(PlacementGroup(group))
    except ray.exceptions.RayError:  # its actor ends in the call
        pass


def _reserved() -> set[PlacementGroupID]:
    """The placement groups of this job."""
    groups = (PlacementGroupID.from_hex(group) for group in ray.util.placement_group_table())
    job = ray.get_runtime_context().get_job_id()
    return {group for group in groups if group.hex().endswith(job)}  # an id ends with that of its job


def _make_private(state: Path) -> None:
    """What lies in it will be unpickled, so nobody else may have written there."""
    with explained(f"making {state}"):
        state.mkdir(mode=0o700, exist_ok=True)
        found = state.stat()
    if hasattr(os, "getuid") and (found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077):
        raise FolderError(
            f"{state} can be written by others (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}): its checkpoints are pickles, "
            "which run code as they are read, so it is not read. Delete it, or give another --out."
        )


def _fit(stage: TrainStage, job: Job, folder: OutputFolder, compute: Compute, train: TrainSettings) -> None:
    gpu = cluster.has_gpu(compute)
    most = min(compute.workers, stage.most_workers)
    if most < compute.workers:
        log.info("%s: %d workers, not %d: a batch has no more to share", stage.name, most, compute.workers)
    least = most if train.min_workers is None else min(train.min_workers, most)
    number: Any = most if least == most else (least, most)  # what ray.train's stubs say is its older API's
    resources: dict[str, float] = {"CPU": 1.0, "GPU": 1.0} if gpu else {"CPU": cluster.model_cpus(most)}
    callbacks: list[Any] = [_Attempts(stage.name, folder.local.resolve() / _STATE)]
    trainer = _Trainer(
        train_here,
        train_loop_config={"job": job},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=number, use_gpu=gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # the stubs are those of Ray Train's first version
            storage_path=str(folder.local.resolve()),
            name=_STATE,
            worker_runtime_env={} if gpu else {"env_vars": {k: v for k, v in _KEEP_MEMORY.items() if k not in os.environ}},
            callbacks=callbacks,
            failure_config=ray.train.FailureConfig(max_failures=-1),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=train.keep_checkpoints),
        ),
    )
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        cause = getattr(error, "controller_failure", None) or next(iter(getattr(error, "worker_failures", {}).values()), error)
        if isinstance(cause, ReadQGError):
            raise cause from None
        raise RunError(
            f"{stage.name}: training failed: {cause}. The same command goes on from the last checkpoint."
        ) from error
    last = read_log(folder.local / _STATE / "log.jsonl")[-1:]
    if last and "collapsed" in last[0]:
        raise RunError(
            f"{stage.name}: training collapsed at step {last[0]['step']}: {last[0]['collapsed']}. "
            f"Lower learning_rate ({job.learning_rate:g} now){'' if job.gradient_clip else ', or set gradient_clip to 1'}, and give "
            f"another --out (the state of this one is in {folder.local / _STATE})."
        )
