"""Scoring with a model that is being trained: float32 weights, bfloat16 computation where the device has it, float32 head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from readqg.batching import run_batches, token_batches
from readqg.crossencoder import head_modules, tensors
from readqg.tokenizing import EncodedPairs, PairTokenizer
from readqg.workers import ALONE, Workers


class Float32Linear(nn.Linear):
    """A linear layer that computes in float32 under autocast too."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return functional.linear(input.float(), self.weight, self.bias)


def keep_head_in_float32(model: Any) -> None:
    """Logits rounded to bfloat16 would tie, and with them the hinge of Eq. 6. Parameters and their names stay as they are."""
    for module in head_modules(model):
        for layer in module.modules():
            if type(layer) is nn.Linear:
                layer.__class__ = Float32Linear


class TrainingScorer:
    """Logits of tokenised pairs under the weights as they are now. `batch_tokens`: tokens of a batch, padding included."""

    def __init__(self, tokenize: PairTokenizer, batch_tokens: int, dtype: torch.dtype):
        self.tokenize, self.batch_tokens, self.dtype = tokenize, batch_tokens, dtype

    def with_gradient(self, model: nn.Module, encoded: EncodedPairs, rows: Sequence[int], workers: Workers = ALONE) -> Tensor:
        """(len(rows),) float32 logits in training mode, dropout on. With `workers` in lockstep, all of them have to call it."""
        model.train()
        forward, batches = self._forward(model, encoded, rows), self._batches(encoded, rows)
        logits: list[Tensor] = []
        unused: list[Tensor] = []
        with self._autocast(model), _attention_for_dropout(model):
            for batch, counts in workers.in_step(batches, self._device(model)):
                (logits if counts else unused).append(forward(batch))
        values = torch.cat(logits)
        for dummy in unused:  # its backward pass, too, must be run by all
            values = values + 0.0 * dummy.sum()
        back = np.argsort([index for batch in batches for index in batch])
        return values[torch.from_numpy(back).to(values.device)]

    def without_gradient(
        self, model: nn.Module, encoded: EncodedPairs, rows: Sequence[int], workers: Workers = ALONE
    ) -> np.ndarray:
        """(len(rows),) float32 logits with dropout off; running out of memory halves the batches. The mode is put back. With
        `workers` in lockstep, all of them have to call it, and running out of memory is an error."""
        forward = self._forward(model, encoded, rows)
        with _evaluating(model), torch.no_grad(), self._autocast(model):
            if workers.lockstep and workers.count > 1:
                return self._in_lockstep(model, forward, self._batches(encoded, rows), workers)
            lengths = [len(encoded.input_ids[row]) for row in rows]
            logits, _ = run_batches(lengths, self.batch_tokens, lambda batch: forward(batch).tolist())
        return np.asarray(logits, dtype=np.float32)

    def _in_lockstep(
        self, model: nn.Module, forward: Callable[[list[int]], Tensor], batches: list[list[int]], workers: Workers
    ) -> np.ndarray:
        logits = np.empty(sum(map(len, batches)), dtype=np.float32)
        for batch, _ in workers.in_step(batches, self._device(model)):
            logits[batch] = forward(batch).cpu().numpy()
        return logits

    def _batches(self, encoded: EncodedPairs, rows: Sequence[int]) -> list[list[int]]:
        return token_batches([len(encoded.input_ids[row]) for row in rows], self.batch_tokens)

    @staticmethod
    def _device(model: nn.Module) -> torch.device:
        return next(model.parameters()).device

    def _forward(self, model: nn.Module, encoded: EncodedPairs, rows: Sequence[int]) -> Callable[[list[int]], Tensor]:
        device = self._device(model)

        def forward(batch: list[int]) -> Tensor:
            logits: Tensor = model(**tensors(self.tokenize.padded(encoded, [rows[i] for i in batch]), device)).logits
            return logits[:, 0].float()

        return forward

    def _autocast(self, model: nn.Module) -> torch.autocast:
        return torch.autocast(self._device(model).type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@contextmanager
def _attention_for_dropout(model: Any) -> Iterator[None]:
    """On CPU, PyTorch's fused attention knows no dropout and falls back to float32 products; the plain one stays in bfloat16,
    which takes a quarter off the pass. Without dropout the fused one is twice as fast."""
    if next(model.parameters()).device.type != "cpu" or model.config._attn_implementation != "sdpa":
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation("sdpa")
