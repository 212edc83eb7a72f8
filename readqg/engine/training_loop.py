"""The training loop, in a worker's process: one for both models.

Everything a step computes lies inside one forward of the DeepSpeed engine (ZeRO 3 needs that). A batch depends on (seed, number)
alone, and random states are seeded anew from (seed, number, rank), so a checkpoint holds the trained weights, the optimizer and
the step, and an interrupted run of as many workers goes on as an unbroken one would. Every worker computes the loss of the global
batch; DeepSpeed takes the mean of their gradients where the sum is meant, so the loss is multiplied by their number before.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from readqg.config import Compute, TrainSettings
from readqg.engine import checkpoints, cluster
from readqg.engine.training_log import TrainingLog
from readqg.errors import ConfigError
from readqg.shards.once import sync
from readqg.tracking import Trackers
from readqg.training import TrainStage, parameter_groups
from readqg.workers import Workers

import ray.train  # isort: skip  (after `cluster`, which sets what Ray reads at import)
from ray.train import collective  # isort: skip

_NORMS = 50
_EXPLODED = 1e4
"""A gradient's norm so many times the median of the last ones is no accident of one batch."""


@dataclass(frozen=True)
class Job:
    """What a worker is told."""

    stage: TrainStage
    train: TrainSettings
    compute: Compute
    state: str
    """OUT/_train."""
    log: str
    tracked: str
    made: str
    learning_rate: float
    weight_decay: float
    gradient_clip: float


def train_here(told: dict[str, Job]) -> None:
    """This worker's part of the training, from the last checkpoint on; the first worker also logs and saves."""
    job = told["job"]
    context = ray.train.get_context()
    workers = Workers(context.get_world_rank(), context.get_world_size(), lockstep=job.train.zero_stage == 3)
    last = _agreed(job, workers)
    facts = checkpoints.read_facts(last) if last else {}
    if last:  # before model and optimizer are made
        checkpoints.fits(job.stage.name, facts, job.train, workers, _precision(job))
    run = _Run(job, workers)
    step = run.restore(last, facts) if last else 0
    with closing(_Lines(job, workers, step)) as lines:
        trouble = _train(run, job, step, lines)
        if trouble is None:
            run.save(Path(job.made), lines)


def _agreed(job: Job, workers: Workers) -> Path | None:
    """The checkpoint to go on from, as the first worker sees it, for all. Raises `ConfigError` on a worker that would compute in another
    precision than the first: `auto` says so on nodes that differ."""
    state, own = Path(job.state), _precision(job)
    found = checkpoints.newest(state) if workers.rank == 0 else None
    told: dict[str, str | None] = collective.broadcast_from_rank_zero({"checkpoint": found and found.name, "precision": own})
    if told["precision"] != own:
        raise ConfigError(f"{job.stage.name}: worker {workers.rank} would compute in {own}, the first in {told['precision']}: its node is "
                          "another. Give --compute.precision fp32, or nodes that are alike.")
    name = told["checkpoint"]
    if workers.rank == 0:
        noted = {Path(reported.checkpoint.path).name for reported in ray.train.get_all_reported_checkpoints()}
        checkpoints.keep_only(state, noted | {name or ""})
    return None if name is None else state / name


def _train(run: _Run, job: Job, step: int, lines: _Lines) -> str | None:
    """All steps from `step` on; why training has collapsed, if it has."""
    steps, train = job.stage.steps, job.train
    trouble = run.validate(0, lines) if step == 0 else None
    while trouble is None and step < steps:
        learning_rate = job.learning_rate * job.stage.learning_rate(step)
        loss, metrics, norm = run.step(step, learning_rate)
        trouble = _trouble(loss, norm, run.norms)
        if trouble:
            break
        run.norms.append(norm)
        step += 1
        if step % train.log_steps == 0 or step == steps:
            lines.add(step, {"loss": loss, "learning_rate": learning_rate, "gradient_norm": norm, **metrics})
        if step % train.validate_steps == 0 or step == steps:
            trouble = run.validate(step, lines)
        if trouble is None and (step % train.checkpoint_steps == 0 or step == steps):
            run.checkpoint(step)
    if trouble:
        lines.add(step, {"collapsed": trouble})
    return trouble


def _trouble(loss: float, norm: float, norms: deque[float]) -> str | None:
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if not math.isfinite(norm):
        return f"the norm of the gradient is {norm}"
    if len(norms) == _NORMS and norm > _EXPLODED * statistics.median(norms) > 0:
        return f"the norm of the gradient is {norm:.3g}, that of the last {_NORMS} steps was {statistics.median(norms):.3g}"
    return None


class _Lines:
    """The log and the trackers, of the first worker alone."""

    def __init__(self, job: Job, workers: Workers, step: int) -> None:
        self.first = workers.rank == 0
        self.log = TrainingLog(Path(job.log))
        if not self.first:
            return
        self.log.keep_until(step if step else -1)
        config = {"learning_rate": job.learning_rate, "weight_decay": job.weight_decay, "gradient_clip": job.gradient_clip,
                  "steps": job.stage.steps, "seed": job.stage.seed, "workers": workers.count, **job.train.model_dump(mode="json")}
        kept = [(line["step"], _tracked({key: value for key, value in line.items() if key != "step"})) for line in self.log.read()]
        self.trackers = Trackers(job.train.trackers, Path(job.tracked), job.stage.name, step, config, kept)

    def add(self, step: int, values: dict[str, Any]) -> None:
        if self.first:
            self.log.add({"step": step, **values})
            self.trackers.add(step, _tracked(values))

    def close(self) -> None:
        if self.first:
            self.trackers.close()


class _Run:
    """What is trained: its steps, its validation, its best weights, its checkpoints."""

    def __init__(self, job: Job, workers: Workers) -> None:
        self.job, self.stage, self.workers = job, job.stage, workers
        self.engine = _initialize(job, workers)
        self.best: dict[str, Any] = {}
        self.best_score = -math.inf
        self.start: dict[str, Any] = {}
        self.norms: deque[float] = deque(maxlen=_NORMS)

    @property
    def model(self) -> Any:
        return self.engine.module.model

    def step(self, step: int, learning_rate: float) -> tuple[float, dict[str, float], float]:
        """The loss and its metrics, means over the step's batches, and the norm of its gradient before it is clipped."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        number = self.job.train.accumulation
        losses, measured = [], []
        for batch in range(step * number, (step + 1) * number):
            _seed(self.stage.seed, batch, self.workers.rank)
            loss, metrics = self.engine(self.stage.batch(batch, self.workers))
            losses.append(float(loss.detach()))
            measured.append(metrics)
            if not math.isfinite(losses[-1]):
                return losses[-1], metrics, math.nan
            self.engine.backward(loss * self.workers.count)
            norm = self._norm() if batch == (step + 1) * number - 1 else 0.0
            self.engine.step()
        found = self.engine.get_global_grad_norm()
        names = dict.fromkeys(name for metrics in measured for name in metrics)
        means = {name: statistics.fmean(m[name] for m in measured if name in m) for name in names}
        return statistics.fmean(losses), means, norm if found is None else float(found)

    def _norm(self) -> float:
        """Where ZeRO splits the gradients, DeepSpeed has it after the step."""
        import torch

        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if gradients and not self.job.train.zero_stage else 0.0

    def _trained(self) -> dict[str, Any]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Parameters gathered on this worker, where ZeRO 3 has them in pieces."""
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(self._trained().values()), enabled=self.job.train.zero_stage == 3):
            yield

    def validate(self, step: int, lines: _Lines) -> str | None:
        """Keep the weights, if they are the best so far; returns why training has collapsed, if it has."""
        _seed(self.stage.seed, step, 0)
        metrics = self.stage.validate(self.model, self.workers)
        if metrics:
            lines.add(step, {"validation": metrics})
        self.start = self.start or metrics
        score = metrics.get("score", math.inf)
        score = -math.inf if math.isnan(score) else score
        if score >= self.best_score and (step > 0 or self.stage.keeps_start or self.stage.steps == 0):
            self.best_score = score
            with self._whole():  # not around `validate`: ZeRO 3 frees each parameter again after its forward
                if self.workers.rank == 0:
                    self.best = {name: p.detach().cpu().clone() for name, p in self._trained().items()}
        return self.stage.collapsed(self.start, metrics) if metrics and step else None

    def checkpoint(self, step: int) -> None:
        """It counts once all workers have written their part: a kill costs one interval. Ray notes it at its next look, while training
        goes on; that it has noted the one before is waited for, so disks hold one more than are kept, and after a kill another."""
        from safetensors.torch import save_file

        ray.train.get_all_reported_checkpoints(consistency_mode=ray.train.CheckpointConsistencyMode.COMMITTED)
        folder = checkpoints.begin(Path(self.job.state), step, self.workers)
        self.engine.save_checkpoint(str(folder), tag="state")
        if self.workers.rank == 0:
            save_file(self.best, folder / "best.safetensors", {"score": repr(self.best_score)})
            save_file(self.stage.state(), folder / "stage.safetensors")
            facts = {"step": step, "workers": self.workers.count, "precision": _precision(self.job), "start": self.start,
                     "norms": list(self.norms)}
            checkpoints.write_facts(folder, facts)
            sync(Path(self.job.log))  # what was logged up to here belongs to it
        checkpoints.end(folder, self.workers)
        ray.train.report(
            {"step": step},
            checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
            checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
        )

    def restore(self, folder: Path, facts: dict[str, Any]) -> int:
        """The step to go on from."""
        from safetensors import safe_open
        from safetensors.torch import load_file

        self.engine.load_checkpoint(str(folder), tag="state")
        with safe_open(folder / "best.safetensors", "pt") as best:
            if self.workers.rank == 0:
                self.best = {name: best.get_tensor(name) for name in best.keys()}  # noqa: SIM118  (not a dict)
            self.best_score = float(best.metadata()["score"])
        self.stage.load_state(load_file(folder / "stage.safetensors"))
        self.start = facts["start"]
        self.norms.extend(facts["norms"])
        return int(facts["step"])

    def save(self, folder: Path, lines: _Lines) -> None:
        """The best weights, in the stage's own format."""
        import torch

        with self._whole(), torch.no_grad():
            if self.workers.rank > 0:
                return
            folder.mkdir(parents=True, exist_ok=True)
            for name, parameter in self._trained().items():
                parameter.copy_(self.best[name])
            self.stage.save(self.model, folder, lines.log.read())


def _precision(job: Job) -> str:
    import torch

    from readqg import devices

    return "bf16" if devices.device_and_dtype(job.compute)[1] == torch.bfloat16 else "fp32"


def _initialize(job: Job, workers: Workers) -> Any:
    gpu = cluster.has_gpu(job.compute)
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("TRITON_CACHE_DIR", str(Path(tempfile.gettempdir()) / "readqg-triton"))
    import deepspeed  # after DS_ACCELERATOR

    from readqg import devices

    # Gloo reduces well enough; DeepSpeed's own shared-memory op would want a compiler on the user's machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    devices.set_threads(job.compute)
    _seed(job.stage.seed, -1, 0)
    module = _step_module(job.stage, workers)
    engine, *_ = deepspeed.initialize(
        model=module, model_parameters=parameter_groups(module, job.weight_decay), config=_deepspeed_config(job, workers))
    return engine


def _deepspeed_config(job: Job, workers: Workers) -> dict[str, Any]:
    train = job.train
    optimizer: dict[str, Any] = {"lr": job.learning_rate, "weight_decay": job.weight_decay}
    zero: dict[str, Any] = {"stage": train.zero_stage}
    if train.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
    if train.offload and train.zero_stage == 3:
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_batch_size": train.accumulation * workers.count,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": train.accumulation,
        "steps_per_print": 1 << 30,
        "optimizer": {"type": "AdamW", "params": {**optimizer, "torch_adam": True}} if train.optimizer == "adamw" else {
            "type": "SGD", "params": optimizer},
        "gradient_clipping": job.gradient_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def _step_module(stage: TrainStage, workers: Workers) -> Any:
    import torch

    class StepModule(torch.nn.Module):
        """The model with the stage's loss as its forward."""

        def __init__(self) -> None:
            super().__init__()
            self.model = stage.build()

        def forward(self, batch: Any) -> Any:
            return stage.loss(self.model, batch, workers)

    return StepModule()


def _tracked(values: dict[str, Any]) -> dict[str, Any]:
    """A line of the log, as trackers are given it."""
    return {f"validation/{name}": value for name, value in values["validation"].items()} if "validation" in values else values


def _seed(seed: int, number: int, rank: int) -> None:
    import torch

    torch.manual_seed((seed * 1_000_003 + number) * 4_099 + rank & (1 << 63) - 1)
