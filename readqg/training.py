"""What a training stage is: batches, a loss, what is saved. (A stage of rows into rows: `readqg.stage`.)

The engine runs it; the stage knows nothing of Ray or DeepSpeed and is tested without them. It is a plain picklable object made from
a config class; the model is made in `build()`, on the worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from readqg.workers import ALONE, Workers


class TrainStage:
    """A model, its batches and its loss. Everything random must come from `torch`'s generators, which the engine seeds
    anew at every batch from (seed, batch, rank), or from a generator the stage keys itself."""

    name: str
    steps: int
    seed: int
    most_workers: int = 1
    """More workers than this would find nothing to do in a batch."""
    counts: Mapping[str, int] = {}
    """What of its inputs is used, and what is not: beside the steps in `_SUCCESS`."""
    keeps_start = True  # False: the best weights are those of a validation after the first step, even if the start's was better

    def inputs(self) -> dict[str, str]:
        """Name -> fingerprint of every input; a folder begun with others is refused."""
        raise NotImplementedError

    def models(self) -> dict[str, str]:
        """Name -> fingerprint of every model used."""
        return {}

    def prepare(self) -> None:
        """Called once, in the driver, before the stage goes to its workers, where there is training to do: compute here, into what is
        pickled, what each of them would else compute for itself. A stage that was not prepared does the same."""

    def build(self) -> Any:
        """The `torch.nn.Module` to train; parameters that require gradients are the ones trained."""
        raise NotImplementedError

    def batch(self, number: int, workers: Workers = ALONE) -> Any:
        """This worker's share of batch `number` (0-based). The global batch is a pure function of (seed, number). A step takes
        one batch, or as many as gradients are accumulated over."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Any, workers: Workers = ALONE) -> tuple[Any, dict[str, float]]:
        """(scalar loss tensor, metrics as plain floats), both of the global batch, the same on every worker. Called inside the
        engine's one forward."""
        raise NotImplementedError

    def learning_rate(self, step: int) -> float:
        """Multiplier of the base learning rate at `step`."""
        return 1.0

    def validate(self, model: Any, workers: Workers = ALONE) -> dict[str, Any]:
        """Held-out metrics, the same on every worker; called every `validate_steps` steps and at both ends. Key `score`: higher
        is better, used to keep the best weights; absent: the last weights are kept."""
        return {}

    def collapsed(self, start: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
        """Why training has collapsed, seen from the first validation and the latest; None: it has not."""
        return None

    def state(self) -> dict[str, Any]:
        """Tensors beside the weights that a checkpoint must hold for the training to go on as if unbroken."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` gave."""

    def save(self, model: Any, folder: Path, log: list[dict[str, Any]]) -> None:
        """Write the trained model's files into a folder, where an attempt that was killed may have left some. `log`: one dict a logged
        step."""
        raise NotImplementedError


def scheduled(schedule: str, step: int, steps: int, warmup: float) -> float:
    """The learning rate's multiplier at `step` of `steps`: a linear rise over the first `warmup` steps, then 1 ("constant"), or a
    linear fall to 0 after the last step ("linear"). The first step of the rise is not 0 and the last of the fall is not 0:
    neither is wasted, which counts where there are few."""
    rise = (step + 1) / warmup if warmup > 0 else 1.0
    fall = (steps - step) / max(steps - warmup, 1.0) if schedule == "linear" else 1.0
    return max(0.0, min(1.0, rise, fall))


def parameter_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """What an optimizer is made of: biases and norms are not decayed, as in the usual trainers."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
