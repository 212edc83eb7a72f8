"""Named sets of values: `paper` (the defaults), `authors` (the released code, where it differs), `small` (a laptop)."""

from __future__ import annotations

from typing import Any

from readqg.config.base import Settings
from readqg.config.machine import FLAN_T5, MINILM_L6, MINILM_L12, SMOLLM2

_AUTHORS_GENERATOR = {
    "profile": "authors",
    "n_instruction": 13,
    "dropout": True,
    "instruction": "Generate a question for the passage with relevance label: ",
}
_AUTHORS_RERANKER = {"sign": "authors", "activation": "sigmoid"}
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "paper": {"RunConfig": {"backbone": FLAN_T5, "start": MINILM_L6}},
    "authors": {
        "PairsConfig": {"rule": "authors"},
        "TrainGeneratorConfig": _AUTHORS_GENERATOR,
        "TrainRerankerConfig": _AUTHORS_RERANKER,
        "RunConfig": {"backbone": FLAN_T5, "start": MINILM_L6, "reranker": _AUTHORS_RERANKER},
    },
    "small": {
        "TrainGeneratorConfig": {"steps": 200, "backbone": SMOLLM2, "learning_rate": 3e-3},
        "TrainRerankerConfig": {"epochs": 1, "max_length": 192, "start": MINILM_L12},
        "RunConfig": {
            "max_documents": 64,
            "max_queries": 20,
            "grid_documents": 3,
            "generate": {"document_tokens": 128, "max_new_tokens": 24, "shard_rows": 16},
            "reranker": {"epochs": 1, "max_length": 192, "held_out_share": 0.15},
            "retrieve": {"top_k": 20},
            "rank": {"max_length": 256},
        },
    },
}


SAMPLE_PRESET = "small"
"""What `readqg run` takes where no corpus is given."""


def preset(name: str, cls: type[Settings]) -> dict[str, Any]:
    """The values that a preset has for a config class, or for one that it extends."""
    held = PRESETS[name]
    return next((held[base.__name__] for base in cls.__mro__ if base.__name__ in held), {})
