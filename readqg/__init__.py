"""ReadQG: from a corpus without labelled queries to a re-ranker fine-tuned for it.

Every stage is a function of its config: `readqg.generate(readqg.config.GenerateConfig(...))`; `readqg.api` has them all.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The functions of `readqg.api`, loaded when first asked for."""
    if name == "RelevanceAwareLoss":
        return import_module("readqg.reranker.trainer_loss").RelevanceAwareLoss
    api = None if name.startswith("_") or name == "api" else import_module("readqg.api")
    if not hasattr(api, name):
        raise AttributeError(f"module 'readqg' has no attribute {name!r}")
    return getattr(api, name)
