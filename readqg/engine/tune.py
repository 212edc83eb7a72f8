"""Searches on Ray Tune: Optuna proposes, ASHA ends what lags behind, and a trial is a plain function in a process of its own.

What a search has found lies in its trials' folders (`readqg.tuning.search`), never in Tune's own state, which is a pickle and
is not read: the same command again tells Optuna and ASHA what is there, begins anew what had no result yet, and goes on.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from readqg.clock import Clock
from readqg.config import TuneSettings, identity
from readqg.engine import cluster
from readqg.engine.alone import alone
from readqg.errors import ConfigError, RunError
from readqg.places import is_store
from readqg.progress import Progress
from readqg.shards import OutputFolder, write_whole
from readqg.stage import ShardResult
from readqg.tuning import table
from readqg.tuning.search import Range, Search, Trial, trials

import ray  # isort: skip  (after `cluster`, which sets what Ray reads at import)
from ray import tune  # isort: skip
from ray.tune.execution import class_cache  # isort: skip
from ray.tune.schedulers import ASHAScheduler  # isort: skip
from ray.tune.search.optuna import OptunaSearch  # isort: skip

log = logging.getLogger("readqg")

_TRIALS = "_trials"
_DEATHS = 2
"""Times that a trial whose process died is begun again."""
_FIRST_LINE_CHARS = 300


def search(search: Search, config: Any) -> dict[str, Any]:
    """Search into `config.out`; returns what `_SUCCESS` says, and the winner. The same call goes on where one was killed.

    Raises `RunError` where no trial finished; more hours or trials, or another `rungs`, may help; `ConfigError` for a store;
    `FolderError` where another command searches into it."""
    if is_store(config.out):
        raise ConfigError(f"--out {config.out}: the trials of a search work in files, so it needs a path. Inputs may lie in a store.")
    folder = OutputFolder.begin(config.out, search.name, identity(config), search.inputs(), search.models())
    root = folder.local / _TRIALS
    if folder.done:
        _say_if_more_is_asked(config, trials(root))
    else:
        _search(search, config, folder)
        found = [t for t in trials(root) if t.status != "begun"]
        if table.best(found) is None:
            first = next((t.result["error"] for t in found if t.result["error"]), "none was finished in the time given")
            raise RunError(f"{search.name}: no trial of {len(found)} finished: {first}. Their folders are in {root}.")
        result = ShardResult(table.table(found, search.space), len(found), sum(t.status == "failed" for t in found), 0)
        folder.commit(0, 1, result)
        write_whole(folder.local / "_table.html", table.html(search, found))
        folder.finish(1)
    winner = table.write_winner(folder.local / "_best.yaml", search, trials(root))
    assert winner is not None
    return {**folder.success(), "winner": winner.values, "score": winner.score, "config_file": str(folder.local / "_best.yaml"),
            "table": str(folder.local / "_table.html")}


def _say_if_more_is_asked(config: Any, found: list[Trial]) -> None:
    if config.trials > len(found):
        log.warning("%s: this search is done, with %d trials; %d are asked for now. Another --out begins a new one.",
                    config.out, len(found), config.trials)


def _ended(root: Path) -> list[Trial]:
    return [t for t in trials(root) if t.status != "begun"]


def _search(search: Search, config: TuneSettings, folder: OutputFolder) -> None:
    root = folder.local / _TRIALS
    root.mkdir(exist_ok=True)
    with alone(root):
        clock = Clock(folder.local / "_seconds.json")
        seconds = None if config.hours is None else config.hours * 3600 - clock.seconds.get(search.name, 0.0)
        if len(_ended(root)) < config.trials and (seconds is None or seconds > 0):
            with clock.stage(search.name, again=True):
                _run_trials(search, config, folder, None if seconds is None else time.monotonic() + seconds)
        for trial in trials(root):  # those that the hours cut off
            trial.end("stopped")


def _run_trials(search: Search, config: TuneSettings, folder: OutputFolder, deadline: float | None) -> None:
    """Until there are enough, or `deadline` (of the monotonic clock). What Optuna proposes a second time is none, so it may take a few
    rounds."""
    root = folder.local / _TRIALS
    done = _ended(root)
    with cluster.connect(config.compute, folder.local), Progress(search.name, config.trials, "trials", len(done)) as progress:
        resources = _resources(config)
        _prepare(search, folder.local, resources)
        while (left := config.trials - len(done)) > 0 and (deadline is None or time.monotonic() < deadline):
            begun = [t.values for t in trials(root) if t.status == "begun"]
            state = folder.tmp / f"tune-{len(done)}"
            state.mkdir(mode=0o700, parents=True)
            tuner = tune.Tuner(
                tune.with_resources(_trainable(search, root), resources),
                tune_config=tune.TuneConfig(
                    num_samples=left,
                    search_alg=_optuna(search.space, config.search_seed, done, begun),
                    scheduler=_asha(search.rungs, config.reduction, done),
                    max_concurrent_trials=config.compute.workers,
                    time_budget_s=None if deadline is None else deadline - time.monotonic(),
                ),
                run_config=tune.RunConfig(
                    storage_path=str(state), name=search.name, callbacks=[_Watch(root, progress)], verbose=0,
                    failure_config=tune.FailureConfig(max_failures=_DEATHS),
                ),
            )
            _quietly(tuner.fit)
            before, done = len(done), _ended(root)
            if len(done) == before:
                return


def _resources(config: TuneSettings) -> dict[str, float]:
    if cluster.has_gpu(config.compute):
        return {"CPU": 1.0, "GPU": config.gpus_per_trial}
    return {"CPU": cluster.model_cpus(config.compute.workers)}


def _prepare(search: Search, out: Path, resources: dict[str, float]) -> None:
    """On a worker: the head of a cluster may have no GPU."""
    task = ray.remote(num_cpus=resources["CPU"], num_gpus=resources.get("GPU", 0), max_retries=1)(_prepared)
    try:
        ray.get(task.remote(search, out))
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from None


def _prepared(search: Search, out: Path) -> None:
    search.prepare(out)


def _trainable(search: Search, root: Path) -> Callable[[dict[str, Any]], None]:
    def run_trial(values: dict[str, Any]) -> None:
        trial, began = Trial.begin(root, values), time.monotonic()
        if trial.has_result:  # proposed a second time
            tune.report({"rung": search.rungs, "score": trial.score if trial.score is not None else -2.0})
            return
        try:
            for number, rung in enumerate(search.trial(trial.values, trial.folder), 1):
                trial.add(number, rung.metrics, time.monotonic() - began)
                if rung.last:  # before Tune hears of it, which ends a trial at its last rung
                    trial.end("finished")
                tune.report({"rung": number, **rung.metrics})
        except Exception as error:  # not raised: Tune would try it again, as it does where a process dies
            trial.end("failed", f"{type(error).__name__}: {error}"[:_FIRST_LINE_CHARS])

    return run_trial


def _optuna(space: dict[str, Range], seed: int, done: list[Trial], begun: list[dict[str, Any]]) -> OptunaSearch:
    """Told what was found, with the trials that were under way first; seeded by how many there are, or it would propose again what it
    had."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spaces = {name: _distribution(span) for name, span in space.items()}
    found = OptunaSearch(spaces, metric="score", mode="max", seed=seed + len(done) + len(begun), points_to_evaluate=begun or None)
    for trial in done:
        failed = trial.status == "failed" or trial.score is None
        found.add_evaluated_point(trial.values, trial.score or 0.0, error=failed)
    return found


def _distribution(span: Range) -> Any:
    from optuna.distributions import FloatDistribution, IntDistribution

    if span.whole:
        return IntDistribution(int(span.low), int(span.high), log=span.log)
    return FloatDistribution(span.low, span.high, log=span.log)


def _asha(rungs: int, reduction: int, done: list[Trial]) -> ASHAScheduler:
    """ASHA over rungs, knowing what earlier trials had at each: a restored search is as strict as one that was never killed."""
    asha = ASHAScheduler(
        time_attr="rung", metric="score", mode="max", max_t=max(rungs, 1), grace_period=1, reduction_factor=reduction,
        stop_last_trials=False)
    for milestone, recorded in asha._brackets[0]._rungs:
        for trial in done:
            reached = [line["score"] for line in trial.curve if line["rung"] >= milestone]
            if reached:
                recorded[trial.folder.name] = reached[0]
    return asha


class _Watch(tune.Callback):
    """Writes the result of what Tune ended, and moves the progress."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root, self.progress, self.best = root, progress, float("-inf")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        known = Trial.named(self.root, trial.config)
        known.end("stopped")
        self._say(known)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        known = Trial.named(self.root, trial.config)
        known.end("failed", "its process died")
        self._say(known)

    def _say(self, trial: Trial) -> None:
        if trial.score is not None:
            self.best = max(self.best, trial.score)
        score = "no score" if trial.score is None else f"score {trial.score:.4f}"
        self.progress.advance(1, f"{trial.status}, {score}, best {self.best:.4f}")


def _quietly(fit: Callable[[], Any]) -> None:
    """Tune says at length, on standard output, what the progress says in a line; and it would have trials work in folders of
    its own."""
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # with its own, Ctrl-C would end the search as if it were done
    # Tune would hand a store's keys to its workers in their runtime environment, which Ray logs. Local workers inherit them, nodes
    # have their own.
    class_cache.ENV_VARS_TO_PROPAGATE.difference_update([name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")])
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            fit()
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
