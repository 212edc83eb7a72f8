"""Greedy and sampled decoding, one token of every row a step.

The library's `generate` would do, but for three things that cost time: it computes a prefix once a row, although all samples of
a (document, relevance) share it; rows that have ended stay in the batch until the last one has; and its cache is copied whole
for every token. Beam search, which needs none of these, is left to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from readqg.generator.model import Encoded, Generator, positions

Chooser = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Raw float32 logits (n, V), the rows they are of (n,), the step (0-based) -> tokens (n,) and their log-probabilities (n,)."""

_ENDED_SHARE = 0.125  # leaving costs a copy of the cache, so rows leave together once this share of the batch has ended


@torch.inference_mode()
def decode(generator: Generator, encoded: Encoded, index: Tensor, choose: Chooser, ended: Callable[[Tensor], Tensor],
           max_new_tokens: int) -> tuple[Tensor, Tensor]:
    """One sequence a row of `index` (N,), which names its encoding: tokens (N, T) and their log-probabilities (N, T) in nats.
    The cache of `encoded` is used up.

    `ended(tokens (n, t))` says, (n,) bool, which rows end with their last token. What stands after a row's end means nothing:
    end tokens, or what the model went on with while its row was still in the batch. T is at most `max_new_tokens`."""
    device = generator.device
    rows = torch.arange(len(index), device=device)
    tokens = torch.full((len(index), max_new_tokens), generator.backbone.end_id, dtype=torch.long, device=device)
    log_probs = torch.zeros(len(index), max_new_tokens, device=device)
    over = torch.zeros(len(index), dtype=torch.bool, device=device)
    begin = _Prefixed if generator.kind == "decoder-only" else _Encoded
    state: _Prefixed | _Encoded = begin(generator, encoded, index.to(device), max_new_tokens)
    for step in range(max_new_tokens):
        logits = state.next_logits(tokens[rows, step - 1] if step else None)
        tokens[rows, step], log_probs[rows, step] = choose(logits, rows, step)
        over |= ended(tokens[rows, : step + 1])
        if over.all():
            return tokens[:, : step + 1], log_probs[:, : step + 1]
        if over.sum() >= _ENDED_SHARE * len(rows):
            going = (~over).nonzero().squeeze(1)
            state.keep(going)
            rows, over = rows[going], over[going]
    return tokens, log_probs


class _Prefixed:
    """A decoder-only backbone after its prefixes."""

    def __init__(self, generator: Generator, encoded: Encoded, index: Tensor, room: int) -> None:
        assert encoded.cache is not None and encoded.prefix_mask is not None and encoded.last is not None
        self.generator = generator
        self._last = encoded.last[index]
        self._mask = encoded.prefix_mask[index]
        self._cache = DynamicCache(config=generator.backbone.lm.config)
        layers = encoded.cache.layers
        layers.reverse()
        # Taken out one by one, so that at no time two copies of the whole lie in memory.
        self._cache.layers = [RoomyLayer(cast(DynamicLayer, layers.pop()), index, room) for _ in range(len(layers))]

    def next_logits(self, tokens: Tensor | None) -> Tensor:
        """(n, V) float32 after `tokens` (n,), or after the prefix."""
        inputs = self._last if tokens is None else self.generator.backbone.embed(tokens[:, None])
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), 1)], dim=1)
        out = self.generator.backbone.lm(
            inputs_embeds=inputs, attention_mask=self._mask, position_ids=positions(self._mask)[:, -1:],
            past_key_values=self._cache, use_cache=True)
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def keep(self, rows: Tensor) -> None:
        self._mask = self._mask[rows]
        self._cache.batch_select_indices(rows)


class _Encoded:
    """The decoder of an encoder-decoder."""

    def __init__(self, generator: Generator, encoded: Encoded, index: Tensor, room: int) -> None:
        self.generator = generator
        self._states, self._mask = encoded.states[index], encoded.mask[index]
        config = generator.backbone.lm.config
        self._cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))

    def next_logits(self, tokens: Tensor | None) -> Tensor:
        lm: Any = self.generator.backbone.lm
        if tokens is None:
            tokens = torch.full((len(self._mask),), lm.config.decoder_start_token_id, device=self._mask.device)
        out = lm(encoder_outputs=BaseModelOutput(last_hidden_state=self._states), attention_mask=self._mask,
                 decoder_input_ids=tokens[:, None], past_key_values=self._cache, use_cache=True)
        logits: Tensor = out.logits[:, -1].float()
        return logits

    def keep(self, rows: Tensor) -> None:
        self._states, self._mask = self._states[rows], self._mask[rows]
        self._cache.batch_select_indices(rows)


class RoomyLayer(DynamicLayer):
    """Keys and values of a layer with room for `room` more positions, so that a token is written, not the whole copied."""

    def __init__(self, prefix: DynamicLayer, index: Tensor, room: int) -> None:
        super().__init__()
        assert prefix.keys is not None and prefix.values is not None
        self.lazy_initialization(prefix.keys, prefix.values)
        self._length = prefix.keys.shape[-2]
        self._buffers = [_with_room(tensor, index, room) for tensor in (prefix.keys, prefix.values)]
        self.keys, self.values = self._filled()

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        start, self._length = self._length, self._length + key_states.shape[-2]
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., start:self._length, :] = states
        self.keys, self.values = self._filled()
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        self._buffers = [buffer[indices] for buffer in self._buffers]
        self.keys, self.values = self._filled()

    def _filled(self) -> tuple[Tensor, Tensor]:
        keys, values = self._buffers
        return keys[..., : self._length, :], values[..., : self._length, :]


def _with_room(tensor: Tensor, index: Tensor, room: int) -> Tensor:
    _, heads, length, size = tensor.shape
    buffer = tensor.new_zeros(len(index), heads, length + room, size)
    buffer[..., :length, :] = tensor[index]
    return buffer
