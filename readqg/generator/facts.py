"""What a prompts folder says of itself (`prompts.json`), read without torch."""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from readqg.errors import ModelError
from readqg.fetching import local_folder

FACTS = "prompts.json"


@dataclass(frozen=True)
class PromptFacts:
    """What prompts were trained for and on."""

    base_model: str
    """Folder or hub name of the backbone, as it was given."""
    base_fingerprint: str
    """Of its weights (`readqg.models.fingerprint`)."""
    base_revision: str | None
    """The hub's commit, where there is one."""
    architecture: dict[str, Any]
    """`Backbone.architecture`: prompts fit no other."""
    instruction: str
    separator: str
    profile: str
    data_fingerprint: str
    """Of the pairs they were trained on; empty for prompts that were not trained."""
    conditioned_on: Literal["relevance", "nothing", "examples"] = "relevance"
    """What says which query is wanted: r; nothing, of prompts trained as `unconditional`, whose end at r = 0 is untrained; or the worked
    examples of few-shot prompts, which end in `separator` whatever the backbone."""

    @property
    def kind(self) -> str:
        """"encoder-decoder" or "decoder-only"."""
        return str(self.architecture["kind"])


def read_facts(folder: str | Path) -> PromptFacts:
    """Raises `ModelError` where there is nothing to read."""
    content = _content(folder)
    try:
        return PromptFacts(**{f.name: content[f.name] for f in fields(PromptFacts) if f.default is MISSING or f.name in content})
    except KeyError as error:
        raise _damaged(folder, error) from error


def knows_relevance(folder: str | Path) -> bool:
    """Whether queries differ with r: few-shot and unconditional prompts know none. Raises `ModelError` as `read_facts`."""
    content = _content(folder)
    try:
        return bool(content["lengths"]["plus"]) and content.get("conditioned_on", "relevance") == "relevance"
    except (KeyError, TypeError) as error:
        raise _damaged(folder, error) from error


def _content(folder: str | Path) -> dict[str, Any]:
    path = local_folder(folder) / FACTS
    if not path.is_file():
        raise ModelError(f"{folder} holds no prompts ({FACTS} is not there). Give a folder made by `readqg train-generator`.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(folder, error) from error
    if not isinstance(content, dict):
        raise _damaged(folder, TypeError("no object"))
    return content


def _damaged(folder: str | Path, error: Exception) -> ModelError:
    return ModelError(f"{local_folder(folder) / FACTS} is damaged ({type(error).__name__}: {error}). Copy or train the prompts again.")
