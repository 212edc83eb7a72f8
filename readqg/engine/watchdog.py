"""A worker that hangs is killed, so that its shard is tried again as after any other death.

Ray waits for a call that does not return for as long as the process lives. What is in hand, and since when nothing has come of
it, stands in the output folder's `_attempts`; a small Ray task on the worker's own node kills it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from readqg.errors import ReadQGError
from readqg.places import Place
from readqg.shards import OutputFolder
from readqg.shards.attempts import described, process_start, under_way

import ray  # isort: skip  (after `cluster`, which sets what Ray reads at import)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # isort: skip

log = logging.getLogger("readqg")

_MOST_BETWEEN_LOOKS_S = 10.0
_KILL_WITHIN_S = 60.0
# Of a try, when its file last changed and when that was seen: the file system's clock may be another's, and what counts is this one.
_Seen = dict[Place, tuple[float, float]]


@contextlib.contextmanager
def watched(folder: OutputFolder, stall_s: float) -> Iterator[None]:
    """Inside, workers of this driver run that show no sign of life for `stall_s` seconds are killed."""
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(folder, stall_s, stop), name="watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(folder: OutputFolder, stall_s: float, stop: threading.Event) -> None:
    seen: _Seen = {}
    said = False
    while not stop.wait(min(stall_s / 4, _MOST_BETWEEN_LOOKS_S)):
        try:
            seen = _look(folder, stall_s, stop, seen)
        except (OSError, ReadQGError) as error:  # a store or a mount that does not answer now does so again later
            if not said:
                log.warning("%s: hanging workers cannot be looked for now (%s); it is tried again", folder.stage, error)
            said = True


def _look(folder: OutputFolder, stall_s: float, stop: threading.Event, before: _Seen) -> _Seen:
    tries = under_way(folder.path, folder.run_id)
    seen = {path: before[path] if path in before and before[path][0] == facts["changed"] else (facts["changed"], time.monotonic())
            for path, facts in tries.items()}
    for path, (changed, since) in seen.items():
        if time.monotonic() - since > stall_s:
            log.warning(
                "%s: nothing has come of %s for %.0f s; its worker (process %d on %s) is killed, and it is tried again",
                folder.stage, described(path), stall_s, tries[path]["pid"], tries[path]["host"],
            )
            _kill(tries[path], stop)
            seen[path] = (changed, time.monotonic())
    return seen


def _kill(facts: dict[str, Any], stop: threading.Event) -> None:
    here = NodeAffinitySchedulingStrategy(node_id=facts["node"], soft=False)
    killing = ray.remote(num_cpus=0, max_retries=0)(_kill_here).options(scheduling_strategy=here).remote(facts["pid"], facts["started"])
    deadline = time.monotonic() + _KILL_WITHIN_S
    while not stop.is_set() and time.monotonic() < deadline:
        try:
            ray.get(killing, timeout=0.5)
        except ray.exceptions.GetTimeoutError:
            continue
        except ray.exceptions.RayError as error:  # the node is gone, and the worker with it
            log.info("watchdog: process %d was not killed: %s", facts["pid"], str(error).strip().splitlines()[-1])
        return


def _kill_here(pid: int, started: str | None) -> None:
    if process_start(pid) == started:  # else it has died, and its number is another's
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
