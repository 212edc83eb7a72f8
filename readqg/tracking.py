"""Training's metrics to TensorBoard, MLflow or Weights & Biases, beside the JSON lines that are always written."""

from __future__ import annotations

import importlib.util
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from readqg.errors import ConfigError

_NEEDS = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}


def check(names: Sequence[str]) -> None:
    """Raises `ConfigError` where a tracker's package is not installed."""
    for name in names:
        if importlib.util.find_spec(_NEEDS[name]) is None:
            raise ConfigError(f"train.trackers has {name}, but the package {_NEEDS[name]} is not installed: "
                              f"pip install 'readqg[{name}]', or leave it out.")


Line = tuple[int, Mapping[str, Any]]
"""A step and what was seen at it."""


class Trackers:
    """Where the metrics of a run into `folder` go. A run that was broken goes on under the same name, from `step` on; `kept`: what
    its log has up to there."""

    def __init__(
        self, names: Sequence[str], folder: Path, run: str, step: int, config: Mapping[str, Any], kept: Sequence[Line] = ()
    ) -> None:
        self._open = [_TRACKERS[name](folder, run, step, config) for name in names]
        for tracker in self._open:
            if tracker.begins_anew:
                for at, values in kept:
                    tracker.add(at, _numbers(values))

    def add(self, step: int, values: Mapping[str, Any]) -> None:
        """Numbers alone are kept; others (a validation's figures by document) are in the JSON lines."""
        for tracker in self._open:
            tracker.add(step, _numbers(values))

    def close(self) -> None:
        for tracker in self._open:
            tracker.close()


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if isinstance(value, int | float)}


class _TensorBoard:
    """Event files in OUT/_tensorboard. They are written every two minutes, so a kill loses what had been added since: a run that goes
    on takes back all earlier events and is given them again."""

    begins_anew = True

    def __init__(self, folder: Path, run: str, step: int, config: Mapping[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder / "_tensorboard"), purge_step=0)

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        for key, value in numbers.items():
            self._writer.add_scalar(key, value, step)

    def close(self) -> None:
        self._writer.close()


class _MLflow:
    """A run of the server that MLFLOW_TRACKING_URI names, else of OUT/_mlflow.db."""

    begins_anew = False

    def __init__(self, folder: Path, run: str, step: int, config: Mapping[str, Any]) -> None:
        import mlflow

        self._mlflow = mlflow
        if "MLFLOW_TRACKING_URI" not in os.environ:
            mlflow.set_tracking_uri(f"sqlite:///{folder / '_mlflow.db'}")
        kept = folder / "_mlflow_run"
        known = kept.read_text() if kept.exists() else None
        begun = mlflow.start_run(run_id=known, run_name=run)
        if known is None:  # MLflow takes no other value for a parameter later, and the number of workers may be another by then
            mlflow.log_params(dict(config))
        kept.write_text(begun.info.run_id)

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        self._mlflow.log_metrics(dict(numbers), step=step)

    def close(self) -> None:
        self._mlflow.end_run()


class _WandB:
    """A run of Weights & Biases; WANDB_PROJECT, WANDB_MODE=offline and the like apply."""

    begins_anew = False

    def __init__(self, folder: Path, run: str, step: int, config: Mapping[str, Any]) -> None:
        import wandb

        kept_in = folder / "_wandb"
        kept_in.mkdir(exist_ok=True)
        kept = kept_in / "run_id"
        run_id = kept.read_text() if kept.exists() else uuid.uuid4().hex[:12]
        kept.write_text(run_id)
        self._run = wandb.init(project=os.environ.get("WANDB_PROJECT", "readqg"), name=run, id=run_id, resume="allow",
                               dir=str(kept_in), config=dict(config))

    def add(self, step: int, numbers: Mapping[str, float]) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


_TRACKERS: dict[str, Any] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _WandB}
