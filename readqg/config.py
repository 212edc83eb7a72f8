"""One frozen, validated class a stage: the only home of every default. The command line, `jobs/` and YAML files are made from these.

A class named `...Settings` says how a stage works; the `...Config` that extends it adds where its input and output lie, so
`RunConfig` can hold the settings of every stage. Units stand in the name or the docstring; "2", "4", ... name the section of
the method (README, "The method"). Presets are named sets of values: `paper` (the defaults), `authors` (the released code, where
it differs), `small` (a demonstration on a laptop).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.config import JsonDict

from readqg.errors import ConfigError

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
MINILM_L12 = "cross-encoder/ms-marco-MiniLM-L12-v2"
MINILM_L6 = "cross-encoder/ms-marco-MiniLM-L6-v2"
FLAN_T5 = "google/flan-t5-base"


_C = TypeVar("_C", bound=BaseModel)


class Settings(BaseModel):
    """Base of all configs: frozen, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _placement(default: Any, **kwargs: Any) -> Any:
    """A field that says where work runs, not what comes out: left out when two configs are compared."""
    return Field(default, json_schema_extra=_NO_IDENTITY, **kwargs)


_NO_IDENTITY: JsonDict = {"identity": False}


def _place(value: str | None) -> str | None:
    """A path that exists made absolute, since workers have other working directories; a model's name as it is."""
    if value is not None and "://" in value:
        raise ValueError("object stores are not supported, only paths")
    return str(Path(value).absolute()) if value and Path(value).exists() else value


# A place or a model's name: the fingerprint of what lies there counts, not what it is called.
Location = Annotated[str, AfterValidator(_place), Field(json_schema_extra=_NO_IDENTITY)]
OptionalLocation = Annotated[str | None, AfterValidator(_place), Field(json_schema_extra=_NO_IDENTITY)]


def identity(config: BaseModel) -> dict[str, Any]:
    """The part of a config that decides what comes out; two runs on one folder must agree on it."""
    kept = {}
    for name, info in type(config).model_fields.items():
        if isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("identity") is False:
            continue
        value = getattr(config, name)
        kept[name] = identity(value) if isinstance(value, BaseModel) else value
    return kept


class Compute(Settings):
    """Where a stage runs."""

    ray_address: str | None = _placement(None)
    """Address of a running Ray cluster; none: a local Ray, started and ended by the command."""
    workers: int = _placement(1, ge=1)
    """Model workers at most (one GPU each where there are GPUs)."""
    threads: int = _placement(0, ge=0)
    """Threads of a model worker on CPU; 0: the machine's cores shared among the workers."""
    device: Literal["auto", "cpu", "cuda"] = _placement("auto")
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 where the processor or GPU has it natively, else fp32."""
    stall_s: float = _placement(900.0, gt=0)
    """A worker that has a shard in hand and finishes neither it nor a batch of it for so long is killed, and the shard tried again. A
    batch takes seconds, a minute or two where kernels are compiled first or a large model runs on a slow CPU."""
    max_error_share: float = _placement(0.1, ge=0, le=1)
    """A run fails when more than this share of its rows has an error; what is done stays."""


class ImportSettings(Settings):
    id_field: str = "_id"
    """Field names of JSON lines, CSV and Parquet; BEIR's by default. `doc_id`, `id` are tried where `_id` is absent."""
    title_field: str = "title"
    text_field: str = "text"
    max_text_chars: int = Field(1_000_000, ge=1)
    """Longer texts are cut here, and counted."""
    max_rejected_share: float = Field(0.01, ge=0, le=1)
    """The import fails when more than this share of the lines is bad."""
    shard_rows: int = Field(2048, ge=1)


class ImportConfig(ImportSettings):
    source: Location
    """A BEIR folder, or a file: .jsonl, .csv, .tsv, .parquet, each also .gz."""
    out: Location
    kind: Literal["auto", "documents", "queries", "judgments"] = "auto"
    """What a single file holds; a BEIR folder holds all three."""
    split: str = "test"
    """Which `qrels/SPLIT.tsv` of a BEIR folder."""


class RetrieveSettings(Settings):
    top_k: int = Field(100, ge=1)
    """Section 5."""
    fields: Literal["multifield", "flat"] = "multifield"
    k1: float = Field(0.9, ge=0)
    b: float = Field(0.4, ge=0, le=1)
    drop_self: bool = False
    """Remove from a query's ranking the document with the query's own id (ArguAna)."""
    shard_queries: int = Field(64, ge=1)


class RetrieveConfig(RetrieveSettings):
    documents: Location
    queries: Location
    out: Location
    max_queries: int | None = Field(None, ge=1)
    """A subset drawn by a stable hash of the query id."""
    judgments: OptionalLocation = None
    """With it only queries that have judgments are kept."""


class ScoreSettings(Settings):
    """How text pairs are scored by a cross-encoder."""

    max_length: int = Field(512, ge=8)
    """Tokens of a pair; the longer side is cut first (section 5)."""
    batch_tokens: int = Field(8192, ge=1)
    """Tokens of a batch, padding included."""


class LabelConfig(ScoreSettings):
    candidates: Location
    """A TREC run, or JSON lines {"query_id": ..., "doc_ids": [...]}; gzipped or not."""
    queries: Location
    documents: Location
    """Queries and passages: imported folders, or files that `import` reads."""
    out: Location
    model: Location = MINILM_L6
    """Section 1: MiniLM fine-tuned on MS MARCO."""
    shard_rows: int = Field(2048, ge=1)
    compute: Compute = Compute()


class PairsSettings(Settings):
    rule: Literal["paper", "authors", "spread"] = "paper"
    """Which queries of a passage are kept; section 1's table."""
    m: int = Field(4, ge=1)
    """Positives, and negatives, a passage; section 1."""
    max_unknown_share: float = _placement(0.01, ge=0, le=1)
    """`pairs` fails when more than this share of the scored pairs names a query or passage that is not given."""


class PairsConfig(PairsSettings):
    scores: Location
    """A scores folder or Parquet file (query_id, doc_id, score), or the public gzipped pickle of MS MARCO scores."""
    queries: Location
    documents: Location
    out: Location
    partitions: int = Field(64, ge=1, le=1024)
    shard_rows: int = Field(1_000_000, ge=1)
    max_pickle_bytes: int = _placement(8 << 30, ge=1)
    """A pickle of scores that is longer, unpacked, is refused."""
    compute: Compute = Compute()


class GeneratorSettings(Settings):
    """Section 2."""

    profile: Literal["paper", "authors"] = "paper"
    """Which form the losses and the sampling of pairs take."""
    n_relevance: int = Field(5, ge=1)
    n_instruction: int = Field(10, ge=0)
    instruction: str = "Generate a question for this passage with the labels:"
    separator: str = "\nQuestion:"
    """Decoder-only backbones: text between the document and the query."""
    m: int = Field(4, ge=1)
    """Positives, and negatives, of a document in a step."""
    documents_per_step: int = Field(4, ge=1)
    steps: int = Field(20_000, ge=0)
    learning_rate: float = Field(1e-2, gt=0)
    document_tokens: int = Field(128, ge=1)
    query_tokens: int = Field(16, ge=2)
    temperature: float = Field(0.25, gt=0)
    """tau of Eq. 3."""
    margin: float = 1.0
    """eps of Eq. 4, nats."""
    w_mle: float = Field(1.0, ge=0)
    w_sc: float = Field(1.0, ge=0)
    w_cal: float = Field(1.0, ge=0)
    """Weights of Eq. 2, 3 and 4; 0 switches a loss off, and its computation."""
    length_normalised: bool = False
    """Eq. 4 on log-likelihoods a token instead of summed ones."""
    dropout: bool = False
    """Dropout in the frozen backbone while training (on in the authors' code)."""
    held_out_documents: int = Field(64, ge=0)
    """Documents, drawn by a stable hash, kept out of training for validation."""
    seed: int = 0


class TrainSettings(Settings):
    """How the training loop runs; the same for both models."""

    checkpoint_steps: int = _placement(100, ge=1)
    validate_steps: int = Field(200, ge=1)
    log_steps: int = Field(1, ge=1)
    keep_checkpoints: int = _placement(2, ge=1)
    zero_stage: Literal[0, 1, 2, 3] = 0


class TrainGeneratorConfig(GeneratorSettings):
    pairs: Location
    out: Location
    backbone: Location = FLAN_T5
    weight_decay: float = Field(0.0, ge=0)
    gradient_clip: float = Field(0.0, ge=0)
    """Norm; 0: none."""
    train: TrainSettings = TrainSettings()
    compute: Compute = Compute()


class GenerateSettings(Settings):
    """Section 3."""

    relevances: tuple[float, ...] = (1.0, 0.0)
    samples: int = Field(1, ge=1)
    """Queries a (document, relevance)."""
    decoding: Literal["greedy", "beam", "top_k"] = "top_k"
    top_k: int = Field(10, ge=1)
    beams: int = Field(3, ge=1)
    temperature: float = Field(1.0, gt=0)
    document_tokens: int = Field(384, ge=1)
    max_new_tokens: int = Field(64, ge=1)
    batch_tokens: int = Field(16384, ge=1)
    """Tokens of a batch, prompts, document and query together, padding included."""
    shard_rows: int = Field(256, ge=1)
    seed: int = 0

    @field_validator("relevances")
    @classmethod
    def _in_range(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 <= r <= 1 for r in value) or len(set(value)) < len(value):
            raise ValueError("relevances must be distinct numbers in [0, 1]")
        return value

    @model_validator(mode="after")
    def _samples_differ(self) -> GenerateSettings:
        most = {"greedy": 1, "beam": self.beams}.get(self.decoding, self.samples)
        if self.samples > most:
            raise ValueError(f"{self.decoding} decoding writes at most {most} different queries; samples is {self.samples}: "
                             "lower it, or decode with top_k")
        return self


class GenerateConfig(GenerateSettings):
    documents: Location
    out: Location
    prompts: OptionalLocation = None
    """A prompts folder; none: the ones that come with the package."""
    backbone: OptionalLocation = None
    """None: the one named in the prompts folder."""
    max_documents: int | None = Field(None, ge=1)
    """A subset drawn by a stable hash of the document id."""
    compute: Compute = Compute()


class RerankerSettings(Settings):
    """Section 4."""

    sign: Literal["paper", "authors"] = "paper"
    activation: Literal["identity", "sigmoid"] = "identity"
    negative_pair: Literal["query_query", "query_document"] = "query_query"
    margin: float = 0.0
    w_mr: float = Field(1.0, ge=0)
    """Weight of Eq. 6; 0: positives only."""
    batch: int = Field(8, ge=2)
    """Documents a step."""
    epochs: int = Field(2, ge=1)
    learning_rate: float = Field(7e-6, gt=0)
    warmup_epochs: float = Field(0.1, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    gradient_clip: float = Field(1.0, ge=0)
    max_length: int = Field(384, ge=8)
    batch_tokens: int = Field(8192, ge=1)
    held_out_share: float = Field(0.1, gt=0, lt=1)
    """Share of the documents, drawn by a stable hash, kept out of training to choose the weights and for the guard."""
    held_out_max: int = Field(100, ge=1)
    """Held-out documents at most."""
    seed: int = 0


class TrainRerankerConfig(RerankerSettings):
    queries: Location
    """Generated queries with r = 1 and r = 0."""
    documents: Location
    out: Location
    start: Location = MINILM_L6
    train: TrainSettings = TrainSettings(checkpoint_steps=20, validate_steps=40)
    compute: Compute = Compute()


class RankConfig(ScoreSettings):
    run: Location
    """Candidates: a run folder or a TREC run."""
    queries: Location
    documents: Location
    out: Location
    model: Location = MINILM_L6
    shard_queries: int = Field(16, ge=1)
    compute: Compute = Compute()


class QualitySettings(Settings):
    """Section 5, quality of generated queries."""

    judge: Location = MINILM_L12
    """A cross-encoder, or a T5 judge (monoT5); whichever its files say."""
    encoder: Location = "thenlper/gte-base"
    """Bi-encoder for diversity and round trips; `none` leaves both out."""
    pooling: Literal["mean", "cls"] = "mean"
    max_length: int = Field(512, ge=8)
    batch_tokens: int = Field(8192, ge=1)
    shard_documents: int = Field(256, ge=1)


class QualityConfig(QualitySettings):
    queries: Location
    documents: Location
    out: Location
    teacher: OptionalLocation = None
    start: OptionalLocation = None
    """The model whose labels trained the generator, and the re-ranker's start: a judge that is one of them is labelled
    self-judged."""
    compute: Compute = Compute()


class EvaluateConfig(Settings):
    run: Location
    """A TREC run or a run folder."""
    qrels: Location
    """BEIR's TSV, TREC qrels, or an imported judgments folder."""
    against: OptionalLocation = None
    """A second run: adds its figures, the differences and a paired randomisation test."""
    measures: tuple[str, ...] = ("nDCG@10", "R@100", "RR@10")
    permutations: int = Field(10_000, ge=100)
    seed: int = 0


class VerifyConfig(Settings):
    folder: Location
    """A stage's output folder, or the folder of a whole run."""


class DoctorConfig(Settings):
    """Nothing to set: this machine is looked at as it is."""


class RunConfig(Settings):
    """The whole way for one corpus."""

    corpus: OptionalLocation = None
    """A BEIR folder or a file of documents; none: the sample that comes with the package."""
    out: Location = "readqg-out"
    split: str = "test"
    prompts: OptionalLocation = None
    backbone: OptionalLocation = None
    start: Location = MINILM_L12
    max_documents: int | None = Field(None, ge=1)
    """Documents that queries are written for, drawn by a stable hash (the whole corpus is always searched)."""
    max_queries: int | None = Field(None, ge=1)
    """Judged queries that are evaluated, drawn by a stable hash."""
    documents: ImportSettings = ImportSettings()
    retrieve: RetrieveSettings = RetrieveSettings()
    generate: GenerateSettings = GenerateSettings()
    reranker: RerankerSettings = RerankerSettings()
    rank: ScoreSettings = ScoreSettings()
    quality: QualitySettings | None = None
    """None: no measures of query quality beyond those of the report's own table."""
    train: TrainSettings = TrainSettings(checkpoint_steps=20, validate_steps=40)
    compute: Compute = Compute()


class PlanConfig(RunConfig):
    """How large a run would be: the fields of `run`, the machine, and counts where there is no corpus to look at yet."""

    document_count: int | None = Field(None, ge=1)
    """Documents; none: those of the corpus."""
    mean_document_tokens: float | None = Field(None, gt=0)
    """Tokens of a document; none: measured on the corpus."""
    query_count: int | None = Field(None, ge=0)
    """Queries to search and re-rank; none: those of the corpus."""
    label_pairs: int = Field(0, ge=0)
    """Pairs to label for the generator beforehand."""
    machine: Literal["here", "h100", "a100", "l4"] = "here"
    """`here` is measured for a minute; the rates of the others are assumed from their peak, unless `rates` says better."""
    accelerators: int = Field(1, ge=1)
    """Model workers: GPUs, or processes on a CPU machine."""
    accelerators_per_node: int = Field(1, ge=1)
    price: float | None = Field(None, ge=0)
    """Dollars an accelerator and hour; none: a round figure for on-demand cloud machines, 0 for `here`."""
    failures_per_node_hour: float = Field(0.0, ge=0)
    """How often a node is lost; 0.05 is a busy spot market."""
    restart_s: float = Field(300.0, ge=0)
    """Until another node works in a lost one's place."""
    rates: OptionalLocation = None
    """A file that `save_rates` wrote, on a machine of the kind."""
    save_rates: str | None = None


FloatRange = tuple[float, float]
IntRange = tuple[int, int]


class GeneratorSpace(Settings):
    """Where a search over the generator looks: the lowest and the highest value; two that are equal fix it."""

    n_relevance: IntRange = (1, 10)
    learning_rate: FloatRange = (3e-4, 3e-2)
    margin: FloatRange = (0.1, 10.0)
    temperature: FloatRange = (0.05, 1.0)
    w_sc: FloatRange = (0.01, 1.0)
    w_cal: FloatRange = (0.01, 1.0)


class RerankerSpace(Settings):
    """Where a search over the re-ranker looks."""

    learning_rate: FloatRange = (2e-6, 1e-4)
    margin: FloatRange = (0.0, 2.0)
    w_mr: FloatRange = (0.01, 2.0)


class PipelineSpace(RerankerSpace):
    """Where a search over both looks: how queries are sampled, and how the re-ranker learns from them."""

    sampling_temperature: FloatRange = (0.5, 1.3)
    top_k: IntRange = (2, 50)


class TuneSettings(Settings):
    """How a search runs: Optuna proposes, ASHA ends early what lags behind."""

    trials: int = _placement(20, ge=1)
    """Trials that are to be finished, ended early or failed."""
    hours: float | None = _placement(None, gt=0)
    """Hours of search after which no more trials are run; those under way are given up."""
    rungs: int = Field(9, ge=1)
    """How often a trial is judged, at equal distances in its steps; with `reduction` 3, ASHA looks at rungs 1, 3 and 9."""
    reduction: int = Field(3, ge=2)
    """Of trials that reach a rung of ASHA, one in so many goes on."""
    gpus_per_trial: float = _placement(1.0, gt=0)
    """Where there are GPUs; below 1, trials share one. `compute.workers` trials run at a time."""
    search_seed: int = 0
    compute: Compute = Compute()


class TuneGeneratorConfig(TuneSettings):
    """The objective is control: on held-out labelled passages, how S(q | d, 1) - S(q | d, 0) of real queries goes with the
    teacher's score (Spearman within a passage, a mean over passages)."""

    pairs: Location
    out: Location
    backbone: Location = FLAN_T5
    generator: GeneratorSettings = GeneratorSettings()
    """What is not searched."""
    weight_decay: float = Field(0.0, ge=0)
    gradient_clip: float = Field(0.0, ge=0)
    space: GeneratorSpace = GeneratorSpace()
    min_distinct: float = Field(0.5, ge=0, le=1)
    """Share of distinct queries among those written greedily for different passages, at r = 1 and at r = 0, whichever is lower.
    A trial below it ranks behind every trial above it."""
    probe_documents: int = Field(16, ge=1)
    """Held-out passages that queries are written for, to count the distinct ones."""
    probe_new_tokens: int = Field(24, ge=1)


class TuneRerankerConfig(TuneSettings):
    """The objective is nDCG@10 of held-out synthetic documents for their own queries, which all trials share."""

    queries: Location
    documents: Location
    out: Location
    start: Location = MINILM_L6
    reranker: RerankerSettings = RerankerSettings()
    """What is not searched."""
    space: RerankerSpace = RerankerSpace()


class TunePipelineConfig(TuneSettings):
    """Every trial writes its own queries and trains on them; the objective is that of the re-ranker, on queries for held-out
    documents that were written once, for all trials."""

    documents: Location
    out: Location
    prompts: OptionalLocation = None
    backbone: OptionalLocation = None
    start: Location = MINILM_L12
    max_documents: int | None = Field(None, ge=2)
    """A subset drawn by a stable hash of the document id."""
    generate: GenerateSettings = GenerateSettings()
    reranker: RerankerSettings = RerankerSettings()
    """What is not searched."""
    space: PipelineSpace = PipelineSpace()


class SubmitConfig(Settings):
    """A stage as a job on a running cluster."""

    address: str
    """Of the cluster's jobs server: http://127.0.0.1:8265 (this machine, or an SSH tunnel) or https://HOST."""
    stage: str = ""
    """Any stage of this command line; its flags follow."""
    flags: tuple[str, ...] = ()
    """The stage's own flags: give them as they are, after its name."""
    attach: str | None = None
    """A job that is running or has ended: show its log instead of submitting one."""
    working_dir: str = "."
    """The checkout that is sent to the cluster, less what .gitignore names."""
    runtime_env: str | None = None
    """A YAML file of Ray's runtime environment, such as cluster/runtime_env.yaml."""


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


def merge(*layers: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries over one another, the last one winning."""
    out: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(out.get(key), dict)
            out[key] = merge(out[key], value) if both else value
    return out


def partial(cls: type[_C], values: dict[str, Any], missing: Any) -> _C:
    """A config with `missing` where a required field has no value yet, for the command line to fill.

    Raises `ConfigError` for unknown fields and bad values, as `make` does."""
    absent = [name for name, info in cls.model_fields.items() if info.is_required() and name not in values]
    whole = make(cls, {**dict.fromkeys(absent, ""), **values})
    fields = {name: missing if name in absent else getattr(whole, name) for name in cls.model_fields}
    return cls.model_construct(**fields)


def make(cls: type[_C], *layers: dict[str, Any]) -> _C:
    """A config from layers of values, the last one winning.

    Raises `ConfigError` naming each field at fault, what was found and what is allowed."""
    try:
        return cls.model_validate(merge(*layers))
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, e['loc']))}: {e['msg']}; found {e['input']!r}" for e in error.errors()]
        raise ConfigError(f"{cls.__name__} cannot be made:\n" + "\n".join(lines)) from None
