"""The stages of a whole run as functions of one `RunConfig`: which settings go to which stage. Where the folders lie is the caller's.

`readqg run` lays them out for one corpus; an experiment shares them among many runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from readqg import api, sample
from readqg import config as c
from readqg.errors import ConfigError
from readqg.fusion import learned_weight
from readqg.generator.facts import knows_relevance
from readqg.places import Place

_C = TypeVar("_C", bound=c.Settings)


def prompts_of(config: c.RunConfig) -> str:
    """The prompts to write queries with; the package's own fit its default backbone only. Raises `ConfigError` where there are none."""
    if config.prompts is not None:
        return config.prompts
    if config.backbone not in (None, c.SMOLLM2):
        raise ConfigError(
            f"There are no prompts for {config.backbone} yet. Train them once, from MS MARCO scores, and give them with --prompts:\n"
            "  readqg pairs --scores SCORES --queries QUERIES --documents PASSAGES --out pairs\n"
            f"  readqg train-generator --pairs pairs --backbone {config.backbone} --out prompts"
        )
    return str(sample.prompts_folder())


class Pass(NamedTuple):
    """Queries in, the same folder with more or fewer of them, or more columns, out."""

    name: str
    made_of: tuple[Any, ...]
    """What its outcome hangs on beside the queries, what wrote them, and the corpus."""
    step: Callable[[Place, Place], Any]


@dataclass(frozen=True)
class Steps:
    """The stages for one corpus. `corpus`: the folder that `import_corpus` fills. Each stage goes on where it stopped, and returns what
    the function of its name in `api` does."""

    config: c.RunConfig
    corpus: Place

    @property
    def documents(self) -> str:
        return str(self.corpus / "documents")

    @property
    def queries(self) -> str:
        """The corpus's own, where it has some."""
        return str(self.corpus / "queries")

    @property
    def judgments(self) -> str | None:
        path = self.corpus / "judgments"
        return str(path) if path.is_dir() else None

    def import_corpus(self) -> dict[str, Any]:
        source = self.config.corpus or str(sample.corpus_folder())
        places = {"source": source, "out": str(self.corpus), "split": self.config.split}
        return api.import_corpus(c.make(c.ImportConfig, self.config.documents.model_dump(), places))

    def retrieve(self, out: Place, judgments: str | None) -> dict[str, Any]:
        """BM25 for `max_queries` of the corpus's queries, of those in `judgments` where given."""
        places = {
            "documents": self.documents, "queries": self.queries, "out": str(out), "max_queries": self.config.max_queries,
            "judgments": judgments,
        }
        return api.retrieve(c.make(c.RetrieveConfig, self.config.retrieve.model_dump(), places))

    def first_stage(self, bm25: Place, dense: Place, both: Place, judgments: str | None) -> Place:
        """The run of candidates: BM25's; or, in `both`, the best of it and of what a bi-encoder finds (`dense`)."""
        if self.config.candidates == "bm25":
            return bm25
        self.retrieve_dense(self.config.dense, dense, judgments)
        top_k = self.config.retrieve.top_k
        api.fuse(c.FuseConfig(run=str(dense), first=str(bm25), out=str(both), weight=1.0, documents="both", top_k=top_k))
        return both

    def retrieve_dense(self, settings: c.DenseSettings, out: Place, judgments: str | None) -> dict[str, Any]:
        """A bi-encoder for the queries that `retrieve` asks."""
        retrieve = self.config.retrieve
        places = {
            "queries": self.queries, "out": str(out), "max_queries": self.config.max_queries, "judgments": judgments,
            "top_k": retrieve.top_k, "drop_self": retrieve.drop_self,
        }
        return api.retrieve_dense(self._stage(c.DenseConfig, settings, places))

    def choose(self, out: Place) -> dict[str, Any]:
        """Documents spread over the corpus, where they are not drawn by a hash."""
        places = {"out": str(out), "max_documents": self.config.max_documents}
        return api.coverage(self._stage(c.CoverageConfig, self.config.coverage, places))

    def generate_config(self, out: Place, documents: Place | None = None) -> c.GenerateConfig:
        """`documents`: the chosen ones; None: those of the corpus."""
        places = {
            "documents": str(documents or self.documents), "out": str(out), "prompts": prompts_of(self.config),
            "backbone": self.config.backbone, "max_documents": self.config.max_documents,
        }
        return self._stage(c.GenerateConfig, self.config.generate, places)

    def generate(self, out: Place, documents: Place | None = None) -> dict[str, Any]:
        return api.generate(self.generate_config(out, documents))

    def import_queries(self, out: Place) -> dict[str, Any]:
        """Queries that were written elsewhere, instead of `generate`."""
        return api.import_queries(c.ImportQueriesConfig(source=self.config.queries or "", documents=self.documents, out=str(out)))

    def select(self, queries: Place, out: Place) -> dict[str, Any]:
        places = {"queries": str(queries), "like": self.config.queries_like or "", "out": str(out)}
        return api.select(c.SelectConfig(**places, seed=self.config.generate.seed))

    def round_trip(self, queries: Place, out: Place) -> dict[str, Any]:
        places = {"queries": str(queries), "documents": self.documents, "out": str(out)}
        return api.round_trip(c.make(c.RoundTripConfig, self.config.round_trip.model_dump(), places))

    def ratio(self, queries: Place, out: Place) -> dict[str, Any]:
        places = {"queries": str(queries), "out": str(out), "prompts": prompts_of(self.config), "backbone": self.config.backbone}
        return api.ratio(self._stage(c.RatioConfig, self.ratio_settings, places))

    def score_queries(self, queries: Place, out: Place) -> dict[str, Any]:
        places = {"queries": str(queries), "out": str(out), "model": self.config.start}
        return api.score_queries(self._stage(c.ScoreQueriesConfig, self.config.score_queries, places))

    @property
    def ratio_settings(self) -> c.RatioSettings:
        """With the tokens of `generate`, where others are not set: a query's ratio is taken under what its generator saw."""
        own, standard, generate = self.config.ratio, c.RatioSettings(), self.config.generate
        tokens = {"document_tokens": generate.document_tokens, "query_tokens": generate.max_new_tokens + 1}
        return own.model_copy(update={name: value for name, value in tokens.items() if getattr(own, name) == getattr(standard, name)})

    def passes(self) -> list[Pass]:
        """What generated queries go through before training, in order; only what the settings ask for."""
        like = (self.config.queries_like, self.config.generate.seed)
        # The prompts that wrote the queries are theirs; to queries from elsewhere they are a choice of their own.
        asks_prompts = self.config.queries is not None and self.config.reranker.needs_ratio
        judged_by = (prompts_of(self.config), self.config.backbone) if asks_prompts else ()
        every = [
            (self.config.queries_like is not None, Pass("select", like, self.select)),
            (self.config.reranker.needs_round_trip, Pass("round-trip", (self.config.round_trip,), self.round_trip)),
            (self.config.reranker.needs_ratio, Pass("ratio", (self.ratio_settings, *judged_by), self.ratio)),
            (self.config.reranker.needs_scores, Pass("score-queries", (self.config.score_queries, self.config.start), self.score_queries)),
        ]
        return [step for needed, step in every if needed]

    def write(self, out: Place) -> None:
        """OUT/queries, generated or imported, and OUT/chosen where documents are not drawn by a hash."""
        if self.config.queries is not None:
            self.import_queries(out / "queries")
            return
        chosen = out / "chosen" if self.config.sampling == "coverage" else None
        if chosen:
            self.choose(chosen)
        self.generate(out / "queries", chosen)

    def adapt(self, out: Place) -> None:
        """OUT/reranker from OUT/queries, and the folders of what these go through before."""
        queries = out / "queries"
        for name, _, step in self.passes():
            step(queries, out / name)
            queries = out / name
        self.train(queries, out / "reranker")

    def train_config(self, queries: Place, out: Place) -> c.TrainRerankerConfig:
        places = {"queries": str(queries), "out": str(out), "start": self.config.start, "train": self.config.train.model_dump()}
        return self._stage(c.TrainRerankerConfig, self.config.reranker, places)

    def train(self, queries: Place, out: Place) -> dict[str, Any]:
        return api.train_reranker(self.train_config(queries, out))

    @property
    def has_grid(self) -> bool:
        """Whether there are documents for `grid`, and prompts that write other queries for another r."""
        return self.config.grid_documents > 0 and self.config.queries is None and knows_relevance(prompts_of(self.config))

    def grid(self, out: Place, tuned: Place) -> None:
        """Queries at every r for a few documents, and the scores of start and tuned model: for the report alone."""
        generate = self.config.generate.model_copy(update={"relevances": c.GRID, "samples": 1})
        # One bad query in so few is more than the usual share, and the page shows it.
        compute = self.config.compute.model_copy(update={"max_error_share": 1.0})
        few = {"generate": generate, "max_documents": self.config.grid_documents, "sampling": "hash", "compute": compute}
        steps = Steps(self.config.model_copy(update=few), self.corpus)
        steps.generate(out / "queries")
        for name, model in (("start", self.config.start), ("tuned", str(tuned))):
            places = {"queries": str(out / "queries"), "out": str(out / name), "model": model, "max_length": self.config.rank.max_length}
            api.score_queries(steps._stage(c.ScoreQueriesConfig, self.config.score_queries, places))

    def rank(self, run: Place, model: str, out: Place, queries: str | None = None) -> dict[str, Any]:
        """`queries`: other ones than the corpus's own."""
        places = {"run": str(run), "queries": queries or self.queries, "out": str(out), "model": model}
        return api.rank(self._stage(c.RankConfig, self.config.rank, places))

    def fusion_weight(self, tuned: Place | None, of: Literal["start", "tuned"]) -> float:
        """The one that is set, or what was learned beside the tuned model or its start. Raises `InputError` where none was."""
        weight = self.config.fusion.weight
        return weight if isinstance(weight, float) else learned_weight(tuned or "", of)

    def fuse(self, run: Place, first: Place, out: Place, weight: float) -> dict[str, Any]:
        return api.fuse(c.FuseConfig(run=str(run), first=str(first), out=str(out), weight=weight))

    def quality(self, settings: c.QualitySettings, queries: Place, out: Place) -> dict[str, Any]:
        places = {"queries": str(queries), "out": str(out), "start": self.config.start}
        return api.quality(self._stage(c.QualityConfig, settings, places))

    def _stage(self, cls: type[_C], settings: c.Settings, places: dict[str, Any]) -> _C:
        """The config of a stage over the imported documents: its settings in the run's config, where it runs, and its places."""
        shared = {"compute": self.config.compute.model_dump(), "documents": self.documents}
        return c.make(cls, settings.model_dump(), shared, places)
