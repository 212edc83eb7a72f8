"""Training of the soft prompts (section 3.2): L = w_mle * Eq. 2 + w_sc * Eq. 3 + w_cal * Eq. 4, over a frozen backbone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from readqg import models
from readqg.config import TrainGeneratorConfig
from readqg.generator.backbone import Backbone
from readqg.generator.collation import COLUMNS, PairBatch, TrainingPairs, collate
from readqg.generator.losses import IGNORED, calibration_loss, mle_loss_from_tokens, pool, self_contrastive_loss_from_pooled
from readqg.generator.model import Encoded, Generator
from readqg.generator.prompts import SoftPrompt
from readqg.shards import open_input
from readqg.stage import TrainStage


@dataclass(frozen=True)
class StepRows:
    """The documents of a step as the pairs folder has them; what is drawn from them at random is keyed by `draw_key`."""

    rows: list[dict[str, Any]]
    draw_key: str


@dataclass(frozen=True)
class Scores:
    """Token log-likelihoods (N, T), nats, 0 at padding, of every query under its own encoding, and of the query that
    contradicts it under the same encoding (None where Eq. 4 is off)."""

    forward: Tensor
    reverse: Tensor | None


class GeneratorTraining(TrainStage):
    """Prompts for one backbone from a pairs folder."""

    name = "train-generator"

    def __init__(self, config: TrainGeneratorConfig) -> None:
        """Raises `InputError` where the pairs cannot be read or leave nothing to train on."""
        self.config = config
        self.steps, self.seed = config.steps, config.seed
        self.pairs = TrainingPairs(open_input(config.pairs, COLUMNS), config.held_out_documents, config.seed)

    def inputs(self) -> dict[str, str]:
        return {"pairs": self.pairs.folder.fingerprint}

    def models(self) -> dict[str, str]:
        return {"backbone": models.fingerprint(self.config.backbone)}

    def build(self) -> Generator:
        device, dtype = models.device_and_dtype(self.config.compute)
        backbone = Backbone.load(self.config.backbone, device, dtype)
        prompts = SoftPrompt.initial(backbone, self.config, self.pairs.folder.fingerprint)
        return Generator(backbone, prompts, self.config.dropout).train()

    def batch(self, step: int) -> StepRows:
        rows = self.pairs.rows_of_step(step, self.config.documents_per_step)
        return StepRows(self.pairs.read(rows), f"step {step}")

    def loss(self, model: Generator, batch: StepRows) -> tuple[Tensor, dict[str, float]]:
        """The total over the step's N sequences, and beside it the three losses ("mle", "sc", "cal", those that are on) and
        "gap": mean of S(q | d, r) less S of the contradicting query under the same r, nats."""
        c = self.config
        pairs = collate(batch.rows, model, c, batch.draw_key).to(model.device)
        encoded = model.encode(pairs.document_ids, pairs.document_mask, pairs.relevance)
        parts: dict[str, Tensor] = {}
        if c.w_sc:
            parts["sc"] = self._contrast(encoded, pairs)
        if c.w_mle or c.w_cal:
            scores = self._scores(model, encoded, pairs)
            if c.w_mle:
                parts["mle"] = mle_loss_from_tokens(scores.forward, pairs.labels != IGNORED, pairs.is_positive, profile=c.profile)
            if scores.reverse is not None:
                parts["cal"] = self._calibrate(scores.forward, scores.reverse, pairs)
                gap = (scores.forward - scores.reverse).detach().sum(-1).mean()
        weights = {"mle": c.w_mle, "sc": c.w_sc, "cal": c.w_cal}
        total = torch.stack([weights[name] * part for name, part in parts.items()]).sum()
        metrics = {name: float(part.detach()) for name, part in sorted(parts.items())}
        if "cal" in parts:
            metrics["gap"] = float(gap)
        return total, metrics

    @torch.no_grad()
    def validate(self, model: Generator) -> dict[str, float]:
        """Held-out log-likelihoods, means in nats a query: positives and negatives at their own r and "swapped", at the r of the
        contradicting query. No `score`: as in the paper the last weights are kept, whatever the losses in use."""
        if not self.pairs.held_out:
            return {}
        was_training = model.training
        model.eval()
        own, swapped, positive = (torch.cat(parts) for parts in zip(*self._held_out_scores(model), strict=True))
        model.train(was_training)
        found = {"positive_own": own[positive], "positive_swapped": swapped[positive],
                 "negative_own": own[~positive], "negative_swapped": swapped[~positive]}
        return {name: float(values.double().mean()) for name, values in found.items()}

    def save(self, model: Generator, folder: Path, log: list[dict[str, Any]]) -> None:
        """`prompts.safetensors`, `prompts.json` and the training log, `training_log.jsonl`."""
        model.prompts.save(folder)
        (folder / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log), encoding="utf-8")

    def _held_out_scores(self, model: Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """A batch of held-out documents at a time: (S own, S swapped, is_positive), each (N,)."""
        held_out, size = self.pairs.held_out, self.config.documents_per_step
        for start in range(0, len(held_out), size):
            pairs = collate(self.pairs.read(held_out[start : start + size]), model, self.config, "held out").to(model.device)
            encoded = model.encode(pairs.document_ids, pairs.document_mask, pairs.relevance)
            forward = model.token_log_likelihoods(encoded, pairs.encoding, pairs.labels).sum(-1)
            swapped = model.token_log_likelihoods(encoded, pairs.encoding[pairs.pair], pairs.labels).sum(-1)
            yield forward.cpu(), swapped.cpu(), pairs.is_positive.cpu()

    def _scores(self, model: Generator, encoded: Encoded, pairs: PairBatch) -> Scores:
        """Both passes as one batch of 2N: the encoder, or the prefix, has run once for both."""
        if not self.config.w_cal:
            return Scores(model.token_log_likelihoods(encoded, pairs.encoding, pairs.labels), None)
        index, labels = pairs.encoding.repeat(2), torch.cat([pairs.labels, pairs.labels[pairs.pair]])
        forward, reverse = model.token_log_likelihoods(encoded, index, labels).chunk(2)
        return Scores(forward, reverse)

    def _contrast(self, encoded: Encoded, pairs: PairBatch) -> Tensor:
        """Eq. 3 over the N sequences; twins, which were encoded once, count as often as they occur."""
        profile = self.config.profile
        pooled = pool(encoded.states, encoded.mask, profile=profile)[pairs.encoding]
        groups = pairs.encoding if profile == "paper" else None
        return self_contrastive_loss_from_pooled(pooled, temperature=self.config.temperature, profile=profile, groups=groups)

    def _calibrate(self, forward: Tensor, reverse: Tensor, pairs: PairBatch) -> Tensor:
        """Eq. 4 on summed log-likelihoods, or on those a token; a length that is divided out already is not divided by again."""
        c, lengths = self.config, (pairs.labels != IGNORED).sum(-1)
        s_forward, s_reverse, target_length = forward.sum(-1), reverse.sum(-1), pairs.labels.shape[1]
        if c.length_normalised:
            s_forward, s_reverse, target_length = s_forward / lengths, s_reverse / lengths[pairs.pair], 1
        return calibration_loss(
            s_forward, s_reverse, pairs.is_positive, margin=c.margin, target_length=target_length, profile=c.profile)
