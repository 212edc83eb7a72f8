"""A training step against the usual trainers with the same losses, the authors' way.

    python -m tests.benchmarks.bench_train reranker            # against CrossEncoderTrainer, all B x B pairs with gradient
    python -m tests.benchmarks.bench_train generator           # against Trainer, two whole passes, padded to the maximum
    python -m tests.benchmarks.bench_train generator --backbone flan-t5-shaped
    python -m tests.benchmarks.bench_train workers             # two workers of one thread against two processes

Same order, schedule and optimizer, dropout off. Ours runs as a user's does, through Ray Train and DeepSpeed; "one process" and "two
processes" are the same step without them. Every run is a process of its own, ours and the baseline in turn; it prints seconds a step
(the first is left out), its losses and its peak memory (of ours: driver and workers together).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import psutil
import torch
from torch.utils.data import BatchSampler, SequentialSampler

from readqg.config import SMOLLM2, Compute, TrainGeneratorConfig, TrainRerankerConfig
from readqg.corpus import Documents, subset
from tests.benchmarks.timing import machine
from tests.builders import write_folder

_FP32 = Compute(precision="fp32")
_SAME_CURVE = 1e-3
_LOOK_S = 5.0  # between looks at the workers' peaks, each of which goes through all processes


def main() -> None:
    args = _args()
    if args.side:
        _print_one(args)
        return
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        args.inputs = args.inputs or _prepare(args, Path(work))
        print(machine(), flush=True)
        sides = ["baseline", "ours"] if args.what != "workers" else ["one process", "two processes", "two workers"]
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
        for _ in range(args.runs):
            for side in sides:
                runs[side].append(_run(side, args))
        _report(args, runs)


def _run(side: str, args: argparse.Namespace) -> dict[str, Any]:
    if side == "two processes":
        both = [_start("one process", args) for _ in range(2)]
        found = [_end(process) for process in both]
        return {**found[0], "seconds": statistics.fmean(f["seconds"] for f in found)}
    return _end(_start(side, args))


def _start(side: str, args: argparse.Namespace) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.benchmarks.bench_train", args.what, "--side", side, "--inputs", str(args.inputs),
               "--steps", str(args.steps), "--backbone", args.backbone, "--model", args.model, "--threads", str(args.threads)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _end(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with {process.returncode}")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return found


def _report(args: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> None:
    for side, found in runs.items():
        seconds = [f["seconds"] for f in found]
        print(f"{side}: {statistics.median(seconds):.2f} s a step ({min(seconds):.2f} to {max(seconds):.2f}), "
              f"peak {statistics.median(f['peak_mib'] for f in found):,.0f} MiB")
    first, *_, ours = runs
    differences = [abs(a - b) for base, own in zip(runs[first], runs[ours], strict=True)
                   for a, b in zip(base["losses"], own["losses"], strict=True)]
    if not max(differences) < _SAME_CURVE:
        raise RuntimeError(f"not the same curve: losses differ by {max(differences):.1e}")
    same = f"losses differ by {max(differences):.1e} at most"
    if args.what == "workers":
        raw = [2 * one["seconds"] / two["seconds"] for one, two in zip(runs["one process"], runs["two processes"], strict=True)]
        gain = [one["seconds"] / two["seconds"] for one, two in zip(runs["one process"], runs["two workers"], strict=True)]
        shares = [own / base for own, base in zip(gain, raw, strict=True)]
        print(f"raw gain of two processes {statistics.median(raw):.2f}, of two workers {statistics.median(gain):.2f}: "
              f"share {statistics.median(shares):.2f} (min {min(shares):.2f}, max {max(shares):.2f}, {len(shares)} runs); {same}")
        return
    ratios = [base["seconds"] / own["seconds"] for base, own in zip(runs["baseline"], runs["ours"], strict=True)]
    print(f"ratio {statistics.median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f}, {len(ratios)} runs); {same}")


def _print_one(args: argparse.Namespace) -> None:
    torch.set_num_threads(1 if args.what == "workers" else args.threads)
    torch.manual_seed(0)
    peak = 0.0
    if args.side == "one process":
        seconds, losses = _bare(_reranker_stage(args), args.steps)
    elif args.side == "baseline":
        seconds, losses = _trainer(_generator_stage(args), args) if args.what == "generator" else _cross_encoder_trainer(args)
    else:
        two = args.what == "workers"
        compute = Compute(precision="fp32", workers=2 if two else 1, threads=1 if two else args.threads)
        stage = (_generator_stage if args.what == "generator" else _reranker_stage)(args, compute)
        seconds, losses, peak = _through_the_engine(stage, args.steps)
    peak += resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(json.dumps({"seconds": statistics.fmean(seconds), "losses": losses, "peak_mib": peak}) + "\n")


def _prepare(args: argparse.Namespace, work: Path) -> Path:
    """Real SciFact texts; their titles are the positive queries, other documents' titles the negative ones."""
    documents = Documents.open(args.data)
    table = documents.table(subset(documents.ids, 200)).to_pylist()
    titles = [row["title"] for row in table]
    if args.what == "generator":
        from tests.generator.pairs import query, write_pairs

        def side(first: int, i: int) -> list[dict[str, Any]]:
            return [query(f"{first}.{i}.{j}", titles[(i + first * (j + 1)) % 200], 5.0 - j, (0.9 if not first else 0.3) - j / 20)
                    for j in range(4)]

        rows = [{"doc_id": row["doc_id"], "text": row["text"], "positives": side(0, i), "negatives": side(1, i)}
                for i, row in enumerate(table)]
        write_pairs(work / "pairs", rows)
        return work
    from readqg.corpus.rows import SCHEMAS
    from tests.reranker.corpus import query_row, write_queries

    rows = [row for i, d in enumerate(table) for row in (
        query_row(d["doc_id"], 1.0, titles[i]), query_row(d["doc_id"], 0.0, titles[(i + 1) % 200]))]
    write_queries(work / "queries", rows)
    write_folder(work / "documents", table, SCHEMAS["documents"])
    shutil.copytree(args.model, work / "model")
    settings = json.loads((work / "model/config.json").read_text())
    settings.update(dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"), 0.0))
    (work / "model/config.json").write_text(json.dumps(settings))
    return work


def _reranker_stage(args: argparse.Namespace, compute: Compute = _FP32) -> Any:
    from readqg.reranker.training import RerankerTraining

    config = TrainRerankerConfig(
        queries=f"{args.inputs}/queries", documents=f"{args.inputs}/documents", start=f"{args.inputs}/model", held_out_max=1,
        out=f"{args.inputs}/out-{time.time_ns()}", schedule="constant", warmup_epochs=0.0, compute=compute)
    return RerankerTraining(config)


def _generator_stage(args: argparse.Namespace, compute: Compute = _FP32) -> Any:
    from readqg.generator.training import GeneratorTraining
    from tests.benchmarks.bench_generation import shaped_like_flan_t5

    backbone = args.backbone if args.backbone != "flan-t5-shaped" else str(shaped_like_flan_t5())
    config = TrainGeneratorConfig(
        pairs=f"{args.inputs}/pairs", out=f"{args.inputs}/out-{time.time_ns()}", backbone=backbone, held_out_documents=4,
        learning_rate=3e-3, compute=compute)
    return GeneratorTraining(config)


def _bare(stage: Any, steps: int) -> tuple[list[float], list[float]]:
    """The stage's own step in this process, with the optimizer and the clipping that the engine gives it."""
    from readqg.tuning.loop import train

    model, losses, ends = stage.build(), [], [time.perf_counter()]
    loss = stage.loss

    def kept(*given: Any) -> Any:
        value, metrics = loss(*given)
        losses.append(float(value.detach()))
        return value, metrics

    stage.loss = kept
    for _ in train(stage, model, stage.config, list(range(1, steps + 2))):
        ends.append(time.perf_counter())
    return [b - a for a, b in pairwise(ends[1:])], losses


def _through_the_engine(stage: Any, steps: int) -> tuple[list[float], list[float], float]:
    """As a user trains, through Ray Train and DeepSpeed: mean seconds of a step from the times at which the log grew, the losses, and
    the workers' peaks together in MiB."""
    from readqg.engine import cluster, train

    stage.steps = steps + 1
    times: dict[int, float] = {}
    peaks: dict[int, float] = {}
    path, done = Path(stage.config.out) / "_train/log.jsonl", threading.Event()

    def watch() -> None:
        looked = 0.0
        while not done.wait(0.02):
            if time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                peaks.update(_peaks_of_workers())
            number = sum('"loss"' in line for line in path.read_text().splitlines()) if path.exists() else 0
            if number and number not in times:
                times[number] = time.perf_counter()

    thread = threading.Thread(target=watch)
    with cluster.connect(stage.config.compute):
        thread.start()
        try:
            train.run(stage, stage.config)
        finally:
            done.set()
            thread.join()
    if not peaks:
        raise RuntimeError("no training worker was seen")
    log = [json.loads(line) for line in (Path(stage.config.out) / "training_log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in log if "loss" in line]
    return [(times[steps + 1] - times[1]) / steps], losses, sum(peaks.values())


def _peaks_of_workers() -> dict[int, float]:
    """Of each training worker below this process: the highest resident memory it has had, in MiB."""
    peaks = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error, OSError, IndexError):
            if "TrainWorker" in process.cmdline()[0]:
                status = Path(f"/proc/{process.pid}/status").read_text()
                peaks[process.pid] = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return peaks


def _cross_encoder_trainer(args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """The authors' way: every pair of the batch with gradient."""
    from datasets import Dataset
    from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.util import batch_to_device
    from transformers import TrainerCallback

    from readqg.reranker.losses import in_batch_bce_loss, margin_ranking_loss

    stage = _reranker_stage(args)
    model = CrossEncoder(f"{args.inputs}/model", device="cpu", max_length=stage.config.max_length)
    triples = [t for number in range(args.steps + 1) for t in stage.batches.triples(number)]
    columns = {"query": [t.positive for t in triples], "document": stage.documents.texts([t.doc_id for t in triples]),
               "negative": [t.negative for t in triples]}

    class AllPairs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, inputs: list[list[str]], labels: Any = None, **_: Any) -> torch.Tensor:
            queries, documents, negatives = inputs
            scores = self.score([(query, document) for query in queries for document in documents]).view(len(queries), -1)
            hinge = margin_ranking_loss(scores.diagonal(), self.score(list(zip(queries, negatives, strict=True))))
            return in_batch_bce_loss(scores) + hinge

        def score(self, pairs: list[tuple[str, str]]) -> torch.Tensor:
            return model(batch_to_device(model.preprocess(pairs), model.device))["scores"].view(-1)

    class InOrder(CrossEncoderTrainer):
        def get_batch_sampler(self, dataset: Any, batch_size: int, **kwargs: Any) -> Any:
            return BatchSampler(SequentialSampler(dataset), batch_size, drop_last=True)

    class Clock(TrainerCallback):
        ends: ClassVar[list[float]] = []

        def on_step_end(self, *given: Any, **kwargs: Any) -> None:
            self.ends.append(time.perf_counter())

    arguments = CrossEncoderTrainingArguments(
        output_dir=f"{args.inputs}/trainer", per_device_train_batch_size=8, max_steps=args.steps + 1, lr_scheduler_type="constant",
        learning_rate=stage.config.learning_rate, weight_decay=0.01, max_grad_norm=1.0, logging_steps=1, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True)
    trainer = InOrder(model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=AllPairs(), callbacks=[Clock()])
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return [b - a for a, b in pairwise(Clock.ends)], losses


def _trainer(stage: Any, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """The authors' way: the whole model twice, once with the queries and once with them swapped, everything padded to its maximum."""
    import torch.nn.functional as F
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from readqg.generator.collation import collate
    from readqg.generator.losses import (
        IGNORED,
        calibration_loss,
        mle_loss,
        pool,
        self_contrastive_loss_from_pooled,
        sequence_log_likelihood,
    )
    from readqg.generator.model import Encoded, Generator

    c, generator = stage.config, stage.build()

    def once(model: Generator, ids: Any, mask: Any, relevance: Any, labels: Any) -> tuple[torch.Tensor, Encoded]:
        encoded = model.encode(ids, mask, relevance)
        return model.logits(encoded, torch.arange(len(labels)), labels), encoded

    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = generator

        def forward(self, number: torch.Tensor, **_: Any) -> dict[str, torch.Tensor]:
            batch = stage.batch(int(number[0]))
            pairs = collate(batch.rows, generator, c, batch.draw_key)
            spare = c.document_tokens - pairs.document_ids.shape[1]
            ids, mask = (F.pad(t, (0, spare))[pairs.encoding] for t in (pairs.document_ids, pairs.document_mask))
            labels = F.pad(pairs.labels, (0, c.query_tokens - pairs.labels.shape[1]), value=IGNORED)
            relevance = pairs.relevance[pairs.encoding]
            logits, encoded = once(generator, ids, mask, relevance, labels)
            swapped, _ = once(generator, ids, mask, relevance, labels[pairs.pair])
            forward, reverse = sequence_log_likelihood(logits, labels), sequence_log_likelihood(swapped, labels[pairs.pair])
            contrast = self_contrastive_loss_from_pooled(pool(encoded.states, encoded.mask), temperature=c.temperature, groups=pairs.group)
            calibration = calibration_loss(forward, reverse, pairs.is_positive, margin=c.margin, target_length=c.query_tokens)
            return {"loss": mle_loss(logits, labels, pairs.is_positive) + c.w_sc * contrast + c.w_cal * calibration}

    class Clock(TrainerCallback):
        ends: ClassVar[list[float]] = []

        def on_step_end(self, *given: Any, **kwargs: Any) -> None:
            self.ends.append(time.perf_counter())

    class InOrder(Trainer):
        def _get_train_sampler(self, *given: Any) -> Any:
            return SequentialSampler(self.train_dataset)

    arguments = TrainingArguments(
        output_dir=f"{args.inputs}/trainer", per_device_train_batch_size=1, max_steps=args.steps + 1, lr_scheduler_type="constant",
        learning_rate=c.learning_rate, weight_decay=0.0, max_grad_norm=0.0, logging_steps=1, report_to=[], save_strategy="no",
        use_cpu=True, disable_tqdm=True, remove_unused_columns=False)
    data = [{"number": torch.tensor(i)} for i in range(args.steps + 1)]
    trainer = InOrder(model=Twice(), args=arguments, train_dataset=data, callbacks=[Clock()])
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return [b - a for a, b in pairwise(Clock.ends)], losses


def _args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["reranker", "generator", "workers"])
    parser.add_argument("--data", default="../shared/data/scifact")
    parser.add_argument("--model", default="../shared/models/ms-marco-MiniLM-L-12-v2")
    parser.add_argument("--backbone", default=SMOLLM2, help="a folder, a name, or flan-t5-shaped")
    parser.add_argument("--steps", type=int, default=3, help="timed steps a run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--work", default=None)
    parser.add_argument("--inputs", type=Path, default=None, help=argparse.SUPPRESS)
    parser.add_argument("--side", default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
