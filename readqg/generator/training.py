"""Training of the soft prompts (section 3.2): L = w_mle * Eq. 2 + w_sc * Eq. 3 + w_cal * Eq. 4, over a frozen backbone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from readqg import devices, models
from readqg.config import TrainGeneratorConfig
from readqg.generator.backbone import Backbone
from readqg.generator.collation import COLUMNS, PairBatch, TrainingPairs, collate
from readqg.generator.losses import IGNORED, calibration_loss, mle_loss_from_sums, pool, self_contrastive_loss_from_pooled
from readqg.generator.model import Encoded, Generator
from readqg.generator.prompts import SoftPrompt
from readqg.shards import open_input
from readqg.training import TrainStage, scheduled
from readqg.workers import ALONE, Workers


@dataclass(frozen=True)
class StepRows:
    """The documents of a step as the pairs folder has them; what is drawn from them at random is keyed by `draw_key`."""

    rows: list[dict[str, Any]]
    draw_key: str


@dataclass(frozen=True)
class Whole:
    """What the losses need of all N sequences of the global batch, a row each."""

    forward: Tensor
    """(N,) S of every query under its own encoding, nats."""
    reverse: Tensor
    """(N,) S of the query that contradicts it, under the same encoding; where Eq. 4 is off, `forward` again."""
    lengths: Tensor
    """(N,) target tokens of the query."""
    reverse_lengths: Tensor
    """(N,) of the contradicting one."""
    is_positive: Tensor
    """(N,) bool."""
    target_length: int
    """The padded one, the largest of all workers."""


class GeneratorTraining(TrainStage):
    """Prompts for one backbone from a pairs folder."""

    name = "train-generator"

    def __init__(self, config: TrainGeneratorConfig) -> None:
        """Raises `InputError` where the pairs cannot be read or leave nothing to train on."""
        self.config = config
        self.steps, self.seed = config.steps, config.seed
        self.most_workers = config.documents_per_step
        self.pairs = TrainingPairs(open_input(config.pairs, COLUMNS), config.held_out_documents, config.seed)

    def inputs(self) -> dict[str, str]:
        return {"pairs": self.pairs.folder.fingerprint}

    def models(self) -> dict[str, str]:
        initial = {"initial": SoftPrompt.load(self.config.initial).fingerprint} if self.config.initial else {}
        return {"backbone": models.fingerprint(self.config.backbone), **initial}

    def prepare(self) -> None:
        if self.config.initial:
            SoftPrompt.load(self.config.initial).compare_weights(self.config.backbone, models.weights_fingerprint(self.config.backbone))

    def build(self) -> Generator:
        device, dtype = devices.device_and_dtype(self.config.compute)
        backbone = Backbone.load(self.config.backbone, device, dtype)
        prompts = SoftPrompt.initial(backbone, self.config, self.pairs.folder.fingerprint)
        if self.config.initial:
            prompts.start_from(SoftPrompt.load(self.config.initial), self.config.initial)
        return Generator(backbone, prompts, self.config.dropout).train()

    def batch(self, number: int, workers: Workers = ALONE) -> StepRows:
        rows = self.pairs.rows_of_step(number, self.config.documents_per_step)
        return StepRows(self.pairs.read(workers.mine(rows)), f"step {number}")

    def learning_rate(self, step: int) -> float:
        return scheduled(self.config.schedule, step, self.steps, self.config.warmup_steps)

    def loss(self, model: Generator, batch: StepRows, workers: Workers = ALONE) -> tuple[Tensor, dict[str, float]]:
        """The total over the global batch's N sequences, and beside it the three losses ("mle", "sc", "cal", those that are on)
        and "gap": mean of S(q | d, r) less S of the contradicting query under the same r, nats."""
        c = self.config
        pairs = collate(batch.rows, model, c, batch.draw_key).to(model.device)
        encoded = model.encode(pairs.document_ids, pairs.document_mask, pairs.relevance)
        parts: dict[str, Tensor] = {}
        if c.w_sc:
            parts["sc"] = self._contrast(encoded, pairs, workers)
        if c.w_mle or c.w_cal:
            whole = self._score(model, encoded, pairs, workers)
            if c.w_mle:
                parts["mle"] = mle_loss_from_sums(
                    whole.forward, whole.lengths, whole.is_positive, target_length=whole.target_length, profile=c.profile)
            if c.w_cal:
                parts["cal"] = self._calibrate(whole)
                gap = (whole.forward - whole.reverse).detach().mean()
        weights = {"mle": c.w_mle, "sc": c.w_sc, "cal": c.w_cal}
        total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        metrics = {name: float(part.detach()) for name, part in sorted(parts.items())}
        if "cal" in parts:
            metrics["gap"] = float(gap)
        return total, metrics

    @torch.no_grad()
    def validate(self, model: Generator, workers: Workers = ALONE) -> dict[str, Any]:
        """Held-out log-likelihoods, means in nats a query: positives and negatives at their own r and "swapped", at the r of the
        contradicting query. No `score`: as in the paper the last weights are kept, whatever the losses in use."""
        if not self.pairs.held_out:
            return {}
        if len(self.pairs.held_out) < workers.count:  # too few to share: each does them all
            workers = ALONE
        was_training = model.training
        model.eval()
        scores = torch.cat(list(self._held_out_scores(model, workers)))
        own, swapped, positive = workers.gather(scores).cpu().unbind(1)
        positive = positive.bool()
        model.train(was_training)
        found = {"positive_own": own[positive], "positive_swapped": swapped[positive],
                 "negative_own": own[~positive], "negative_swapped": swapped[~positive]}
        return {name: float(values.double().mean()) for name, values in found.items() if len(values)}

    def save(self, model: Generator, folder: Path, log: list[dict[str, Any]]) -> None:
        """`prompts.safetensors`, `prompts.json` and the training log, `training_log.jsonl`."""
        model.prompts.save(folder)
        (folder / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")

    def _held_out_scores(self, model: Generator, workers: Workers) -> Iterator[Tensor]:
        """A batch of this worker's held-out documents at a time: S own, S swapped and is_positive, (n, 3)."""
        mine, size = workers.mine(self.pairs.held_out), self.config.documents_per_step
        batches = [mine[start : start + size] for start in range(0, len(mine), size)]
        for rows, counts in workers.in_step(batches, model.device):
            pairs = collate(self.pairs.read(rows), model, self.config, "held out").to(model.device)
            encoded = model.encode(pairs.document_ids, pairs.document_mask, pairs.relevance)
            forward = model.token_log_likelihoods(encoded, pairs.encoding, pairs.labels).sum(-1)
            swapped = model.token_log_likelihoods(encoded, pairs.encoding[pairs.pair], pairs.labels).sum(-1)
            found = torch.stack([forward, swapped, pairs.is_positive.to(forward.dtype)], dim=1)
            if counts:
                yield found

    def _score(self, model: Generator, encoded: Encoded, pairs: PairBatch, workers: Workers) -> Whole:
        """Both passes as one batch of 2n: the encoder, or the prefix, has run once for both."""
        if self.config.w_cal:
            index, labels = pairs.encoding.repeat(2), torch.cat([pairs.labels, pairs.labels[pairs.pair]])
            forward, reverse = model.token_log_likelihoods(encoded, index, labels).sum(-1).chunk(2)
        else:
            forward = reverse = model.token_log_likelihoods(encoded, pairs.encoding, pairs.labels).sum(-1)
        lengths = (pairs.labels != IGNORED).sum(-1)
        sums = workers.gather(torch.stack([forward, reverse], dim=1))
        facts = workers.gather(torch.stack([lengths, lengths[pairs.pair], pairs.is_positive.long()], dim=1))
        return Whole(sums[:, 0], sums[:, 1], facts[:, 0], facts[:, 1], facts[:, 2].bool(),
                     workers.largest(pairs.labels.shape[1], model.device))

    def _contrast(self, encoded: Encoded, pairs: PairBatch, workers: Workers) -> Tensor:
        """Eq. 3 over the N sequences; twins, which were encoded once, count as often as they occur."""
        profile = self.config.profile
        length = workers.largest(encoded.mask.shape[1], encoded.mask.device) if profile == "authors" else None
        pooled = pool(encoded.states, encoded.mask, profile=profile, padded_length=length)[pairs.encoding]
        groups = workers.gather(pairs.group) if profile == "paper" else None
        return self_contrastive_loss_from_pooled(
            workers.gather(pooled), temperature=self.config.temperature, profile=profile, groups=groups)

    def _calibrate(self, whole: Whole) -> Tensor:
        """Eq. 4 on summed log-likelihoods, or on those a token; a length that is divided out already is not divided by again."""
        c, forward, reverse, target_length = self.config, whole.forward, whole.reverse, whole.target_length
        if c.length_normalised:
            forward, reverse, target_length = forward / whole.lengths, reverse / whole.reverse_lengths, 1
        return calibration_loss(
            forward, reverse, whole.is_positive, margin=c.margin, target_length=target_length, profile=c.profile)
