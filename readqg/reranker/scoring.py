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
from readqg.crossencoder import EncodedPairs, PairTokenizer, head_modules


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

    def with_gradient(self, model: nn.Module, encoded: EncodedPairs, rows: Sequence[int]) -> Tensor:
        """(len(rows),) float32 logits in training mode, dropout on."""
        model.train()
        forward = self._forward(model, encoded, rows)
        lengths = [len(encoded.input_ids[row]) for row in rows]
        batches = token_batches(lengths, self.batch_tokens)
        with self._autocast(model), _attention_for_dropout(model):
            logits = torch.cat([forward(batch) for batch in batches])
        back = np.argsort([index for batch in batches for index in batch])
        return logits[torch.from_numpy(back).to(logits.device)]

    def without_gradient(self, model: nn.Module, encoded: EncodedPairs, rows: Sequence[int]) -> np.ndarray:
        """(len(rows),) float32 logits with dropout off; running out of memory halves the batches. The mode is put back."""
        forward = self._forward(model, encoded, rows)
        lengths = [len(encoded.input_ids[row]) for row in rows]
        with _evaluating(model), torch.no_grad(), self._autocast(model):
            logits, _ = run_batches(lengths, self.batch_tokens, lambda batch: forward(batch).tolist())
        return np.asarray(logits, dtype=np.float32)

    def _forward(self, model: nn.Module, encoded: EncodedPairs, rows: Sequence[int]) -> Callable[[list[int]], Tensor]:
        device = next(model.parameters()).device

        def forward(batch: list[int]) -> Tensor:
            logits: Tensor = model(**self.tokenize.batch(encoded, [rows[i] for i in batch], device)).logits
            return logits[:, 0].float()

        return forward

    def _autocast(self, model: nn.Module) -> torch.autocast:
        return torch.autocast(next(model.parameters()).device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)


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
