"""Training stages on Ray Train and DeepSpeed: one loop for both models.

Everything a step computes lies inside one forward of the DeepSpeed engine (ZeRO 3 needs that). A step's data depend on
(seed, step) and its random states are seeded anew from (seed, step, rank), so a checkpoint holds the trained weights, the
optimizer and the step, and an interrupted run goes on as an unbroken one would. `datasets=` of Ray Train is not used: the
order of the data must not depend on streaming. Checkpoints of DeepSpeed are pickles: only the run's own folder, OUT/_train
(mode 0700), is ever loaded.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from readqg.config import Compute, TrainSettings, identity
from readqg.engine import cluster
from readqg.errors import ReadQGError, RunError
from readqg.progress import Progress
from readqg.shards import OutputFolder, explained, write_whole
from readqg.stage import TrainStage

import ray.train  # isort: skip  (after `cluster`, which sets what Ray reads at import)
import ray.train.torch  # isort: skip

log = logging.getLogger("readqg")

_STATE = "_train"
_MAX_FAILURES = 3


def run(stage: TrainStage, config: Any) -> dict[str, Any]:
    """Train `stage` into `config.out`; returns what `_SUCCESS` says. The same call goes on from the last checkpoint.

    Raises `RunError` where training collapses or its worker dies more than a few times."""
    folder = OutputFolder.begin(config.out, stage.name, identity(config), stage.inputs(), stage.models())
    if folder.done:
        log.info("%s: %s is complete", stage.name, folder.path)
        return folder.success()
    state = folder.path / _STATE
    with explained(f"making {state}"):
        state.mkdir(mode=0o700, exist_ok=True)
    made = folder.tmp / "model"
    job = {
        "stage": stage,
        "train": config.train,
        "compute": config.compute,
        "log": str((state / "log.jsonl").resolve()),
        "made": str(made.resolve()),
        "optimizer": {"lr": config.learning_rate, "weight_decay": config.weight_decay},
        "gradient_clip": config.gradient_clip,
    }
    with cluster.connect(config.compute, folder.path), _progress(stage, state / "log.jsonl"):
        _fit(stage, job, folder, config.compute, config.train)
    return folder.commit_files(made, {"steps": stage.steps})


def _fit(stage: TrainStage, job: dict[str, Any], folder: OutputFolder, compute: Compute, train: TrainSettings) -> None:
    gpu = cluster.has_gpu(compute)
    resources: dict[str, float] = {"CPU": 1.0} if gpu else {"CPU": cluster.model_cpus(1)}
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config=job,
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=1, use_gpu=gpu, resources_per_worker={**resources, **({"GPU": 1} if gpu else {})}
        ),
        run_config=ray.train.RunConfig(
            storage_path=str(folder.path.resolve()),
            name=_STATE,
            failure_config=ray.train.FailureConfig(max_failures=_MAX_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=train.keep_checkpoints),
        ),
    )
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        causes = list(getattr(error, "worker_failures", {}).values()) or [error]
        for cause in causes:
            if isinstance(cause, ReadQGError):
                raise cause from None
        raise RunError(
            f"{stage.name}: training failed: {causes[0]}. The same command goes on from the last checkpoint."
        ) from error
    last = _read_log(folder.path / _STATE / "log.jsonl")[-1:]
    if last and "collapsed" in last[0]:
        raise RunError(
            f"{stage.name}: training collapsed at step {last[0]['step']}: {last[0]['collapsed']}. "
            f"Lower --learning-rate, or set --gradient-clip 1, and give another --out (the state of this one is in {folder.path / _STATE})."
        )


def _worker(job: dict[str, Any]) -> None:
    """The training loop, in the worker's process."""
    stage: TrainStage = job["stage"]
    train: TrainSettings = job["train"]
    engine = _initialize(stage, job)
    lines = _Log(Path(job["log"]))
    run = _State(engine, stage, lines)
    step = run.restore()
    base = job["optimizer"]["lr"]
    if step == 0:
        run.validate(0)
    while step < stage.steps:
        _seed(stage.seed, step, 0)
        lr = base * stage.learning_rate(step)
        for group in engine.optimizer.param_groups:
            group["lr"] = lr
        loss, metrics = engine(stage.batch(step))
        value = float(loss.detach())
        if not math.isfinite(value):
            lines.add({"step": step, "collapsed": f"the loss is {value}"})
            return
        engine.backward(loss)
        engine.step()
        step += 1
        if step % train.log_steps == 0 or step == stage.steps:
            lines.add({"step": step, "loss": value, "learning_rate": lr, **metrics})
        if step % train.validate_steps == 0 or step == stage.steps:
            run.validate(step)
        if step % train.checkpoint_steps == 0 or step == stage.steps:
            run.checkpoint(step)
    run.save(Path(job["made"]))


def _initialize(stage: TrainStage, job: dict[str, Any]) -> Any:
    gpu = cluster.has_gpu(job["compute"])
    if not gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.setdefault("TRITON_CACHE_DIR", str(Path(tempfile.gettempdir()) / "readqg-triton"))
    import deepspeed  # after DS_ACCELERATOR

    from readqg import models

    # Gloo reduces well enough; DeepSpeed's own shared-memory op would want a compiler on the user's machine.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    models.set_threads(job["compute"])
    _seed(stage.seed, -1, 0)
    module = _step_module(stage)
    trained = [p for p in module.parameters() if p.requires_grad]
    decay = job["optimizer"]["weight_decay"]
    # Biases and norms are not decayed, as in the usual trainers.
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    engine, *_ = deepspeed.initialize(
        model=module,
        model_parameters=[g for g in groups if g["params"]],
        config={
            "train_batch_size": 1,
            "train_micro_batch_size_per_gpu": 1,
            "steps_per_print": 1 << 30,
            "optimizer": {"type": "AdamW", "params": {"lr": job["optimizer"]["lr"], "weight_decay": decay, "torch_adam": True}},
            "gradient_clipping": job["gradient_clip"],
            "zero_optimization": {"stage": job["train"].zero_stage},
            "zero_allow_untested_optimizer": True,
        },
    )
    return engine


def _step_module(stage: TrainStage) -> Any:
    import torch

    class StepModule(torch.nn.Module):
        """The model with the stage's loss as its forward."""

        def __init__(self) -> None:
            super().__init__()
            self.model = stage.build()

        def forward(self, batch: Any) -> Any:
            return stage.loss(self.model, batch)

    return StepModule()


class _State:
    """What is trained: its validation, its best weights, its checkpoints."""

    def __init__(self, engine: Any, stage: TrainStage, lines: _Log) -> None:
        self.engine, self.stage, self.lines = engine, stage, lines
        self.best: dict[str, Any] = {}
        self.best_score = -math.inf

    @property
    def model(self) -> Any:
        return self.engine.module.model

    def _trained(self) -> dict[str, Any]:
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Parameters gathered on this worker, where ZeRO 3 has them in pieces."""
        import deepspeed

        with deepspeed.zero.GatheredParameters(
            list(self._trained().values()), enabled=self.engine.zero_optimization_stage() == 3
        ):
            yield

    def validate(self, step: int) -> None:
        _seed(self.stage.seed, step, 0)
        metrics = self.stage.validate(self.model)
        if metrics:
            self.lines.add({"step": step, "validation": metrics})
        score = metrics.get("score", math.inf)
        score = -math.inf if math.isnan(score) else score
        if score >= self.best_score and (step > 0 or self.stage.keeps_start or self.stage.steps == 0):
            self.best_score = score
            with self._whole():  # not around `validate`: ZeRO 3 frees each parameter again after its forward
                self.best = {name: p.detach().cpu().clone() for name, p in self._trained().items()}

    def checkpoint(self, step: int) -> None:
        from safetensors.torch import save_file

        with tempfile.TemporaryDirectory() as folder:
            self.engine.save_checkpoint(folder, tag="state", client_state={"step": step})
            save_file(self.best, Path(folder) / "best.safetensors", {"score": repr(self.best_score)})
            ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def restore(self) -> int:
        """The step to go on from: that of the last checkpoint, or 0."""
        from safetensors import safe_open

        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            self.lines.keep_until(-1)
            return 0
        with checkpoint.as_directory() as folder:
            _, client = self.engine.load_checkpoint(folder, tag="state")
            with safe_open(Path(folder) / "best.safetensors", "pt") as best:
                self.best = {name: best.get_tensor(name) for name in best.keys()}  # noqa: SIM118  (not a dict)
                self.best_score = float(best.metadata()["score"])
        self.lines.keep_until(client["step"])
        return int(client["step"])

    def save(self, folder: Path) -> None:
        """The best weights, in the stage's own format."""
        import torch

        folder.mkdir(parents=True, exist_ok=True)
        with self._whole(), torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(self.best[name])
            self.stage.save(self.model, folder, self.lines.read())


class _Log:
    """JSON lines of what training saw; the driver's progress reads them."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, line: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def read(self) -> list[dict[str, Any]]:
        return _read_log(self.path)

    def keep_until(self, step: int) -> None:
        """Drop what a broken run logged after the checkpoint."""
        kept = [line for line in self.read() if line["step"] <= step]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept))


def _read_log(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:  # the line that was being written when a worker was killed
            continue
    return lines


@contextmanager
def _progress(stage: TrainStage, path: Path) -> Iterator[None]:
    """Shows the log as it grows."""
    stop = threading.Event()
    first = max((line["step"] for line in _read_log(path)), default=0)

    def follow(progress: Progress) -> None:
        while not stop.wait(1.0):
            steps = [line for line in _read_log(path) if "loss" in line]
            if steps and steps[-1]["step"] > progress.done:
                progress.advance(steps[-1]["step"] - progress.done, f"loss {steps[-1]['loss']:.4f}")

    with Progress(stage.name, stage.steps, "steps", first) as progress:
        thread = threading.Thread(target=follow, args=(progress,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _seed(seed: int, step: int, rank: int) -> None:
    import torch

    torch.manual_seed((seed * 1_000_003 + step) * 4_099 + rank & (1 << 63) - 1)
