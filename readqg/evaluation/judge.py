"""Judges of query quality (section 5): the probability that a document is relevant to a query.

A judge is a cross-encoder (the sigmoid of its logit) or a T5 model trained as monoT5; what its config.json says decides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, PretrainedConfig

from readqg.batching import run_batches
from readqg.crossencoder import CrossEncoderScorer
from readqg.errors import ModelError
from readqg.tokenizing import load_tokenizer

_ANSWERS = ("▁true", "▁false")
_END = "Relevant:"


class Judge(ABC):
    """Says how probable it is that a document is relevant to a query.

    After a call, `last_halvings` says how often running out of memory halved the token budget."""

    last_halvings = 0

    @staticmethod
    def open(
        folder: str, max_length: int, batch_tokens: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> Judge:
        """The judge in a model folder. `max_length`: tokens of a pair or prompt; `batch_tokens`: of a batch, padding included.

        Raises `ModelError` where the folder holds neither a cross-encoder nor a T5 model, or no safetensors."""
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder}: no judge can be loaded: {error}. Give a model folder with config.json.") from error
        named = " ".join(config.architectures or ["no architecture"])
        if named.endswith("ForSequenceClassification"):
            return CrossEncoderJudge(CrossEncoderScorer(folder, max_length, batch_tokens, device, dtype))
        if named == "T5ForConditionalGeneration":
            return T5Judge(folder, config, max_length, batch_tokens, device, dtype)
        raise ModelError(f"{folder}: config.json names {named}. A judge is a cross-encoder (...ForSequenceClassification) or a "
                         "monoT5 model (T5ForConditionalGeneration).")

    @abstractmethod
    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """Of every (query, document), float32 in [0, 1], in input order; NaN where the model gives NaN."""


class CrossEncoderJudge(Judge):
    """The sigmoid of a cross-encoder's logit."""

    def __init__(self, scorer: CrossEncoderScorer) -> None:
        self._scorer = scorer

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        logits = torch.from_numpy(self._scorer.score(pairs))
        self.last_halvings = self._scorer.last_halvings
        return torch.sigmoid(logits).numpy()


class T5Judge(Judge):
    """monoT5 (Nogueira et al., "Document Ranking with a Pretrained Sequence-to-Sequence Model", section 3): of the prompt
    "Query: q Document: d Relevant:" the softmax over the logits of "▁true" and "▁false" at the first decoder step.

    The output layer is replaced by its two rows that are read, in float32 whatever the body is in, so that close probabilities
    do not tie. Raises `ModelError` where the vocabulary has no such tokens."""

    def __init__(
        self, folder: str, config: PretrainedConfig, max_length: int, batch_tokens: int,
        device: torch.device | str, dtype: torch.dtype,
    ) -> None:
        self._tokenizer = load_tokenizer(folder)
        answers = [self._tokenizer.get_vocab().get(token) for token in _ANSWERS]
        if None in answers:
            raise ModelError(f"{folder}: its vocabulary lacks {' or '.join(_ANSWERS)}: not a monoT5 model.")
        model = _load_t5(folder, config, dtype)
        model.lm_head = _AnswerHead(model.lm_head.weight[answers])
        self._model: Any = model.eval().to(device)
        self._max_length, self._batch_tokens = max_length, batch_tokens
        self._end_tokens = len(self._tokenizer(_END)["input_ids"])
        if max_length <= self._end_tokens:
            raise ModelError(f"{folder}: {max_length} tokens leave no room for a query and a document. Raise max_length.")

    def probabilities(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        prompts = self._prompts(pairs)
        values, self.last_halvings = run_batches(
            [len(ids) for ids in prompts], self._batch_tokens, lambda rows: self._forward([prompts[i] for i in rows])
        )
        return np.asarray(values, dtype=np.float32)

    def _prompts(self, pairs: Sequence[tuple[str, str]]) -> list[list[int]]:
        """Token ids; where there are too many, the last ones of the document go and "Relevant:" stays."""
        if not pairs:
            return []
        texts = [f"Query: {query} Document: {document} {_END}" for query, document in pairs]
        rows: list[list[int]] = self._tokenizer(texts, return_attention_mask=False, verbose=False)["input_ids"]
        head = self._max_length - self._end_tokens
        return [ids if len(ids) <= self._max_length else ids[:head] + ids[-self._end_tokens:] for ids in rows]

    @torch.inference_mode()
    def _forward(self, prompts: list[list[int]]) -> list[float]:
        batch = self._tokenizer.pad({"input_ids": prompts}, return_tensors="pt").to(self._model.device)
        start = torch.full((len(prompts), 1), self._model.config.decoder_start_token_id, device=self._model.device)
        logits = self._model(**batch, decoder_input_ids=start, use_cache=False).logits[:, 0]
        probabilities: list[float] = logits.softmax(-1)[:, 0].tolist()
        return probabilities


def _load_t5(folder: str, config: PretrainedConfig, dtype: torch.dtype) -> Any:
    try:
        model, info = AutoModelForSeq2SeqLM.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, local_files_only=True,
            trust_remote_code=False, output_loading_info=True,
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: no T5 model can be loaded: {error}. It needs model.safetensors.") from error
    if info["missing_keys"]:
        raise ModelError(f"{folder}: its weights lack {', '.join(sorted(info['missing_keys'])[:5])}. Copy the model again.")
    return model


class _AnswerHead(nn.Module):
    """The rows of an output layer that a judge reads, in float32: (B, T, H) -> (B, T, 2)."""

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(rows.detach().float().clone())

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(states.float(), self.weight)
