"""Soft prompts with continuous relevance (section 3.2, Eq. 1): what trains, and all that is saved.

A prompts folder holds `prompts.safetensors` (instruction, plus, minus; float32) and `prompts.json` (what they were made for).
"""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from readqg import shards
from readqg.config import GeneratorSettings
from readqg.errors import ModelError
from readqg.fetching import local_folder
from readqg.generator.backbone import Backbone
from readqg.generator.facts import FACTS, PromptFacts, read_facts

logger = logging.getLogger("readqg")

_TENSORS = "prompts.safetensors"
_FORMAT = 1


class RelevancePrompt(nn.Module):
    """P_rel(r)[k] = r * plus[k] + (1 - r) * minus[k], k = 1..n (Eq. 1). Parameters `plus`, `minus`: (n, H)."""

    def __init__(self, plus: Tensor, minus: Tensor) -> None:
        super().__init__()
        self.plus = nn.Parameter(plus.detach().clone())
        self.minus = nn.Parameter(minus.detach().clone())

    def forward(self, relevance: Tensor) -> Tensor:
        """relevance (B,) in [0, 1] -> (B, n, H)."""
        r = relevance.to(self.plus.dtype)[:, None, None]
        return r * self.plus + (1 - r) * self.minus


class SoftPrompt(nn.Module):
    """[P_inst ; P_rel(r)]: parameter `instruction` (n_inst, H) and module `relevance` (plus and minus, n_rel x H).

    Parameters are float32 whatever the backbone computes in: at bf16's 8 bits small updates would be lost."""

    def __init__(self, instruction: Tensor, relevance: RelevancePrompt, facts: PromptFacts) -> None:
        super().__init__()
        self.instruction = nn.Parameter(instruction.detach().clone())
        self.relevance = relevance
        self.facts = facts

    @classmethod
    def initial(cls, backbone: Backbone, settings: GeneratorSettings, data_fingerprint: str = "") -> SoftPrompt:
        """Untrained prompts, from the backbone's own embeddings: the instruction's tokens cut, or repeated cyclically, to
        `n_instruction` (profile "authors" counts the end token as one of them), and `n_relevance` copies of "true" and
        "false"."""
        ids = backbone.token_ids(settings.instruction)
        if settings.profile == "authors":
            ids = [*ids, backbone.end_id]
        facts = PromptFacts(
            base_model=backbone.name, base_fingerprint=backbone.fingerprint, base_revision=backbone.revision,
            architecture=backbone.architecture, instruction=settings.instruction, separator=settings.separator,
            profile=settings.profile, data_fingerprint=data_fingerprint,
            conditioned_on="nothing" if settings.unconditional else "relevance",
        )
        plus, minus = (_filled(backbone, backbone.token_ids(word), settings.n_relevance) for word in ("true", "false"))
        return cls(_filled(backbone, ids, settings.n_instruction), RelevancePrompt(plus, minus), facts)

    @property
    def length(self) -> int:
        """n_inst + n_rel."""
        return len(self.instruction) + len(self.relevance.plus)

    def forward(self, relevance: Tensor) -> Tensor:
        """relevance (B,) -> (B, n_inst + n_rel, H), in the parameters' precision."""
        instruction = self.instruction.unsqueeze(0).expand(len(relevance), -1, -1)
        return torch.cat([instruction, self.relevance(relevance)], dim=1)

    def save(self, folder: str | Path) -> None:
        """Write the two files into an existing folder."""
        tensors = {"instruction": self.instruction, "plus": self.relevance.plus, "minus": self.relevance.minus}
        save_file({name: t.detach().float().cpu().contiguous() for name, t in tensors.items()}, Path(folder) / _TENSORS)
        facts = {"format": _FORMAT, **asdict(self.facts), "kind": self.facts.kind,
                 "lengths": {name: len(t) for name, t in tensors.items()}}
        (Path(folder) / FACTS).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> SoftPrompt:
        """Read prompts. Raises `ModelError` where the folder holds none, or its files are damaged or do not agree."""
        folder = local_folder(folder)
        facts = read_facts(folder)
        try:
            tensors = load_file(folder / _TENSORS)
            instruction, plus, minus = (tensors[name].float() for name in ("instruction", "plus", "minus"))
        except (OSError, SafetensorError, KeyError) as error:
            raise ModelError(f"{folder / _TENSORS} cannot be read ({error}). Copy or train the prompts again.") from error
        hidden = facts.architecture["hidden_size"]
        wrong = {tuple(t.shape) for t in (instruction, plus, minus) if t.dim() != 2 or t.shape[1] != hidden}
        if wrong or plus.shape != minus.shape:
            shapes = [tuple(t.shape) for t in (instruction, plus, minus)]
            raise ModelError(f"{folder}: {FACTS} says hidden size {hidden}, but {_TENSORS} holds shapes {shapes}. "
                             "The two files are not of one training: copy both again.")
        return cls(instruction, RelevancePrompt(plus, minus), facts)

    @property
    def fingerprint(self) -> str:
        """Of the tensors."""
        return shards.fingerprint({name: hashlib.sha256(p.detach().numpy().tobytes()).hexdigest() for name, p in self.named_parameters()})

    def start_from(self, other: SoftPrompt, name: str) -> None:
        """Take the values of other prompts. Raises `ModelError` where they were trained for another backbone or have other lengths."""
        if other.facts.architecture != self.facts.architecture:
            raise ModelError(f"{name}: these prompts were trained for {other.facts.base_model} and cannot start those of "
                             f"{self.facts.base_model}. Give prompts of the same backbone.")
        theirs, ours = dict(other.named_parameters()), dict(self.named_parameters())
        wrong = [f"{key}: {len(theirs[key])} there, {len(ours[key])} here" for key in ours if len(theirs[key]) != len(ours[key])]
        if wrong:
            raise ModelError(f"{name}: these prompts have other lengths ({'; '.join(wrong)}). Give --n-instruction and --n-relevance as "
                             "they are there.")
        with torch.no_grad():
            for key, parameter in ours.items():
                parameter.copy_(theirs[key])

    def check_fits(self, backbone: Backbone) -> None:
        """Raises `ModelError` where the prompts were trained for another base model; warns where the base model is the same
        in shape but its weights are not the ones trained on."""
        trained = self.facts
        differing = [f"{key}: prompts {trained.architecture.get(key)}, backbone {found}"
                     for key, found in backbone.architecture.items() if trained.architecture.get(key) != found]
        if differing:
            raise ModelError(f"These prompts were trained for {trained.base_model} and do not fit {backbone.name} "
                             f"({'; '.join(differing)}). Give --backbone {trained.base_model}, or train prompts for this one.")
        self.compare_weights(backbone.name, backbone.fingerprint)

    def compare_weights(self, name: str, fingerprint: str) -> None:
        """Warns where the prompts were trained on other weights than the backbone's, `name` with `fingerprint`."""
        trained = self.facts
        if trained.base_fingerprint != fingerprint:
            logger.warning("The prompts were trained on other weights (%s, fingerprint %s) than these (%s, %s): queries may be worse",
                           trained.base_model, trained.base_fingerprint, name, fingerprint)


def files_fingerprint(folder: str | Path) -> str:
    """Of all that a prompts folder says, its facts too."""
    return shards.fingerprint({file.name: shards.sha256_file(file) for file in sorted(local_folder(folder).glob("prompts.*"))})


def _filled(backbone: Backbone, ids: list[int], length: int) -> Tensor:
    """Embeddings (length, H), float32, of `ids` cut or repeated cyclically."""
    if length and not ids:
        raise ModelError("The instruction has no tokens. Give a text, or set n_instruction to 0.")
    return backbone.embed(torch.tensor(list(islice(cycle(ids), length)), dtype=torch.long)).detach().float().cpu()
