"""The frozen language model under the prompts: a T5-type encoder-decoder (Flan-T5) or any decoder-only one (Llama-type)."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from readqg import models
from readqg.errors import ModelError

Kind = Literal["encoder-decoder", "decoder-only"]


class Backbone:
    """A frozen language model with its tokenizer. Not a `torch.nn.Module` on purpose: nothing that walks modules may
    train, cast, copy or checkpoint it."""

    def __init__(self, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        self.lm = lm.eval().requires_grad_(False)
        self.attention = lm.config._attn_implementation
        self.tokenizer = tokenizer
        self.name = name
        self.kind: Kind = "encoder-decoder" if lm.config.is_encoder_decoder else "decoder-only"

    @classmethod
    def load(cls, name: str | Path, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Backbone:
        """From a folder or a hub name. Raises `ModelError` where it cannot be used: none there, pickled weights only, or
        not a language model of either kind. On the device "meta" no weights are read: enough to check and to tokenise with."""
        folder = models.resolve(str(name))
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            if torch.device(device).type == "meta":
                with torch.device("meta"):
                    lm = auto.from_config(config, dtype=dtype, trust_remote_code=False)
            else:
                # An untied T5 head is kept by plain loading. Resizing embeddings or tying again would replace it: do neither.
                lm = auto.from_pretrained(
                    folder, config=config, dtype=dtype, use_safetensors=True, local_files_only=True, trust_remote_code=False)
        except (ValueError, OSError, KeyError) as error:
            raise ModelError(f"{folder} cannot be loaded as a language model ({str(error).splitlines()[0]}). "
                             "The backbone must be a T5-type or a decoder-only model.") from error
        if tokenizer.eos_token_id is None:
            raise ModelError(f"{folder}: its tokenizer has no end token, so a query could never end. Give another backbone.")
        return cls(lm.to(device), tokenizer, str(name))

    @cached_property
    def fingerprint(self) -> str:
        """Of the weights and the architecture; see `readqg.models.weights_fingerprint`."""
        return models.weights_fingerprint(self.name)

    @property
    def revision(self) -> str | None:
        return models.revision(self.name)

    @property
    def architecture(self) -> dict[str, Any]:
        """What prompts must agree with."""
        config = self.lm.config
        return {
            "kind": self.kind, "model_type": config.model_type, "hidden_size": config.hidden_size,
            "layers": config.num_hidden_layers, "vocabulary": self.lm.get_input_embeddings().num_embeddings,
        }

    @property
    def device(self) -> torch.device:
        return self.lm.device

    @property
    def dtype(self) -> torch.dtype:
        return self.lm.dtype

    @property
    def end_id(self) -> int:
        """The token that ends a query (and, in an encoder-decoder, a document)."""
        return int(self.tokenizer.eos_token_id)

    def token_ids(self, text: str) -> list[int]:
        """Tokens of `text` and nothing around them."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def embed(self, ids: Tensor) -> Tensor:
        """Input embeddings: (..., ) ids -> (..., H)."""
        return self.lm.get_input_embeddings()(ids.to(self.device))
