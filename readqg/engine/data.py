"""Shard stages on Ray Data: read and prepare on CPU, compute on a pool of model workers, commit, and fold the receipts.

A row of the dataset is a shard to do, and its rows travel with it as an Arrow IPC stream. Documents as rows and a block as
a shard would rest on what Ray does not promise: empty blocks vanish, large ones are split, equal resources fuse a CPU step
into the model worker. `ray.data.checkpoint` is not used either: it holds all ids in memory, is not bound to the config,
and only appends. Here the output folder itself says what is done, and a commit never overwrites.
"""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pyarrow as pa

from readqg.config import Compute, identity
from readqg.engine import cluster
from readqg.engine.watchdog import watched
from readqg.errors import ReadQGError, RunError
from readqg.ladder import MOST_DEATHS, check_bound, compute_carefully, prepare_carefully
from readqg.progress import Progress, digits, duration
from readqg.shards import OutputFolder
from readqg.shards.attempts import Attempt, attempt, clear_attempts, reading
from readqg.stage import ShardResult, ShardStage

import ray  # isort: skip  (after `cluster`, which sets what Ray reads at import)

log = logging.getLogger("readqg")

_STEP_CPUS = 0.25  # never 0, and never so much that the pool and the steps do not fit on two CPUs
_COMPUTE_CPUS = 0.75  # of a step that computes, where there is no pool; it leaves room for the commit
_STEPS_A_WORKER = 2  # shards being read, or being committed, for each model worker; a process each
_LOADING_DEATHS = 3
# What bounds the tries of a shard is the ladder. Ray's own bound is above it: a shard waiting behind one that kills loses tries too.
_RAY_RETRIES = 3 * MOST_DEATHS


def run(stage: ShardStage, config: Any) -> dict[str, Any]:
    """Run the shards of `stage` that are not yet in `config.out`; returns what `_SUCCESS` says.

    The same call goes on where an earlier one stopped. Raises `FolderError` where the folder was begun with something else,
    `RunError` where too many rows failed or a worker died again and again; what is committed stays in every case."""
    folder = OutputFolder.begin(config.out, stage.name, identity(config), stage.inputs(), stage.models())
    return run_into(stage, folder, config.compute)


def run_into(stage: ShardStage, folder: OutputFolder, compute: Compute) -> dict[str, Any]:
    """`run` into a folder that was begun already."""
    if folder.done:
        log.info("%s: %s is complete", stage.name, folder.path)
        return folder.success()
    _run_missing(stage, folder, compute)
    return folder.finish(stage.total, compute.max_error_share)


def _run_missing(stage: ShardStage, folder: OutputFolder, compute: Compute) -> None:
    missing = folder.missing(stage.total)
    if not missing:
        return
    there = stage.total - len(missing)
    with (
        cluster.connect(compute, folder.path),
        watched(folder, compute.stall_s),
        Progress(stage.name, stage.total, "shards", there) as progress,
    ):
        wanted = min(compute.workers, len(missing))
        if stage.needs_model and cluster.has_gpu(compute) and wanted > cluster.gpus():
            log.warning("%s: of %d workers, all that the cluster has no GPU for wait: it has %d", stage.name, wanted, cluster.gpus())
        began, rows, busy_s = time.monotonic(), 0, 0.0
        for receipt in _receipts(stage, folder, compute, missing, wanted):
            rows, busy_s = rows + receipt["inputs"], busy_s + receipt["seconds"]
            progress.advance(1, f"{digits(rows / (time.monotonic() - began))} rows/s")
    took = time.monotonic() - began
    busy = f", its workers busy {busy_s / took / wanted:.0%} of the time" if stage.needs_model else ""
    log.info("%s: %d rows in %s, %s rows/s%s", stage.name, rows, duration(took), digits(rows / took), busy)


def _receipts(stage: ShardStage, folder: OutputFolder, compute: Compute, missing: list[int], workers: int) -> Any:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = 0
    context.raise_original_map_exception = True
    context.max_consecutive_actor_init_deaths = _LOADING_DEATHS
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    shards = ray.data.from_items([{"shard": i} for i in missing], override_num_blocks=len(missing))
    cpus = _STEP_CPUS if stage.needs_model else _COMPUTE_CPUS
    beside = ray.data.TaskPoolStrategy(size=min(_STEPS_A_WORKER * workers, len(missing))) if stage.needs_model else None
    data = shards.map_batches(_Read(stage, folder), batch_size=1, batch_format="pyarrow", num_cpus=cpus, compute=beside)
    if stage.needs_model:
        with warnings.catch_warnings():
            # Ray 2.60 takes what bounds its retries only as remote arguments, and says that 2.64 will not; Ray is pinned below that.
            warnings.simplefilter("ignore")
            data = data.map_batches(
                _Model,
                fn_constructor_args=(stage, folder),
                batch_size=1,
                batch_format="pyarrow",
                # All from the start: a pool that grows by itself never takes the last worker where CPUs are few, for Ray keeps shares
                # of them back for the other steps.
                compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
                num_cpus=cluster.actor_cpus(compute),
                num_gpus=1 if cluster.has_gpu(compute) else None,
                max_task_retries=_RAY_RETRIES,
            )
    commit = _Commit(folder, stage.total)
    data = data.map_batches(commit, batch_size=1, batch_format="pyarrow", num_cpus=_STEP_CPUS, compute=beside)
    try:
        for batch in data.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
            for text in batch["receipt"].to_pylist():  # type: ignore[union-attr]
                yield json.loads(text)
    except ray.exceptions.RayError as error:
        raise _explained(stage, error) from error


def _explained(stage: ShardStage, error: BaseException) -> ReadQGError:
    """The error that a worker explained, where one lies at the bottom of what Ray raises; else a `RunError` in Ray's words."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None) or seen.__cause__
        # Ray's own wrapper is an instance of the error it wraps, but its text is a traceback: what it wraps is what is wanted.
        if isinstance(seen, ReadQGError) and cause is None:
            return seen
        seen = cause
    last = str(error).strip().splitlines()[-1]
    return RunError(f"{stage.name}: a worker failed: {last}. What is committed stays; the same command goes on.")


class _Read:
    """CPU step: the rows of a shard, read and prepared. A stage without a model is computed here too."""

    def __init__(self, stage: ShardStage, folder: OutputFolder) -> None:
        self.stage, self.folder = stage, folder

    def __call__(self, batch: pa.Table) -> pa.Table:
        index = batch["shard"][0].as_py()
        began = time.monotonic()
        with _bounded(self.stage, self.folder, reading(index)) as under_way:
            table = prepare_carefully(self.stage, index, under_way)
        if self.stage.needs_model:
            return _row(index, {}, table)
        with _bounded(self.stage, self.folder, index) as under_way:
            self.stage.load()
            result = compute_carefully(self.stage, table, under_way)
            return _pack(index, result, time.monotonic() - began, self.stage.row_groups(result.table))


class _Model:
    """A model worker."""

    def __init__(self, stage: ShardStage, folder: OutputFolder) -> None:
        self.stage, self.folder = stage, folder
        _load(stage, folder)

    def __call__(self, batch: pa.Table) -> pa.Table:
        index, _, table = _unrow(batch)
        with _bounded(self.stage, self.folder, index) as under_way:
            began = time.monotonic()
            result = compute_carefully(self.stage, table, under_way)
            return _pack(index, result, time.monotonic() - began, self.stage.row_groups(result.table))


class _Commit:
    """CPU step: the shard appears under its final name; what goes on is its receipt. Without the stage, so that its process
    need not import what models need."""

    def __init__(self, folder: OutputFolder, total: int) -> None:
        self.folder, self.total = folder, total

    def __call__(self, batch: pa.Table) -> pa.Table:
        index, facts, table = _unrow(batch)
        seconds, row_groups = facts.pop("seconds"), facts.pop("row_groups")
        receipt = self.folder.commit(index, self.total, ShardResult(table=table, **facts), row_groups, seconds)
        return pa.table({"receipt": [json.dumps(receipt)]})


def _load(stage: ShardStage, folder: OutputFolder) -> None:
    """Ray starts a worker that is killed while it loads anew for ever (a model too large for the machine): here it ends."""
    name = f"loading-{ray.get_runtime_context().get_actor_id()}"
    with _attempt(folder, name) as under_way:
        if len(under_way.deaths) >= _LOADING_DEATHS:
            raise RunError(
                f"{stage.name}: a model worker was killed {_LOADING_DEATHS} times while it loaded its model. Is there memory "
                "enough? Lower --compute.workers. Did it hang (a warning above says so)? Raise --compute.stall-s if it only needs longer. "
                "What is committed stays, and the same command goes on."
            )
        stage.load()
    clear_attempts(folder.path, name)


@contextmanager
def _bounded(stage: ShardStage, folder: OutputFolder, what: int | str) -> Iterator[Attempt]:
    """A try that is not begun where too many have died: Ray starts a task whose worker is killed anew for ever."""
    with _attempt(folder, what) as under_way:
        check_bound(stage, under_way)
        yield under_way


def _attempt(folder: OutputFolder, what: int | str) -> AbstractContextManager[Attempt]:
    """A try in this worker, with what the watchdog needs to find it."""
    return attempt(folder.path, folder.run_id, what, {"node": ray.get_runtime_context().get_node_id()})


def _pack(index: int, result: ShardResult, seconds: float, row_groups: list[int] | None) -> pa.Table:
    facts = {name: getattr(result, name) for name in ("inputs", "errors", "nothing", "first_id", "last_id", "metrics", "counts")}
    return _row(index, {**facts, "seconds": seconds, "row_groups": row_groups}, result.table)


def _row(index: int, facts: dict[str, Any], table: pa.Table) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    payload = pa.array([sink.getvalue().to_pybytes()], pa.large_binary())
    return pa.table({"shard": pa.array([index], pa.int64()), "facts": [json.dumps(facts)], "payload": payload})


def _unrow(batch: pa.Table) -> tuple[int, dict[str, Any], pa.Table]:
    with pa.ipc.open_stream(batch["payload"][0].as_buffer()) as reader:
        table = reader.read_all()
    return batch["shard"][0].as_py(), json.loads(batch["facts"][0].as_py()), table
