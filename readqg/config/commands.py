"""What is no stage of its own: the whole way, its size beforehand, and what looks after folders, machine and jobs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from readqg.config.base import Location, OptionalLocation, Settings, placement
from readqg.config.exchange import ImportSettings
from readqg.config.machine import MINILM_L12, Compute
from readqg.config.stages import (
    CoverageSettings,
    DenseSettings,
    FusionSettings,
    GenerateSettings,
    LabelConfig,
    QualitySettings,
    RankSettings,
    RatioSettings,
    RetrieveSettings,
    RoundTripSettings,
    ScoreQueriesSettings,
)
from readqg.config.training import FEWEST_DOCUMENTS, RerankerSettings, RerankerTrainSettings


class VerifyConfig(Settings):
    folder: Location
    """A stage's output folder, or the folder of a whole run."""


class InspectConfig(Settings):
    """Which of all these queries are bad? The least likely come first, or by `sort` those that other signs speak against. Of a documents
    folder: its documents, the shortest first."""

    queries: Location
    """A queries folder, such as OUT/queries, or what `round-trip`, `ratio` or `score-queries` made of one; or a documents folder (of the
    other fields `grep` and `limit` are for both)."""
    documents: OptionalLocation = None
    """The documents folder of the queries: adds the beginning of each query's document."""
    quality: OptionalLocation = None
    """The output of `readqg quality` for these queries: adds the judge's probability, a document's mean at r = 1 and at r = 0."""
    relevance: float | None = Field(None, ge=0, le=1)
    """Only queries that were asked at this r."""
    min_likelihood: float | None = None
    """Only queries of at least this log-likelihood a token, nats."""
    max_likelihood: float | None = None
    """Only queries of at most this log-likelihood a token, nats."""
    duplicates: bool = False
    """Only queries that occur more than once, case and spaces aside; the most frequent come first."""
    errors: bool = False
    """Only rows with an error."""
    grep: str | None = None
    """Only queries, or documents, in which this regular expression is found, case aside."""
    sort: Literal["likelihood", "score", "times", "rank", "ratio", "start_score"] = "likelihood"
    """What comes first: the least likely; the worst judged for their r (needs `quality`); the most frequent; or, of a folder that has
    these, what is worst for its r by the place at which it finds its document, by the likelihood ratio, or by the start's score."""
    limit: int = Field(20, ge=0)
    """Queries, or documents, shown; 0: all."""

    @model_validator(mode="after")
    def _score_is_there(self) -> InspectConfig:
        if self.sort == "score" and self.quality is None:
            raise ValueError("sort score needs quality: give the output of `readqg quality` for these queries")
        return self


class SearchConfig(Settings):
    """A search of your own: BM25's candidates, re-ranked by the model that the run names, BM25's score added."""

    folder: Location
    """What `readqg run` made (its --out)."""
    query: tuple[str, ...] = ()
    """What to search for: a text, or several, each in quotes."""
    shown: int = Field(10, ge=1)
    """Documents shown for each."""
    model: OptionalLocation = None
    """Another re-ranker (folder or hub name) than the one that the run names."""
    weight: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Of BM25's score beside the re-ranker's; 0: the re-ranker alone. None: the run's."""
    threads: int | None = Field(None, ge=1)
    """Of torch. None: the run's."""

    @field_validator("query")
    @classmethod
    def _says_something(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(text.strip() for text in value):
            raise ValueError("a query is empty")
        return value


class CleanConfig(Settings):
    """What nobody needs any more; listed unless `yes` says to remove it."""

    folder: OptionalLocation = None
    """A stage's output folder, or the folder of a whole run."""
    cache: bool = False
    """Also what this machine's cache holds: copies of models and parts in stores, of documents for random access, and the state of
    trainings."""
    yes: bool = False
    """Remove what is listed."""


class PushConfig(Settings):
    """A finished model, or a dataset of queries, to the Hugging Face hub."""

    folder: Location
    """`OUT/reranker`, any other folder of a model, or a dataset that `export` made (format `hf-dataset`)."""
    to: str
    """The repository, OWNER/NAME; made where it is not there yet."""
    public: bool = False
    """Everybody may see it: a repository that is made is public, and one that is public already is written to. Else neither happens."""


class DoctorConfig(Settings):
    """Nothing to set: this machine is looked at as it is."""


class RunConfig(Settings):
    """The whole way for one corpus."""

    corpus: OptionalLocation = None
    """A BEIR folder, a file of documents, or a folder of text files; none: the sample that comes with the package."""
    out: Location = "readqg-out"
    """The folder to make: every stage's folder, `reranker`, `report.html`, `summary.json`."""
    split: str = "test"
    """Which `qrels/SPLIT.tsv` of a BEIR folder."""
    prompts: OptionalLocation = None
    """A prompts folder; none: the ones that come with the package."""
    backbone: OptionalLocation = None
    """None: the one named in the prompts folder."""
    start: Location = MINILM_L12
    """The cross-encoder to adapt, and to compare with."""
    max_documents: int | None = Field(None, ge=FEWEST_DOCUMENTS)
    """Documents that queries are written for (the whole corpus is always searched)."""
    until_no_gain: bool = False
    """Double `max_documents` (from 128 where it is not set) until held-out documents gain no more by it. A model is trained for every
    size, twice the work of the last one in all. Held out is a quarter of the first size's documents, at most `reranker.held_out_max`,
    whatever `reranker.held_out_share`: half of them choose the size, by the others the guard judges."""
    least_gain: float = Field(0.005, ge=0)
    """What a doubling has to gain there, in nDCG@10."""
    sampling: Literal["hash", "coverage"] = "hash"
    """How these are drawn: by a stable hash; or from clusters of their embeddings, so that they are spread over the corpus."""
    coverage: CoverageSettings = CoverageSettings()
    """Where `sampling` asks for it."""
    queries: OptionalLocation = None
    """Queries written elsewhere for the corpus's documents (InPars, GPL, Promptagator, rows of one's own), as `readqg import-queries` takes
    them; with them nothing is generated. Where none is at r = 0, train on positives alone: `reranker.w_mr` 0."""
    queries_like: OptionalLocation = None
    """Real queries without judgments: of the `generate.samples` of a document those are kept that have their lengths and forms."""
    max_queries: int | None = Field(None, ge=1)
    """Judged queries that are evaluated, drawn by a stable hash."""
    documents: ImportSettings = ImportSettings()
    retrieve: RetrieveSettings = RetrieveSettings()
    generate: GenerateSettings = GenerateSettings()
    round_trip: RoundTripSettings = RoundTripSettings()
    ratio: RatioSettings = RatioSettings()
    """`ratio.document_tokens` and `query_tokens` left at their defaults are those of
    `generate`."""
    score_queries: ScoreQueriesSettings = ScoreQueriesSettings()
    """All three where the re-ranker's settings ask for them."""
    reranker: RerankerSettings = RerankerSettings()
    candidates: Literal["bm25", "both"] = "bm25"
    """What is re-ranked: what BM25 finds; or, `both`, of that and of as many that a bi-encoder finds, those that are best by the sum of
    both sides' standardised scores."""
    dense: DenseSettings = DenseSettings()
    """The bi-encoder, where `candidates` asks for it."""
    rank: RankSettings = RankSettings()
    fusion: FusionSettings = FusionSettings()
    """Start and tuned model are also evaluated with BM25's score added."""
    quality: QualitySettings | None = None
    """None: no measures of query quality beyond those of the report's own table."""
    grid_documents: int = placement(8, ge=0)
    """Documents for which the report shows queries at every r, 0, 0.1 ... 1, and what start and tuned model make of them; 0: none."""
    train: RerankerTrainSettings = RerankerTrainSettings()
    compute: Compute = Compute()
    price: float | None = placement(None, ge=0)
    """Dollars a worker and hour: the report then says what every stage cost."""

    @model_validator(mode="after")
    def _something_to_choose_from(self) -> RunConfig:
        if self.sampling == "coverage" and self.max_documents is None:
            raise ValueError("sampling: coverage needs max_documents, the number of documents that queries are written for")
        if self.sampling == "coverage" and self.until_no_gain:
            raise ValueError("until_no_gain needs sampling: hash, whose larger choices hold the smaller ones")
        if self.queries is not None and (self.max_documents is not None or self.until_no_gain or self.sampling != "hash"):
            raise ValueError("queries says which documents have some: leave max_documents, until_no_gain and sampling out")
        if self.queries_like and self.queries is None and self.generate.samples < 2:
            raise ValueError("queries_like chooses among the samples of a document, and generate.samples is 1: set it to 4, say")
        placebo = self.reranker.w_mr > 0 and self.reranker.negative == "last_positive"
        if placebo and (self.queries_like or (self.queries is None and self.generate.samples < 2)):
            raise ValueError("reranker.negative: last_positive needs two samples of a document: set generate.samples to 2 or more, and "
                             "leave out queries_like, which keeps one of them")
        return self

    @model_validator(mode="after")
    def _round_trip_is_deep_enough(self) -> RunConfig:
        asked, top_k = self.reranker.deepest_round_trip, self.round_trip.top_k
        if asked > top_k:
            raise ValueError(f"reranker.round_trip, negative_round_trip or mined_from + mined asks for {asked} places, and "
                             f"round_trip.top_k looks at {top_k}: raise it to {asked}")
        return self


class PlanConfig(RunConfig):
    """How large a run would be: the fields of `run`, the machine, and counts where there is no corpus to look at yet."""

    document_count: int | None = Field(None, ge=1)
    """Documents; none: those of the corpus."""
    mean_document_tokens: float | None = Field(None, gt=0)
    """Tokens of a document; none: measured on the corpus."""
    query_count: int | None = Field(None, ge=0)
    """Queries to search and re-rank; none: those of the corpus, 0 where there is only a `document_count`."""
    label_pairs: int = Field(0, ge=0)
    """Pairs to label for the generator beforehand."""
    label_shard_rows: int = Field(LabelConfig.model_fields["shard_rows"].default, ge=1)
    """Of a shard of these."""
    machine: Literal["here", "h100", "a100", "l4"] = "here"
    """`here` is measured for a minute; the rates of the others are assumed from their peak, unless `rates` says better."""
    accelerators: int | None = Field(None, ge=1)
    """Model workers: GPUs, or processes on a CPU machine, which then share its cores. None: `compute.workers`."""
    accelerators_per_node: int = Field(1, ge=1)
    """Lost together where a node is lost."""
    price: float | None = Field(None, ge=0)
    """Dollars an accelerator and hour; none: a round figure for on-demand cloud machines, 0 for `here`."""
    failures_per_node_hour: float = Field(0.0, ge=0)
    """How often a node is lost; 0.05 is a busy spot market."""
    restart_s: float = Field(300.0, ge=0)
    """Until another node works in a lost one's place."""
    rates: OptionalLocation = None
    """A file that `save_rates` wrote, on a machine of the kind."""
    save_rates: str | None = None
    """A file to write the measured rates to, for `rates` elsewhere."""

    @model_validator(mode="after")
    def _queries_are_generated(self) -> PlanConfig:
        if self.queries is not None:
            raise ValueError("plan counts the work of generated queries: leave queries out")
        return self


class SubmitConfig(Settings):
    """A stage as a job on a running cluster."""

    address: str
    """Of the cluster's jobs server: http://127.0.0.1:8265 (this machine, or an SSH tunnel) or https://HOST."""
    stage: str = ""
    """Any stage that has a script in `jobs/`; its flags follow."""
    flags: tuple[str, ...] = ()
    """The stage's own flags: give them as they are, after its name."""
    attach: str | None = None
    """A job that is running or has ended: show its log instead of submitting one."""
    working_dir: str = "."
    """The checkout that is sent to the cluster, less what .gitignore names."""
    runtime_env: str | None = None
    """A YAML file of Ray's runtime environment, such as cluster/runtime_env.yaml."""
