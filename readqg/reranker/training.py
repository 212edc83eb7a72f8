"""Training the re-ranker (method, section 4): the stage that the training engine runs.

A batch is B documents with a positive and a hard negative query each. The search for k(i) scores all B x (B - 1) other pairs
with dropout off and without gradient; the gradient then runs through the chosen pairs alone: (q_i, d_i), (q_i, d_k(i)) and the
pair of Eq. 6. So a batch costs 3 B pairs with gradient rather than B x B, and its value and gradient are those of the losses
on the full matrix. Of several workers each takes a share of the queries, against all documents of the batch.

With `mined` documents there is no search: a query's other documents are drawn from those that BM25 finds for it, and the second
mean of Eq. 5 runs over all of them. `replay` puts pairs of another collection among them, and `w_anchor` holds the scores of all these
pairs near those of a frozen copy of the start. `graded` adds queries of the batch's documents at other r, whose scores are to follow r.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from readqg import devices, models
from readqg.batching import tokens_for
from readqg.config import TrainRerankerConfig
from readqg.corpus import Documents
from readqg.crossencoder import load_model
from readqg.errors import ConfigError, InputError
from readqg.query_rows import made_with
from readqg.reranker import card
from readqg.reranker.batches import Batch, Batches, BatchMaker
from readqg.reranker.examples import Examples, left_out
from readqg.reranker.losses import anchor_loss, bce_loss, graded_loss, hardest_documents, margin_ranking_loss
from readqg.reranker.replay import Replay
from readqg.reranker.sampling import (
    OF_ITS_OWN,
    QUERY_COLUMNS,
    RATIO_COLUMNS,
    ROUND_TRIP_COLUMNS,
    SCORE_COLUMNS,
    Filters,
    read_split,
)
from readqg.reranker.scoring import TrainingScorer, keep_head_in_float32
from readqg.reranker.selection import HeldOut, Validation, has_collapsed, verdict_from_log
from readqg.shards import InputFolder, open_input, read_json
from readqg.tokenizing import EncodedPairs, PairTokenizer
from readqg.training import TrainStage, scheduled
from readqg.workers import ALONE, Workers

log = logging.getLogger("readqg")

_ON_WORKER = ("_placement", "_scorer", "_held_out_pairs", "_frozen")


class RerankerTraining(TrainStage):
    """Eq. 5 and 6 over a generated-queries folder. Every loss is a mean over the global batch of `config.batch` documents.

    Raises `InputError` for inputs that cannot be used or too few documents, `ModelError` for the start."""

    name = "train-reranker"
    keeps_start = False  # the guard may name the start; the trained weights are kept all the same

    def __init__(self, config: TrainRerankerConfig):
        self.config = config
        self.seed = config.seed
        self.queries = open_queries(config)
        self.documents = Documents.open(config.documents)
        self._start = str(Path(config.start).absolute()) if Path(config.start).is_dir() else config.start
        self._models = {"start": models.fingerprint(config.start)}
        trained, self._held_out_examples, self.counts = read_split(
            self.queries, config.negative if config.reads_negatives else None, Filters.of(config), config.held_out_share,
            config.held_out_max, found_by=config.mined_by if config.mined and config.mined_by != "random" else None,
            graded=config.graded > 0)
        self._check(trained, self._held_out_examples)
        held_out_ids = frozenset(doc_id for _, doc_id in self._held_out_examples.doc_ids())
        self.counts |= {"documents_trained": len(trained), "documents_held_out": len(self._held_out_examples)}
        others = config.w_mr > 0 and config.negative == "other_document"
        replay = Replay(config.replay, config.replayed, max(1, config.mined), config.seed) if config.replay else None
        self.batches = Batches(trained, config.batch - config.replayed, config.seed, fixed=config.search == "cached", others=others)
        self._maker = BatchMaker(config, self.batches, self.documents, replay, held_out_ids)
        self.replay = replay
        self.most_workers = self.batches.size
        self._accumulation = config.train.accumulation
        if self._accumulation > (there := self.batches.per_epoch * config.epochs):
            raise ConfigError(f"train.accumulation: {self._accumulation} batches make a step, and {config.epochs} epochs of "
                              f"{self.batches.per_epoch} batches have {there}. Give {there} or fewer, or more epochs.")
        self.steps = -(-self.batches.per_epoch * config.epochs // self._accumulation)
        self._found: dict[int, list[int]] = {}

    def _check(self, examples: Examples, held_out: Examples) -> None:
        unknown = [doc_id for _, doc_id in chain(examples.doc_ids(), held_out.doc_ids()) if doc_id not in self.documents]
        if unknown:
            raise InputError(
                f"{self.config.documents} lacks {len(unknown)} of the {self.counts['documents_usable']} documents that "
                f"{self.config.queries} has queries for, first {unknown[0]!r}. Give the documents that the queries were generated from.")
        said = left_out(self.counts)
        if self.config.reads_negatives and self.config.negative in OF_ITS_OWN and len(examples) and (examples.negatives < 0).all():
            raise InputError(f"{self.config.queries}: none of {self.counts['documents_usable']} documents has a negative query; left out: "
                             f"{said}. Loosen the settings named there, or train on positives alone: w_mr 0, mined_by positive.")
        if self.config.graded and len(examples) and examples.below and not len(examples.below[0]):
            raise InputError(f"{self.config.queries} has no query at r under 1, and graded: {self.config.graded} asks for some. Generate "
                             "at more relevances (--relevances 1 0.75 0.5 0.25 0), or train without: graded 0.")
        if said:
            log.warning("%s: %d of %d documents can be trained on; %s", self.config.queries, self.counts["documents_usable"],
                        self.counts["documents"], said)

    def inputs(self) -> dict[str, str]:
        replay = {"replay": self.replay.fingerprint} if self.replay else {}
        return {"queries": self.queries.fingerprint, "documents": self.documents.fingerprint, **replay}

    def models(self) -> dict[str, str]:
        return self._models

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in _ON_WORKER}

    @cached_property
    def _placement(self) -> tuple[torch.device, torch.dtype]:
        return devices.device_and_dtype(self.config.compute)

    @cached_property
    def _scorer(self) -> TrainingScorer:
        device, dtype = self._placement
        tokenize = PairTokenizer(models.resolve(self._start), self.config.max_length)
        return TrainingScorer(tokenize, tokens_for(device, self.config.batch_tokens), dtype)

    @cached_property
    def _held_out(self) -> HeldOut:
        return HeldOut.search(self._held_out_examples.own_queries(), self.documents)

    @cached_property
    def _held_out_pairs(self) -> EncodedPairs:
        return self._scorer.tokenize(self._held_out.pairs(self.documents))

    def prepare(self) -> None:
        """BM25's index of the whole corpus is made once, and no worker holds one."""
        _ = self._held_out

    def build(self) -> Any:
        """The start, in float32, in training mode."""
        if self.config.w_anchor:  # here and not when it is first asked for: loading may draw random numbers
            self._frozen = self._load().requires_grad_(False)
        return self._load().train()

    def _load(self) -> Any:
        model = load_model(models.resolve(self._start), self._placement[0])
        keep_head_in_float32(model)
        return model

    def batch(self, number: int, workers: Workers = ALONE) -> Batch:
        hardest = None if self.config.mined else self._found.get(self.batches.place(number))
        return self._maker.make(number, workers, self._scorer.tokenize, hardest)

    def loss(self, model: Any, batch: Batch, workers: Workers = ALONE) -> tuple[torch.Tensor, dict[str, float]]:
        """L_bce + w_mr * L_mr + w_graded * L_graded + w_anchor * L_anchor. The mean of L_mr is over the documents with a negative."""
        replayed, replayed_others = batch.replayed_rows()
        own_rows, other_rows = batch.own_rows + replayed, self._other_rows(model, batch, workers) + replayed_others
        negative_rows = [batch.row(batch.own, e) for e in range(len(batch.negatives))]
        rows = (own_rows, other_rows, negative_rows, list(batch.below_rows))
        scores = self._scorer.with_gradient(model, batch.encoded, list(chain(*rows)), workers)
        own, others, negative, below = scores.split([len(some) for some in rows])
        asked = torch.cat([own[:batch.own], below])
        beside, negative = workers.gather(torch.stack([own[batch.negatives], negative], dim=1)).unbind(1)
        own, others = self._beside(own, others, workers)
        loss = bce = bce_loss(own, others)
        measured = {"bce": bce, "own_score": own.mean(), "hardest_score": others.amax(1).mean(),
                    "accuracy": (own > others).all(1).float().mean()}
        if len(negative):
            mr = margin_ranking_loss(beside, negative, self.config.margin, self.config.sign, self.config.activation)
            loss = bce + self.config.w_mr * mr
            measured |= {"mr": mr, "negative_score": negative.mean(), "negative_accuracy": (beside > negative).float().mean()}
        if self.config.graded:
            higher, lower = workers.gather(asked[torch.tensor(batch.graded, dtype=torch.long).view(-1, 2)]).unbind(1)
            if len(higher):
                graded = graded_loss(higher, lower)
                loss = loss + self.config.w_graded * graded
                measured |= {"graded": graded, "graded_accuracy": (higher > lower).float().mean()}
        if self.config.w_anchor:
            before = torch.from_numpy(self._scorer.without_gradient(self._frozen, batch.encoded, own_rows + other_rows)).to(own.device)
            own_before, others_before = self._beside(before[:len(own_rows)], before[len(own_rows):], workers)
            anchor = anchor_loss(own, others, own_before, others_before)
            loss = loss + self.config.w_anchor * anchor
            measured |= {"anchor": anchor}
        values = torch.stack([value.detach() for value in measured.values()]).tolist()
        return loss, {**dict(zip(measured, values, strict=True)), "duplicates": float(batch.duplicates)}

    @staticmethod
    def _beside(own: torch.Tensor, others: torch.Tensor, workers: Workers) -> tuple[torch.Tensor, torch.Tensor]:
        """The scores of all workers: (B, 1), and (B, n) of the other pairs of each."""
        gathered = workers.gather(torch.cat([own[:, None], others.view(len(own), -1)], dim=1))
        return gathered[:, :1], gathered[:, 1:]

    def _other_rows(self, model: Any, batch: Batch, workers: Workers) -> list[int]:
        """Rows of the other documents of Eq. 5, query by query, as many for each."""
        if batch.chosen:
            return [batch.row(i, column) for i in range(batch.own) for column in range(1, batch.columns)]
        return [batch.row(i, column) for i, column in enumerate(self._hardest(model, batch, workers))]

    def _hardest(self, model: Any, batch: Batch, workers: Workers) -> list[int]:
        """k(i) of this worker's queries: columns of the batch."""
        place = self.batches.place(batch.number)
        first, stop = batch.first, batch.first + batch.own
        if place in self._found:  # since the batch was made
            return self._found[place][first:stop]
        b, columns = batch.own, batch.columns
        scores = np.full((b, columns), -np.inf, dtype=np.float32)
        others = np.ones((b, columns), dtype=bool)
        others[np.arange(b), first + np.arange(b)] = False
        scores[others] = self._scorer.without_gradient(model, batch.encoded, np.flatnonzero(others).tolist(), workers)
        hardest = hardest_documents(torch.from_numpy(scores), first)
        if self.config.search == "cached":
            self._found[place] = workers.gather(hardest.to(self._placement[0])).tolist()
        return hardest.tolist()

    def state(self) -> dict[str, torch.Tensor]:
        """What the cached search has found: a row a batch of the epoch, -1 where it has not been yet."""
        if self.config.search == "fresh":
            return {}
        found = torch.full((self.batches.per_epoch, self.batches.size), -1)
        for place, hardest in self._found.items():
            found[place] = torch.tensor(hardest)
        return {"hardest": found}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        if "hardest" in state:
            self._found = {place: row.tolist() for place, row in enumerate(state["hardest"]) if row[0] >= 0}

    def learning_rate(self, step: int) -> float:
        warmup = self.config.warmup_epochs * self.batches.per_epoch / self._accumulation
        return scheduled(self.config.schedule, step, self.steps, warmup)

    def validate(self, model: Any, workers: Workers = ALONE) -> dict[str, Any]:
        encoded = self._held_out_pairs
        number = len(encoded.input_ids)
        if number < workers.count:  # too few to share: each does them all
            workers = ALONE
        mine = range(*workers.span(number))
        logits = torch.from_numpy(self._scorer.without_gradient(model, encoded, mine, workers)).to(self._placement[0])
        return self._held_out.judge(workers.gather(logits).cpu().numpy()).to_log()

    def collapsed(self, start: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
        before, after = Validation.from_log(start), Validation.from_log(now)
        if after.not_finite:
            return f"{after.not_finite} scores of held-out pairs are not finite numbers"
        if has_collapsed(before, after):
            return f"its scores no longer tell documents apart: they differ by {after.spread:.2g}, the start's by {before.spread:.2g}"
        return None

    def save(self, model: Any, folder: Path, log: list[dict[str, Any]]) -> None:
        """Model, card, `guard.json`, `training_log.jsonl`."""
        verdict = verdict_from_log(log, self.config.judge_by_half)
        card.write_model(model, self._scorer.tokenize.tokenizer, folder)
        card.write_documents(folder, self.config, verdict, self.counts, self.inputs(), self.steps, log,
                             read_json(self.queries.path / "_config.json"))


def open_queries(config: TrainRerankerConfig) -> InputFolder:
    """Raises `InputError` where it is no folder of generated queries, or lacks the round trip, as deep, the ratio or the start's scores
    that the settings ask for."""
    columns: tuple[str, ...] = QUERY_COLUMNS
    for needed, more, command, asking in (
        (config.needs_round_trip, ROUND_TRIP_COLUMNS, "round-trip", "round_trip, negative_round_trip and mined need queries that were "
         "asked back of the corpus"),
        (config.needs_ratio, RATIO_COLUMNS, "ratio", "ratio_min and unverified need the likelihood ratio of the queries"),
        (config.needs_scores, SCORE_COLUMNS, "score-queries", "score_best needs the start's scores of the queries"),
    ):
        if needed:
            columns += more
            try:
                open_input(config.queries, columns)
            except InputError as error:
                raise InputError(f"{error}\n{asking}: give the output of `readqg {command} --queries {config.queries} --documents "
                                 f"{config.documents} --out OUT`.") from error
    folder = open_input(config.queries, columns)
    if config.needs_scores and made_with(folder, SCORE_COLUMNS[0]).get("model") not in (None, models.fingerprint(config.start)):
        raise InputError(f"{config.queries}: score_best asks for the scores of the start, {config.start}, and these are another model's. "
                         f"Give `readqg score-queries --model {config.start}` again.")
    asked = config.deepest_round_trip
    if asked and (depth := made_with(folder, ROUND_TRIP_COLUMNS[0]).get("top_k", asked)) < asked:
        raise InputError(f"{config.queries}: the round trip looked at the first {depth} documents, and round_trip, negative_round_trip or "
                         f"mined_from + mined asks for {asked}. Give `readqg round-trip` again, with --top-k {asked}.")
    return folder
