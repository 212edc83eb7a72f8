"""ReadQG: from a corpus without labelled queries to a re-ranker fine-tuned for it.

Every stage is a function of its config: `readqg.generate(readqg.config.GenerateConfig(...))`; `readqg.api` has them all.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `__getattr__` gives, for type checkers and editors
    from readqg.api import (
        clean,
        compare,
        coverage,
        doctor,
        evaluate,
        experiment,
        export,
        few_shot,
        fuse,
        generate,
        import_corpus,
        import_queries,
        inspect,
        label,
        pairs,
        plan,
        push,
        quality,
        rank,
        ratio,
        retrieve,
        retrieve_dense,
        round_trip,
        run,
        score_queries,
        search,
        select,
        submit,
        train_generator,
        train_reranker,
        tune_generator,
        tune_pipeline,
        tune_reranker,
        verify,
    )
    from readqg.reranker.trainer_loss import RelevanceAwareLoss

__version__ = "0.1.0"
__all__ = [
    "RelevanceAwareLoss", "clean", "compare", "coverage", "doctor", "evaluate", "experiment", "export", "few_shot", "fuse", "generate",
    "import_corpus", "import_queries", "inspect", "label", "pairs", "plan", "push", "quality", "rank", "ratio", "retrieve",
    "retrieve_dense", "round_trip", "run", "score_queries", "search", "select", "submit", "train_generator", "train_reranker",
    "tune_generator", "tune_pipeline", "tune_reranker", "verify",
]


def __getattr__(name: str) -> Any:
    """The functions of `readqg.api`, loaded when first asked for."""
    if name == "RelevanceAwareLoss":
        return import_module("readqg.reranker.trainer_loss").RelevanceAwareLoss
    api = None if name.startswith("_") or name == "api" else import_module("readqg.api")
    if not hasattr(api, name):
        raise AttributeError(f"module 'readqg' has no attribute {name!r}")
    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
