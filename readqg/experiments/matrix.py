"""From an experiment's YAML file to its cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from readqg import config as c
from readqg import sample
from readqg.config import (
    BiEncoderSettings,
    Collection,
    FewShotConfig,
    GenerateSettings,
    GuardSettings,
    Matrix,
    MiningSettings,
    QualitySettings,
    Recipe,
    RunConfig,
    TrainGeneratorConfig,
    identity,
    make,
    merge,
    with_later_fields,
)
from readqg.errors import ConfigError
from readqg.generator.facts import read_facts
from readqg.places import place_of
from readqg.shards import fingerprint, sha256_file
from readqg.steps import prompts_of

_FORMAT = 3
"""Of a cell's files."""
_OWN = ("corpus", "out", "split", "until_no_gain")
"""Fields of a run that the experiment sets itself."""


@dataclass(frozen=True)
class Cell:
    """A recipe on a collection with a seed."""

    collection: str
    recipe: str
    seed: int
    settings: Recipe
    source: Collection
    config: RunConfig
    prompts: TrainGeneratorConfig | FewShotConfig | None
    """How the recipe's own prompts are made; None: those that `config` names."""
    grid: GenerateSettings | None
    """Queries that the generator is measured by."""
    grid_documents: int
    quality: QualitySettings
    guard: GuardSettings | None = None
    pairs: str | None = None
    """The matrix's, for the few-shot queries that the guard is measured by."""

    @property
    def name(self) -> str:
        return f"{self.collection}/{self.recipe}/{self.seed}"

    @property
    def identity(self) -> dict[str, Any]:
        """What the cell's figures depend on, but for the content of files that it names."""
        return {
            "format": _FORMAT, "run": identity(self.config), **self._places,
            "prompts": (_from_here(self.config.prompts) or package_prompts()) if self.uses_prompts and self.prompts is None else None,
            "backbone": _from_here(self.config.backbone), "start": _from_here(self.config.start),
            "source": _from_here(self.source.source), "split": self.source.split, "half": self.source.half,
            "drop_zero": self.source.drop_zero,
            "train": self.settings.train, "average": self.settings.average,
            **{name: {**settings.model_dump(), "encoder": _from_here(settings.encoder)} for name, settings in self._baseline.items()},
            "own_prompts": None if self.prompts is None else identity(self.prompts),
            "grid": None if self.grid is None else [identity(self.grid), self.grid_documents, identity(self.quality)],
            **({} if self.guard is None else {"guard": identity(self.guard)}),
        }

    def is_what(self, made: dict[str, Any]) -> bool:
        """Whether this identity of a cell that was made, now or by an earlier version, is this one's. Fields that have come since must
        have their defaults, so a default may change nothing; one that does raises the format's number."""
        models: dict[str, BaseModel | None] = {"run": self.config, "own_prompts": self.prompts, "guard": self.guard, **self._baseline}
        filled: dict[str, Any] = {
            name: with_later_fields(made[name], model) for name, model in models.items() if model is not None and made.get(name)}
        if self.grid is not None and made["grid"]:
            grid, documents, quality = made["grid"]
            filled["grid"] = [with_later_fields(grid, self.grid), documents, with_later_fields(quality, self.quality)]
        places = {name: _from_here(place) for name, place in made.items() if isinstance(place, str)}
        return fingerprint({**made, **places, **filled}) == fingerprint(self.identity)

    @property
    def _baseline(self) -> dict[str, MiningSettings | BiEncoderSettings]:
        """Where another trainer than ours trains: its settings, by their name."""
        settings = self.settings
        match settings.trainer:
            case "sentence_transformers":
                return {"mining": settings.mining}
            case "bi_encoder":
                return {"bi_encoder": settings.bi_encoder}
        return {}

    @property
    def writes(self) -> bool:
        """Whether queries are written."""
        return (self.settings.train and self.config.queries is None) or self.grid is not None

    @property
    def uses_prompts(self) -> bool:
        """Whether queries are written, or those from elsewhere judged by how probable they are."""
        return self.writes or (self.settings.train and self.config.reranker.needs_ratio)

    @property
    def backbones(self) -> list[str]:
        """Of the prompts that it uses, and of the few-shot ones that the guard is measured by."""
        named = self.config.backbone
        own = self.prompts.backbone if self.prompts is not None else None
        used = [named or own or read_facts(prompts_of(self.config)).base_model] if self.uses_prompts else []
        return [*used, *([named or c.SMOLLM2] if self.guard is not None else [])]

    @property
    def files(self) -> list[str]:
        """Files and folders beside the collection that the cell reads, but for `queries_like`, which may be no file."""
        named = [place for name, place in self._named_files.items() if name != "queries_like"]
        return [place for place in (*named, self.config.prompts) if place]

    @property
    def models(self) -> list[str]:
        """Names and folders of the models that the cell loads."""
        encoders = [settings.encoder for settings in self._baseline.values()]
        return [name for name in (self.config.start, *self.backbones, *encoders, *self._named_models.values()) if name != "none"]

    @property
    def prompts_made_of(self) -> dict[str, str]:
        """Files, folders and models that the recipe's own prompts are made of."""
        made_of = {name: getattr(self.prompts, name, None) for name in ("backbone", "pairs", "initial")}
        return {name: place for name, place in made_of.items() if place}

    @property
    def _places(self) -> dict[str, str | None]:
        """Files, folders and models that a recipe or the matrix names and others do without."""
        return {name: _from_here(place) for name, place in {**self._named_files, **self._named_models}.items() if place}

    @property
    def _named_files(self) -> dict[str, str | None]:
        run = self.config
        named = {"replay": run.reranker.replay, "queries_like": run.queries_like, "queries": run.queries}
        named |= {name: place for name, place in self.prompts_made_of.items() if name != "backbone"}
        return named if self.guard is None else {**named, "guard_pairs": self.pairs}

    @property
    def _named_models(self) -> dict[str, str]:
        run, named = self.config, {}
        if run.sampling == "coverage":
            named["encoder"] = run.coverage.encoder
        if run.candidates == "both":
            named["dense"] = run.dense.encoder
        if self.guard is not None:
            named["guard_encoder"] = self.guard.encoder
        if self.grid is not None:
            named |= {"judge": self.quality.judge, "judging_encoder": self.quality.encoder}
        return named


def _from_here(place: str | None) -> str | None:
    """A place as it is named from the working folder, so that what was made in one folder is known in another."""
    if place is None or not Path(place).is_relative_to(Path.cwd()):
        return place
    return Path(place).relative_to(Path.cwd()).as_posix()


def package_prompts() -> str:
    """The prompts that come with the package: what they are, for another version may hold others."""
    folder = Path(sample.prompts_folder())
    return f"of the package, {fingerprint([sha256_file(folder / name) for name in ('prompts.json', 'prompts.safetensors')])[:12]}"


def read_matrix(path: str) -> Matrix:
    """Raises `ConfigError` for a file that cannot be read, a field that is unknown or at fault, in any cell."""
    place = place_of(path)
    try:
        values = yaml.safe_load(place.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected title, collections and recipes, found {type(values).__name__}.")
    matrix = make(Matrix, values)
    list(cells_of(matrix))
    return matrix


def cells_of(matrix: Matrix) -> Iterator[Cell]:
    """All cells, in the order of value. Raises `ConfigError` naming the cell whose settings are at fault."""
    for number, seed in enumerate(matrix.seeds):
        for collection, source in matrix.collections.items():
            for recipe, settings in matrix.recipes.items():
                if settings.seeds is not None and number >= settings.seeds:
                    continue
                config = _config(matrix, collection, recipe, seed)
                grid = c.make(c.GenerateSettings, config.generate.model_dump(), {"relevances": c.GRID}) if matrix.grid_documents else None
                yield Cell(
                    collection, recipe, seed, settings, source, config, _prompts(matrix, recipe, config, seed), grid, matrix.grid_documents,
                    c.make(c.QualitySettings, matrix.quality), matrix.guard if settings.has_a_guard else None, matrix.pairs)


def _prompts(matrix: Matrix, recipe: str, config: RunConfig, seed: int) -> TrainGeneratorConfig | FewShotConfig | None:
    settings = matrix.recipes[recipe]
    own = settings.generator if settings.generator is not None else settings.few_shot
    if own is None:
        return None
    cls: type[TrainGeneratorConfig] | type[FewShotConfig] = TrainGeneratorConfig if settings.generator is not None else FewShotConfig
    places: dict[str, Any] = {"pairs": matrix.pairs, "out": "", "backbone": config.backbone or c.SMOLLM2}
    if "compute" in cls.model_fields:
        places["compute"] = config.compute.model_dump()
    try:
        return c.make(cls, own, places, {"seed": seed} if "generator" in matrix.varies else {})
    except ConfigError as error:
        raise ConfigError(f"{recipe}: {error}") from None


def _config(matrix: Matrix, collection: str, recipe: str, seed: int) -> RunConfig:
    config, settings = _merged(matrix, collection, recipe, seed), matrix.recipes[recipe]
    if config.fusion.weight == "learned" and (
            not settings.train or settings.average is not None or settings.trainer == "bi_encoder"):
        raise ConfigError(f"{collection}/{recipe}: fusion.weight is learned in training, beside the tuned weights; a recipe that does not "
                          "train, averages weights, or trains a bi-encoder has none. Give it a number there.")
    if settings.trainer == "sentence_transformers" and settings.mining.bm25_as_text:
        usual, own = c.RetrieveSettings(), config.retrieve
        other = [name for name in ("fields", "k1", "b") if getattr(own, name) != getattr(usual, name)]
        other += ["candidates"] * (config.candidates != "bm25") + ["rank.passages"] * (config.rank.passages != "first")
        if other:
            raise ConfigError(f"{collection}/{recipe}: bm25_as_text trains on BM25's usual scores of whole documents, which ranking has to "
                              f"have too: leave {', '.join(other)} at the default.")
    return config


def _merged(matrix: Matrix, collection: str, recipe: str, seed: int) -> RunConfig:
    source = matrix.collections[collection]
    layers = [matrix.run, source.run, matrix.recipes[recipe].run]
    taken = [name for name in _OWN if any(name in layer for layer in layers)]
    if taken:
        raise ConfigError(f"{collection}/{recipe}: {', '.join(taken)} cannot be set under `run`: the experiment sets them itself.")
    seeded: dict[str, Any] = {"split": source.split}
    if "queries" in matrix.varies:
        seeded["generate"] = {"seed": seed}
    if "training" in matrix.varies:
        seeded["reranker"] = {"seed": seed}
    if source.source != "sample":
        seeded["corpus"] = source.source
    settings = matrix.recipes[recipe]
    try:
        config = make(RunConfig, merge(*layers, seeded))
        if config.queries is not None and (settings.generator is not None or settings.few_shot is not None):
            raise ConfigError("queries are those of a file: leave generator and few_shot out")
        if settings.train and settings.trainer == "readqg" and config.queries is None:
            config.reranker.check_asked(config.generate.relevances)
        return config
    except ConfigError as error:
        raise ConfigError(f"{collection}/{recipe}: {error}") from None
