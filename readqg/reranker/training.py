"""Training the re-ranker (method, section 4): the stage that the training engine runs.

A step takes B documents with a positive and a hard negative query each. The search for k(i) scores all B x (B - 1) other pairs
with dropout off and without gradient; the gradient then runs through the chosen pairs alone: (q_i, d_i), (q_i, d_k(i)) and the
pair of Eq. 6. So a step costs 3 B pairs with gradient rather than B x B, and its value and gradient are those of the losses
on the full matrix.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from readqg import models
from readqg.batching import tokens_for
from readqg.config import TrainRerankerConfig
from readqg.corpus import Documents
from readqg.crossencoder import EncodedPairs, PairTokenizer, load_model
from readqg.errors import InputError
from readqg.reranker import card
from readqg.reranker.losses import bce_loss, hardest_documents, margin_ranking_loss
from readqg.reranker.sampling import LEFT_OUT, QUERY_COLUMNS, Batches, Triple, read_examples
from readqg.reranker.scoring import TrainingScorer, keep_head_in_float32
from readqg.reranker.selection import HeldOut, verdict_from_log
from readqg.shards import open_input
from readqg.stage import TrainStage

log = logging.getLogger("readqg")

_ON_WORKER = ("_placement", "_scorer", "_held_out")


@dataclass(frozen=True)
class Batch:
    """The pairs of a step, tokenised. Row i * B + j of `encoded` is (q_i, d_j); row B * B + e is the pair of Eq. 6 of the e-th
    document that has one, `negatives[e]`. `duplicates`: documents whose text or positive query is another's in the batch
    too: for these, k(i) may be a false negative."""

    documents: int
    negatives: list[int]
    encoded: EncodedPairs
    duplicates: int


class RerankerTraining(TrainStage):
    """Eq. 5 and 6 over a generated-queries folder. Every loss is a mean over the global batch of `config.batch` documents.

    Raises `InputError` for inputs that cannot be used or too few documents, `ModelError` for the start."""

    name = "train-reranker"
    keeps_start = False  # the guard names the start where it is better; the trained weights are kept beside it all the same

    def __init__(self, config: TrainRerankerConfig):
        self.config = config
        self.seed = config.seed
        self.queries = open_input(config.queries, QUERY_COLUMNS)
        # Workers may run in another working directory.
        self.documents = Documents.open(Path(config.documents).absolute())
        self._start = str(Path(config.start).absolute()) if Path(config.start).is_dir() else config.start
        self._models = {"start": models.fingerprint(config.start)}
        examples, self.counts = read_examples(self.queries, with_negatives=config.w_mr > 0)
        self._check(examples.doc_ids)
        trained, self._held_out_examples = examples.split(config.held_out_share, config.held_out_max)
        self.counts |= {"documents_trained": len(trained), "documents_held_out": len(self._held_out_examples)}
        self.batches = Batches(trained, config.batch, config.seed)
        self.steps = self.batches.steps_per_epoch * config.epochs

    def _check(self, doc_ids: list[str]) -> None:
        unknown = [doc_id for doc_id in doc_ids if doc_id not in self.documents]
        if unknown:
            raise InputError(
                f"{self.config.documents} lacks {len(unknown)} of the {len(doc_ids)} documents that {self.config.queries} has "
                f"queries for, first {unknown[0]!r}. Give the documents that the queries were generated from.")
        left_out = [f"{name.replace('_', ' ')} {self.counts[name]}" for name in LEFT_OUT if self.counts[name]]
        if left_out:
            log.warning("%s: %d of %d documents can be trained on; %s", self.config.queries, self.counts["documents_usable"],
                        self.counts["documents"], ", ".join(left_out))

    def inputs(self) -> dict[str, str]:
        return {"queries": self.queries.fingerprint, "documents": self.documents.fingerprint}

    def models(self) -> dict[str, str]:
        return self._models

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _ON_WORKER}

    @cached_property
    def _placement(self) -> tuple[torch.device, torch.dtype]:
        return models.device_and_dtype(self.config.compute)

    @cached_property
    def _scorer(self) -> TrainingScorer:
        device, dtype = self._placement
        tokenize = PairTokenizer(models.resolve(self._start), self.config.max_length)
        return TrainingScorer(tokenize, tokens_for(device, self.config.batch_tokens), dtype)

    @cached_property
    def _held_out(self) -> tuple[HeldOut, EncodedPairs]:
        examples = self._held_out_examples
        triples = [examples.triple(row, epoch=0) for row in range(len(examples))]
        held_out = HeldOut.search({t.doc_id: t.positive for t in triples}, self.documents)
        return held_out, self._scorer.tokenize(held_out.pairs)

    def build(self) -> Any:
        """The start, in float32, in training mode."""
        model = load_model(models.resolve(self._start), self._placement[0])
        keep_head_in_float32(model)
        return model.train()

    def batch(self, step: int) -> Batch:
        triples = self.batches.triples(step)
        texts = self.documents.texts([t.doc_id for t in triples])
        pairs = [(t.positive, text) for t in triples for text in texts]
        negatives = [i for i, t in enumerate(triples) if t.negative is not None]
        pairs += [self._negative_pair(triples[i], texts[i]) for i in negatives]
        return Batch(len(triples), negatives, self._scorer.tokenize(pairs), _duplicates(triples, texts))

    def _negative_pair(self, triple: Triple, text: str) -> tuple[str, str]:
        """F(q_i, n_i), with n_i in the passage's place, or F(n_i, d_i)."""
        negative = triple.negative or ""
        return (triple.positive, negative) if self.config.negative_pair == "query_query" else (negative, text)

    def loss(self, model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """L_bce + w_mr * L_mr. Documents without a negative are left out of the mean of L_mr."""
        b, encoded = batch.documents, batch.encoded
        scores = np.full((b, b), -np.inf, dtype=np.float32)
        others = ~np.eye(b, dtype=bool)
        scores[others] = self._scorer.without_gradient(model, encoded, np.flatnonzero(others).tolist())
        hardest = hardest_documents(torch.from_numpy(scores)).tolist()
        own_rows = [i * b + i for i in range(b)]
        hardest_rows = [i * b + hardest[i] for i in range(b)]
        negative_rows = [b * b + e for e in range(len(batch.negatives))]
        logits = self._scorer.with_gradient(model, encoded, own_rows + hardest_rows + negative_rows)
        own, hard, negative = logits.split([b, b, len(negative_rows)])
        loss = bce = bce_loss(own, hard)
        measured = {"bce": bce, "own_score": own.mean(), "hardest_score": hard.mean(), "accuracy": (own > hard).float().mean()}
        if batch.negatives:
            beside = own[batch.negatives]
            mr = margin_ranking_loss(beside, negative, self.config.margin, self.config.sign, self.config.activation)
            loss = bce + self.config.w_mr * mr
            measured |= {"mr": mr, "negative_score": negative.mean(), "negative_accuracy": (beside > negative).float().mean()}
        values = torch.stack([value.detach() for value in measured.values()]).tolist()
        return loss, {**dict(zip(measured, values, strict=True)), "duplicates": float(batch.duplicates)}

    def learning_rate(self, step: int) -> float:
        """Linear rise over `warmup_epochs` of an epoch, then linear fall to 0 after the last step. The first step of the rise is
        not 0 and the last of the fall is not 0: neither is wasted, which counts where an epoch has few steps."""
        warmup = self.config.warmup_epochs * self.batches.steps_per_epoch
        rise = (step + 1) / warmup if warmup > 0 else 1.0
        fall = (self.steps - step) / max(self.steps - warmup, 1.0)
        return max(0.0, min(1.0, rise, fall))

    def validate(self, model: Any) -> dict[str, Any]:
        held_out, encoded = self._held_out
        logits = self._scorer.without_gradient(model, encoded, range(len(held_out.pairs)))
        return held_out.judge(logits).to_log()

    def save(self, model: Any, folder: Path, log: list[dict[str, Any]]) -> None:
        """Model, card, `guard.json`, `training_log.jsonl`."""
        verdict = verdict_from_log(log)
        card.write_model(model, self._scorer.tokenize.tokenizer, folder)
        card.write_documents(folder, self.config, verdict, self.counts, self.steps, log)


def _duplicates(triples: list[Triple], texts: list[str]) -> int:
    positives = [triple.positive for triple in triples]
    return sum(texts.count(text) > 1 or positives.count(query) > 1 for text, query in zip(texts, positives, strict=True))
