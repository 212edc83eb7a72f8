"""Greedy and sampled decoding, one token of every row a step.

The library's `generate` would do, but for three things that cost time: it computes a prefix once a row, although all samples of
a (document, relevance) share it; rows that have ended stay in the batch until the last one has; and its cache is copied whole
for every token. Beam search, which needs none of these, is left to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from readqg.generator.model import Encoded, Generator, positions

Chooser = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""Raw float32 logits (n, V), the rows they are of (n,), the step (0-based) -> tokens (n,) and their log-probabilities (n,)."""

_ENDED_SHARE = 0.125  # leaving costs a copy of the cache, so rows leave together once this share of the batch has ended


@torch.inference_mode()
def decode(generator: Generator, encodings: Sequence[Encoded], index: Tensor, choose: Chooser, ended: Callable[[Tensor], Tensor],
           max_new_tokens: int) -> tuple[Tensor, Tensor]:
    """One sequence a row of `index` (N,), which names its document, counted through `encodings` (of any lengths): tokens (N, T)
    and their log-probabilities (N, T) in nats. The caches of `encodings` are used up.

    `ended(tokens (n, t))` says, (n,) bool, which rows end with their last token. What stands after a row's end means nothing:
    end tokens, or what the model went on with while its row was still in the batch. T is at most `max_new_tokens`."""
    device = generator.device
    rows = torch.arange(len(index), device=device)
    tokens = torch.full((len(index), max_new_tokens), generator.backbone.end_id, dtype=torch.long, device=device)
    log_probs = torch.zeros(len(index), max_new_tokens, device=device)
    over = torch.zeros(len(index), dtype=torch.bool, device=device)
    begin = _Prefixed if generator.kind == "decoder-only" else _Encoded
    state: _Prefixed | _Encoded = begin(generator, encodings, index.to(device), max_new_tokens)
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

    def __init__(self, generator: Generator, encodings: Sequence[Encoded], index: Tensor, room: int) -> None:
        masks, last, caches = [], [], []
        for encoded in encodings:
            assert encoded.cache is not None and encoded.prefix_mask is not None and encoded.last is not None
            masks.append(encoded.prefix_mask)
            last.append(encoded.last)
            caches.append(cast(list[DynamicLayer], encoded.cache.layers))
        self.generator = generator
        self._last = torch.cat(last)[index]
        self._mask = _rows(masks, "left")[index]
        self._cache = DynamicCache(config=generator.backbone.lm.config)
        for layers in caches:
            layers.reverse()
        # Taken out one by one, so that at no time two copies of the whole lie in memory.
        self._cache.layers = [RoomyLayer([layers.pop() for layers in caches], index, room) for _ in range(len(caches[0]))]

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

    def __init__(self, generator: Generator, encodings: Sequence[Encoded], index: Tensor, room: int) -> None:
        self.generator = generator
        self._states = _rows([encoded.states for encoded in encodings], "right")[index]
        self._mask = _rows([encoded.mask for encoded in encodings], "right")[index]
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

    def __init__(self, prefixes: Sequence[DynamicLayer], index: Tensor, room: int) -> None:
        """Row i begins with prefix `index[i]`, counted through `prefixes`; what is shorter ends where the longest does."""
        super().__init__()
        keys, values = [], []
        for prefix in prefixes:
            assert prefix.keys is not None and prefix.values is not None
            keys.append(prefix.keys)
            values.append(prefix.values)
        self.lazy_initialization(keys[0], values[0])
        self._length = max(tensor.shape[-2] for tensor in keys)
        self._buffers = [_with_room(tensors, index, self._length, room) for tensors in (keys, values)]
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


def _with_room(tensors: Sequence[Tensor], index: Tensor, length: int, room: int) -> Tensor:
    """(len(index), heads, length + room, size): row i of `tensors` (N, heads, at most `length`, size) stands before `room`."""
    _, heads, _, size = tensors[0].shape
    buffer = tensors[0].new_zeros(len(index), heads, length + room, size)
    first = 0
    for tensor in tensors:
        rows = ((index >= first) & (index < first + len(tensor))).nonzero().squeeze(1)
        buffer[rows, :, length - tensor.shape[2]:length] = tensor[index[rows] - first]
        first += len(tensor)
    return buffer


def _rows(tensors: Sequence[Tensor], padding_side: str) -> Tensor:
    """The rows of all (N, L, ...), padded with zeros to the longest."""
    return pad_sequence([row for tensor in tensors for row in tensor], batch_first=True, padding_side=padding_side)
