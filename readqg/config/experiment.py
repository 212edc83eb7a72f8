"""A matrix of collections, recipes and seeds: what an experiment's YAML file holds."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from readqg.config.base import Location, OptionalLocation, Settings, placement
from readqg.config.machine import MINILM_ENCODER

_NAME = r"^[A-Za-z0-9][A-Za-z0-9+._-]*$"
BM25_ROW, START_ROW, FUSED = "bm25", "start", "+bm25"
"""Rows of a table that are no recipe, and what marks a row with BM25's score added."""


class Collection(Settings):
    """A corpus with judged queries."""

    source: Location = "sample"
    """A BEIR folder; `sample`: the one that comes with the package."""
    split: str = "test"
    """Which `qrels/SPLIT.tsv`."""
    half: Literal["scan", "report"] | None = None
    """One half of its judged queries, drawn by a stable hash: choices are made on `scan`, and `report` alone is reported."""
    drop_zero: bool = False
    """Take a query's documents that are graded 0 out of its rankings before they are measured: where these are not what assessors found
    to be off the subject but, as in Cranfield, the one document a query that the query was very probably written from."""
    run: dict[str, Any] = Field(default_factory=dict)
    """Fields of `readqg run` for this collection."""


class MiningSettings(Settings):
    """The baseline of sentence-transformers: `mine_hard_negatives` for every positive query, then `CrossEncoderTrainer` with
    `BinaryCrossEntropyLoss`. Defaults are those of its own example for re-rankers."""

    encoder: Location = MINILM_ENCODER
    """Bi-encoder that finds the negatives in the corpus."""
    pooling: Literal["mean", "cls"] = "mean"
    """Of the bi-encoder's states: their mean, or the first one."""
    negatives: int = Field(5, ge=1)
    """Of a query."""
    range_min: int = Field(0, ge=0)
    """See `range_max`."""
    range_max: int = Field(100, ge=1)
    """Places, from 0, between which negatives are taken."""
    relative_margin: float | None = Field(0.0, ge=0, lt=1)
    """A negative's similarity is so much lower, as a share, than its positive's, at least. None: it may be higher."""
    sampling: Literal["top", "random"] = "top"
    """Which of them: the most similar, or drawn."""
    bm25_as_text: bool = False
    """BM25's score as a whole number between query and document, in training and in ranking (Askari et al., ECIR 2023)."""
    epochs: float = Field(1.0, gt=0)
    """Passes over the triplets."""
    batch: int = Field(64, ge=1)
    """Pairs of a step."""
    learning_rate: float = Field(2e-5, gt=0)
    """Adam's, at its peak."""
    warmup_share: float = Field(0.1, ge=0, lt=1)
    """Of the steps, during which it rises; then it falls linearly to 0."""

    @model_validator(mode="after")
    def _range_holds_them(self) -> MiningSettings:
        if self.range_max - self.range_min < self.negatives:
            raise ValueError(f"between places {self.range_min} and {self.range_max} there are no {self.negatives} negatives: raise "
                             "range_max")
        return self


class BiEncoderSettings(Settings):
    """A bi-encoder that searches the corpus itself, trained on the positive queries with sentence-transformers."""

    encoder: Location = MINILM_ENCODER
    """The one to train."""
    pooling: Literal["mean", "cls"] = "mean"
    """Of the bi-encoder's states: their mean, or the first one."""
    loss: Literal["in_batch", "margin_mse"] = "in_batch"
    """`in_batch`: `MultipleNegativesRankingLoss`, the negatives being a batch's other documents. `margin_mse`: as in GPL (Wang et al.,
    2022), by how much the start scores a query's own document above another; cosines count twentyfold."""
    range_max: int = Field(50, ge=1)
    """`margin_mse`: the other document is drawn from the first so many that the encoder finds before it is trained."""
    epochs: float = Field(1.0, ge=0)
    """Passes over the queries; 0: the encoder as it is."""
    batch: int = Field(32, ge=2)
    """Queries of a step."""
    learning_rate: float = Field(2e-5, gt=0)
    """Adam's, at its peak."""
    warmup_share: float = Field(0.1, ge=0, lt=1)
    """Of the steps, during which it rises; then it falls linearly to 0."""


class GuardSettings(Settings):
    """How the guard is measured: by few-shot queries for documents that were not trained on, nor are nearly one that was."""

    documents: int = Field(150, ge=2)
    """Documents, a query each."""
    examples: int = Field(3, ge=1)
    """Worked examples of the few-shot prompt."""
    temperature: float = Field(0.7, gt=0)
    """Of its queries."""
    candidates: int = Field(20, ge=2)
    """BM25's first so many are re-ranked for each."""
    near: float = Field(0.9, gt=0, le=1)
    """The highest cosine to a document that was trained on."""
    encoder: Location = MINILM_ENCODER
    """Bi-encoder that says so."""
    pooling: Literal["mean", "cls"] = "mean"
    """Of the bi-encoder's states: their mean, or the first one."""
    max_length: int = Field(256, ge=8)
    """Tokens of a document there."""


class Recipe(Settings):
    """A way of adapting the start."""

    note: str = ""
    """A line for the tables."""
    train: bool = True
    """False: the start as it is."""
    trainer: Literal["readqg", "sentence_transformers", "bi_encoder"] = "readqg"
    """What trains on the positive queries: ours, or, as a baseline, sentence-transformers' as `mining` says; or a bi-encoder is trained,
    as `bi_encoder` says, and what it finds is the recipe's ranking."""
    mining: MiningSettings = MiningSettings()
    bi_encoder: BiEncoderSettings = BiEncoderSettings()
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
    published_quality: dict[Literal["diversity", "rel_plus", "rel_minus", "delta"], float] = Field(default_factory=dict)
    """What it prints of the generated queries, likewise."""
    seeds: int | None = Field(None, ge=1)
    """So many of the matrix's seeds, the first ones; None: all."""

    @property
    def has_a_guard(self) -> bool:
        """Whether it can be measured: few-shot queries are no others to a recipe that was trained on some."""
        return self.train and self.trainer != "bi_encoder" and self.few_shot is None


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
    guard: GuardSettings | None = None
    """With it the guard is measured; its few-shot examples are of `pairs`."""
    run: dict[str, Any] = Field(default_factory=dict)
    """Fields of `readqg run` for all."""
    contrasts: tuple[tuple[str, str], ...] = ()
    """Pairs of rows whose difference gets a table of its own, the first less the second: names of recipes, `start` or `bm25`; `+bm25`
    at the end of one: with BM25's score added."""

    @model_validator(mode="after")
    def _contrasts_are_of_rows(self) -> Matrix:
        rows = {BM25_ROW, *(f"{name}{end}" for name in (START_ROW, *self.recipes) for end in ("", FUSED))}
        odd = [name for pair in self.contrasts for name in pair if name not in rows]
        if odd:
            raise ValueError(f"contrasts name {', '.join(map(repr, odd))}: a row is a recipe, start or bm25, and may end in {FUSED}")
        return self

    @model_validator(mode="after")
    def _averages_what_ranks(self) -> Matrix:
        odd = [name for name, recipe in self.recipes.items() if recipe.trainer == "bi_encoder" and recipe.average is not None]
        if odd:
            raise ValueError(f"recipes {', '.join(odd)}: average is of the start and a tuned re-ranker; a bi-encoder is none")
        odd = [name for name, recipe in self.recipes.items() if recipe.mining.bm25_as_text and recipe.average is not None]
        if odd:
            raise ValueError(f"recipes {', '.join(odd)}: the start takes no BM25 score as text, so an average of both is no model: leave "
                             "average or bm25_as_text out")
        return self

    @model_validator(mode="after")
    def _has_pairs(self) -> Matrix:
        asking = [name for name, recipe in self.recipes.items() if recipe.generator is not None or recipe.few_shot is not None]
        if asking and self.pairs is None:
            raise ValueError(f"recipes {', '.join(asking)} make prompts of their own: give `pairs`, the output of `readqg pairs`")
        if self.guard is not None and self.pairs is None:
            raise ValueError("guard writes few-shot queries: give `pairs`, the output of `readqg pairs`, for their examples")
        return self

    @field_validator("collections", "recipes")
    @classmethod
    def _names_are_names(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        odd = [name for name in value if not re.match(_NAME, name)]
        if odd:
            raise ValueError(f"names are file names too: letters, digits, + . _ -; found {', '.join(map(repr, odd))}")
        taken = [name for name in value if name in (BM25_ROW, START_ROW) or name.endswith(FUSED)]
        if taken and info.field_name == "recipes":
            raise ValueError(f"{', '.join(taken)}: {BM25_ROW} and {START_ROW} are rows of every table, and {FUSED} marks a row with BM25's "
                             "score added; give the recipe another name")
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
    ray_address: str | None = placement(None)
    """Of a running cluster, as of `compute`; none: a local Ray, and in a job of Ray's the cluster that it runs on."""
