"""A training stage in this process: what a trial needs of a training loop, without workers, checkpoints or DeepSpeed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from readqg.errors import RunError
from readqg.training import TrainStage, parameter_groups


def train(stage: TrainStage, model: Any, config: Any, stops: list[int]) -> Iterator[int]:
    """Train `model` with AdamW, and stop after each of the steps `stops`, counted from 1.

    `config` has learning_rate, weight_decay and gradient_clip. Raises `RunError` where the loss is not finite."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    for step in range(stops[-1]):
        torch.manual_seed(stage.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * stage.learning_rate(step)
        loss, _ = stage.loss(model, stage.batch(step))
        if not math.isfinite(float(loss.detach())):
            raise RunError(f"the loss is {float(loss.detach())} at step {step}")
        optimizer.zero_grad()
        loss.backward()
        if config.gradient_clip:
            torch.nn.utils.clip_grad_norm_(trained, config.gradient_clip)
        optimizer.step()
        if step + 1 in stops:
            yield step + 1
