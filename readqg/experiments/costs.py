"""What adapting a model takes: seconds as they were, operations as they are counted."""

from __future__ import annotations

from typing import Any, NamedTuple

from readqg.config import RunConfig
from readqg.places import Place
from readqg.planning.calibrate import calibrate
from readqg.planning.work import training, work_of

_COMMON = ("import", "retrieve", "rank", "quality", "guard")
"""Stages that the start needs too, or that measure."""


class Cost(NamedTuple):
    """Of one cell. What it shares with others is counted in each."""

    seconds: float
    """Of all that the start does without: making prompts, writing, filtering, training."""
    parameters: int | None
    """Weights of the re-ranker, all of them trained and used."""
    flops: float | None
    """Of writing, judging by the ratio or the start, and training, as `operations` has them; None where they are not counted."""

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Cost:
        """From what a finished cell says of itself."""
        spent = sum(seconds for stage, seconds in facts["seconds"].items() if stage not in _COMMON)
        counted = facts["operations"] or {}
        return cls(spent, counted.get("parameters"), counted.get("flops"))


def operations(config: RunConfig, corpus: Place, steps: int) -> dict[str, float]:
    """`parameters` and `flops` of a `Cost`: estimated by the formula of `Work.flops` from the lengths of a sample of `corpus`, an imported
    folder, queries of 16 tokens, and the `steps` that the re-ranker was trained for."""
    sizes = calibrate(config, str(corpus), measure=False)
    work = [work for work in work_of(sizes.corpus, config, sizes.scorer_bytes) if work.stage in ("generate", "ratio", "score-queries")]
    work.append(training(sizes.corpus, config, sizes.scorer_bytes, steps * config.train.accumulation))
    return {"parameters": sizes.scorer_bytes // 4,
            "flops": sum(stage.flops(sizes.generator_parameters, sizes.scorer_parameters) for stage in work)}
