"""Cross-encoders: load any sequence-classification folder with one label and score text pairs to raw logits.

Labels, re-ranking, filtering and judging all score through `CrossEncoderScorer`; training takes the same model from `load_model`.
Three things differ from `sentence_transformers.CrossEncoder.predict`, which it equals in float32: every distinct text is
tokenised once, however many pairs it is in; the last layer makes the one state that is read of it; and a bfloat16 model keeps
its pooler and classifier in float32, since bfloat16 has about three significant digits, at which the logits of neighbouring
documents tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from readqg.batching import run_batches, tokens_for
from readqg.errors import ModelError
from readqg.tokenizing import EncodedPairs, PairTokenizer

_BERT_LIKE = frozenset({"bert", "camembert", "electra", "roberta", "xlm-roberta"})
"""Models of BERT's layers whose heads read the first token's state, and no other."""


def load_model(folder: str, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A cross-encoder in evaluation mode, its body in `dtype`, its pooler and classifier in float32. Of BERT-like models
    `last_hidden_state` is the first token's alone, whatever attention is set later.

    Raises `ModelError` where the folder holds no safetensors, another kind of model, or another number of labels than one."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if config.num_labels != 1:
            raise ModelError(f"{folder}: this model has {config.num_labels} labels; a cross-encoder that ranks has one.")
        model, info = AutoModelForSequenceClassification.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, local_files_only=True,
            trust_remote_code=False, output_loading_info=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: no cross-encoder can be loaded: {error}. "
                         "Give a folder with config.json and model.safetensors of a sequence-classification model.") from error
    if info["missing_keys"]:
        raise ModelError(f"{folder}: its weights lack {', '.join(sorted(info['missing_keys']))}: "
                         "this is not a trained cross-encoder. Give one with a classification head.")
    if dtype != torch.float32:
        _lower_body(model, dtype)
    if config.model_type in _BERT_LIKE and not config.is_decoder and model.config._attn_implementation == "sdpa":
        last = model.base_model.encoder.layer[-1]
        last.forward = MethodType(_first_token_alone, last)
    return model.to(device).eval()


def _first_token_alone(
    layer: Any, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *_: Any, **__: Any
) -> torch.Tensor:
    """The forward pass of a BERT layer for its first token: (texts, tokens, width) to (texts, 1, width). The others are but keys
    and values of its attention, so a sixth of the layer's products are left."""
    attention, first = layer.attention, hidden_states[:, :1]
    heads = attention.self
    shape = (len(hidden_states), -1, heads.num_attention_heads, heads.attention_head_size)
    query, key, value = (project(states).view(shape).transpose(1, 2) for project, states in (
        (heads.query, first), (heads.key, hidden_states), (heads.value, hidden_states)))
    mask = None if attention_mask is None else attention_mask[..., :1, :]
    read = scaled_dot_product_attention(query, key, value, mask, dropout_p=heads.dropout.p if heads.training else 0.0)
    state: torch.Tensor = layer.feed_forward_chunk(attention.output(read.transpose(1, 2).flatten(2), first))
    return state


def _lower_body(model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Parameters of the body to `dtype`; what reads its states (pooler, classifier) stays float32 and casts what it is given.

    Parameters only: buffers such as rotary frequencies must stay as they were built."""
    head = head_modules(model)
    kept = {parameter for module in head for parameter in module.parameters()}
    for parameter in model.base_model.parameters():
        if parameter not in kept:
            parameter.data = parameter.data.to(dtype)
    for module in head:
        module.register_forward_pre_hook(_cast_to_float32, with_kwargs=True)


def head_modules(model: PreTrainedModel) -> list[nn.Module]:
    """What turns the body's states into the logit: the classifier with its dropout, and the pooler where there is one."""
    pooler = getattr(model.base_model, "pooler", None)
    head = [child for child in model.children() if child is not model.base_model]
    return [*head, pooler] if isinstance(pooler, nn.Module) else head


def _cast_to_float32(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    def cast(value: Any) -> Any:
        return value.float() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    return tuple(map(cast, args)), {key: cast(value) for key, value in kwargs.items()}


def tensors(inputs: Mapping[str, np.ndarray], device: torch.device | str) -> dict[str, torch.Tensor]:
    """A padded batch on the model's device."""
    return {name: torch.from_numpy(array).to(device) for name, array in inputs.items()}


class CrossEncoderScorer:
    """Scores text pairs with a cross-encoder: float32 raw logits, no activation.

    `max_length`: tokens of a pair, the longer text cut first. `batch_tokens`: tokens of a batch, padding included (fewer on a CPU).
    After a call, `last_halvings` says how often running out of memory halved that budget, `last_tokens` how many tokens,
    padding and repeated pairs left out, were scored. Raises `ModelError` as `load_model` and `PairTokenizer` do."""

    def __init__(self, folder: str, max_length: int, batch_tokens: int, device: torch.device | str, dtype: torch.dtype):
        self.model = load_model(folder, device, dtype)
        self.tokenize = PairTokenizer(folder, max_length)
        self.batch_tokens = tokens_for(device, batch_tokens)
        self.last_halvings = self.last_tokens = 0

    def score(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Logits of shape (len(pairs),), in input order. What the model makes of a pair is passed on, NaN too."""
        return self.score_encoded(self.tokenize(pairs))

    def score_encoded(self, encoded: EncodedPairs) -> np.ndarray:
        """As `score`, for pairs tokenised before. Equal pairs are scored once: a logit's last bits depend on a row's place in
        its batch, and documents with the same text must tie."""
        keys = [(ids.tobytes(), types.tobytes()) for ids, types in zip(encoded.input_ids, encoded.type_ids, strict=True)]
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        distinct = sorted(first.values())
        lengths = [len(encoded.input_ids[row]) for row in distinct]
        values, self.last_halvings = run_batches(
            lengths, self.batch_tokens, lambda batch: self._forward(encoded, [distinct[i] for i in batch])
        )
        self.last_tokens = sum(lengths)
        logits = dict(zip(distinct, values, strict=True))
        return np.asarray([logits[first[key]] for key in keys], dtype=np.float32)

    @torch.inference_mode()
    def _forward(self, encoded: EncodedPairs, rows: list[int]) -> list[float]:
        batch = tensors(self.tokenize.padded(encoded, rows), self.model.device)
        logits: list[float] = self.model(**batch).logits[:, 0].float().tolist()
        return logits
