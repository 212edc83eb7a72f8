"""Where searches look, and how they run."""

from __future__ import annotations

from pydantic import Field

from readqg.config.base import Location, OptionalLocation, Settings, placement
from readqg.config.machine import FLAN_T5, MINILM_L6, MINILM_L12, Compute
from readqg.config.stages import GenerateSettings
from readqg.config.training import GeneratorSettings, RerankerSettings

FloatRange = tuple[float, float]
IntRange = tuple[int, int]


class GeneratorSpace(Settings):
    """Where a search over the generator looks: the lowest and the highest value; two that are equal fix it. Where the lowest is above 0
    and the highest at least four times it, equal ratios are equally likely."""

    n_relevance: IntRange = (1, 10)
    """Embeddings of the relevance prompt."""
    learning_rate: FloatRange = (3e-4, 3e-2)
    """Of the optimizer."""
    margin: FloatRange = (0.1, 10.0)
    """Of Eq. 4, nats."""
    temperature: FloatRange = (0.05, 1.0)
    """Of Eq. 3."""
    w_sc: FloatRange = (0.01, 1.0)
    """Weight of Eq. 3."""
    w_cal: FloatRange = (0.01, 1.0)
    """Weight of Eq. 4."""


class RerankerSpace(Settings):
    """Where a search over the re-ranker looks."""

    learning_rate: FloatRange = (2e-6, 1e-4)
    """Of the optimizer."""
    margin: FloatRange = (0.0, 2.0)
    """Of Eq. 6."""
    w_mr: FloatRange = (0.01, 2.0)
    """Weight of Eq. 6."""


class PipelineSpace(RerankerSpace):
    """Where a search over both looks: how queries are sampled, and how the re-ranker learns from them."""

    sampling_temperature: FloatRange = (0.5, 1.3)
    """Of `generate`."""
    top_k: IntRange = (2, 50)
    """Of `generate`."""


class TuneSettings(Settings):
    """How a search runs: Optuna proposes, ASHA ends early what lags behind."""

    trials: int = placement(20, ge=1)
    """Trials that are to be finished, ended early or failed."""
    hours: float | None = placement(None, gt=0)
    """Hours of search after which no more trials are run; those under way are given up."""
    rungs: int = Field(9, ge=1)
    """How often a trial is judged, at equal distances in its steps; with `reduction` 3, ASHA looks at rungs 1, 3 and 9."""
    reduction: int = Field(3, ge=2)
    """Of trials that reach a rung of ASHA, one in so many goes on."""
    gpus_per_trial: float = placement(1.0, gt=0)
    """Where there are GPUs; below 1, trials share one. `compute.workers` trials run at a time."""
    search_seed: int = 0
    """Of what Optuna proposes."""
    compute: Compute = Compute()


class TuneGeneratorConfig(TuneSettings):
    """The objective is control: on held-out labelled passages, how S(q | d, 1) - S(q | d, 0) of real queries goes with the
    teacher's score (Spearman within a passage, a mean over passages)."""

    pairs: Location
    """The output of `pairs`."""
    out: Location
    """The folder to make: trials, `_best.yaml`, `_table.html`."""
    backbone: Location = FLAN_T5
    """The frozen language model."""
    generator: GeneratorSettings = GeneratorSettings()
    """What is not searched."""
    weight_decay: float = Field(0.0, ge=0)
    """AdamW's."""
    gradient_clip: float = Field(0.0, ge=0)
    """Norm; 0: none."""
    space: GeneratorSpace = GeneratorSpace()
    min_distinct: float = Field(0.5, ge=0, le=1)
    """Share of distinct queries among those written greedily for different passages, at r = 1 and at r = 0, whichever is lower.
    A trial below it ranks behind every trial above it."""
    probe_documents: int = Field(16, ge=1)
    """Held-out passages that queries are written for, to count the distinct ones."""
    probe_new_tokens: int = Field(24, ge=1)
    """Tokens of such a query at most."""


class TuneRerankerConfig(TuneSettings):
    """The objective is nDCG@10 of held-out synthetic documents for their own queries, which all trials share."""

    queries: Location
    """Generated queries, at r = 1 and at the negatives' r."""
    documents: Location
    """What they were generated from, whole."""
    out: Location
    """The folder to make: trials, `_best.yaml`, `_table.html`."""
    start: Location = MINILM_L6
    """The cross-encoder to adapt."""
    reranker: RerankerSettings = RerankerSettings()
    """What is not searched."""
    space: RerankerSpace = RerankerSpace()


class TunePipelineConfig(TuneSettings):
    """Every trial writes its own queries and trains on them; the objective is that of the re-ranker, on queries for held-out
    documents that were written once, for all trials."""

    documents: Location
    """What queries are written for, and searched."""
    out: Location
    """The folder to make: trials, `_best.yaml`, `_table.html`."""
    prompts: OptionalLocation = None
    """A prompts folder; none: the ones that come with the package."""
    backbone: OptionalLocation = None
    """None: the one named in the prompts folder."""
    start: Location = MINILM_L12
    """The cross-encoder to adapt."""
    max_documents: int | None = Field(None, ge=2)
    """A subset drawn by a stable hash of the document id."""
    generate: GenerateSettings = GenerateSettings()
    """What is not searched."""
    reranker: RerankerSettings = RerankerSettings()
    """What is not searched."""
    space: PipelineSpace = PipelineSpace()
