"""A matrix of collections, recipes and seeds: what an experiment's YAML file holds."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from readqg.config.base import Location, OptionalLocation, Settings

_NAME = r"^[A-Za-z0-9][A-Za-z0-9+._-]*$"


class Collection(Settings):
    """A corpus with judged queries."""

    source: Location = "sample"
    """A BEIR folder; `sample`: the one that comes with the package."""
    split: str = "test"
    """Which `qrels/SPLIT.tsv`."""
    half: Literal["scan", "report"] | None = None
    """One half of its judged queries, drawn by a stable hash: choices are made on `scan`, and `report` alone is reported."""
    run: dict[str, Any] = Field(default_factory=dict)
    """Fields of `readqg run` for this collection."""


class Recipe(Settings):
    """A way of adapting the start."""

    note: str = ""
    """A line for the tables."""
    train: bool = True
    """False: the start as it is."""
    average: float | None = Field(None, ge=0, le=1)
    """Weights of the ranking model: so much of the tuned one's, the rest of the start's (WiSE-FT). None: the tuned one."""
    generator: dict[str, Any] | None = None
    """Fields of `readqg train-generator`: prompts are trained for this recipe, on the matrix's `pairs`. None: those of `run`."""
    few_shot: dict[str, Any] | None = None
    """Fields of `readqg few-shot`: prompts are made of examples from the matrix's `pairs`."""
    run: dict[str, Any] = Field(default_factory=dict)
    """Fields of `readqg run` for this recipe; they win over the collection's."""
    published: dict[str, float] = Field(default_factory=dict)
    """nDCG@10 x 100 that the paper prints, by collection, to stand beside ours."""


class Matrix(Settings):
    """What is done: every recipe on every collection with every seed, in the order of value: first all of the first seed, in it the
    collections as they are listed, in these the recipes."""

    title: str
    """Of the tables."""
    note: str = ""
    """What was cut, and why."""
    collections: dict[str, Collection] = Field(min_length=1)
    """By name."""
    recipes: dict[str, Recipe] = Field(min_length=1)
    """By name."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """One cell a collection, recipe and seed."""
    varies: tuple[Literal["generator", "queries", "training"], ...] = ("queries", "training")
    """What a seed draws anew: the training of prompts (or their examples), the sampling of queries, the order in which the re-ranker
    is trained."""
    pairs: OptionalLocation = None
    """Document-centric pairs, for recipes with a generator or few-shot examples of their own."""
    grid_documents: int = Field(0, ge=0)
    """Documents of a collection that every recipe's generator also writes the whole grid r = 0, 0.1 ... 1 for, to measure it; 0: none."""
    quality: dict[str, Any] = Field(default_factory=dict)
    """Fields of `readqg quality`, for the grid."""
    run: dict[str, Any] = Field(default_factory=dict)
    """Fields of `readqg run` for all."""

    @model_validator(mode="after")
    def _has_pairs(self) -> Matrix:
        asking = [name for name, recipe in self.recipes.items() if recipe.generator is not None or recipe.few_shot is not None]
        if asking and self.pairs is None:
            raise ValueError(f"recipes {', '.join(asking)} make prompts of their own: give `pairs`, the output of `readqg pairs`")
        return self

    @field_validator("collections", "recipes")
    @classmethod
    def _names_are_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        odd = [name for name in value if not re.match(_NAME, name)]
        if odd:
            raise ValueError(f"names are file names too: letters, digits, + . _ -; found {', '.join(map(repr, odd))}")
        return value


class ExperimentConfig(Settings):
    file: Location
    """YAML: title, collections, recipes, seeds, run."""
    out: Location
    """The folder to make: cells, tables, results."""
    cells: int | None = Field(None, ge=1)
    """Stop after so many cells; the same command goes on."""
    tables_only: bool = False
    """Make the tables of what is there, and run nothing."""
