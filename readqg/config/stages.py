"""One class a stage. Units stand in the name or the docstring; "2", "4", ... name the section of the method."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from readqg.config.base import Location, OptionalLocation, Settings, placement

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
MINILM_L12 = "cross-encoder/ms-marco-MiniLM-L12-v2"
MINILM_L6 = "cross-encoder/ms-marco-MiniLM-L6-v2"
FLAN_T5 = "google/flan-t5-base"


class Compute(Settings):
    """Where a stage runs."""

    ray_address: str | None = placement(None)
    """Address of a running Ray cluster; none: a local Ray, started and ended by the command."""
    workers: int = placement(1, ge=1)
    """Model workers at most (one GPU each where there are GPUs)."""
    threads: int = placement(0, ge=0)
    """Threads of a model worker on CPU; 0: the machine's cores shared among the workers."""
    device: Literal["auto", "cpu", "cuda"] = placement("auto")
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto`: bf16 where the processor or GPU has it natively, else fp32."""
    stall_s: float = placement(900.0, gt=0)
    """A worker that has a shard in hand and finishes neither it nor a batch of it for so long is killed, and the shard tried again. A
    batch takes seconds, a minute or two where kernels are compiled first or a large model runs on a slow CPU."""
    max_error_share: float = placement(0.1, ge=0, le=1)
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
    max_unknown_share: float = placement(0.01, ge=0, le=1)
    """`pairs` fails when more than this share of the scored pairs names a query or passage that is not given."""


class PairsConfig(PairsSettings):
    scores: Location
    """A scores folder or Parquet file (query_id, doc_id, score), or the public gzipped pickle of MS MARCO scores."""
    queries: Location
    documents: Location
    out: Location
    partitions: int = Field(64, ge=1, le=1024)
    shard_rows: int = Field(1_000_000, ge=1)
    max_pickle_bytes: int = placement(8 << 30, ge=1)
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
    schedule: Literal["constant", "linear"] = "constant"
    """What the learning rate does after the warm-up: stay, or fall to 0 with the last step."""
    warmup_steps: int = Field(0, ge=0)
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
    """How the training loop runs; the same for both models. `compute.workers` workers share each batch."""

    checkpoint_steps: int = placement(100, ge=1)
    validate_steps: int = Field(200, ge=1)
    log_steps: int = Field(1, ge=1)
    keep_checkpoints: int = placement(2, ge=1)
    accumulation: int = Field(1, ge=1)
    """Batches whose gradients make one step. A loss is a mean over one batch, a step's gradient the mean over its batches."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed's ZeRO: what is split among the workers. 1: optimizer states; 2: gradients too; 3: parameters too."""
    offload: bool = placement(False)
    """ZeRO 2 and 3: optimizer states (with 3, parameters too) lie in the CPU's memory instead of the GPU's."""
    min_workers: int | None = placement(None, ge=1)
    """Go on with as few workers as this where nodes are lost, and with up to `compute.workers` where they come back. ZeRO 0 only:
    what ZeRO splits among the workers cannot be given to another number of them."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = placement(("tensorboard",))
    """Where metrics go, besides JSON lines. `mlflow` and `wandb` need the extra of that name."""

    @model_validator(mode="after")
    def _zero_fits(self) -> TrainSettings:
        if self.min_workers is not None and self.zero_stage > 0:
            raise ValueError(f"min_workers needs zero_stage 0: DeepSpeed refuses a checkpoint of ZeRO {self.zero_stage} on another "
                             "number of workers. Leave min_workers out, or set zero_stage 0")
        if self.offload and self.zero_stage < 2:
            raise ValueError(f"offload needs zero_stage 2 or 3; found {self.zero_stage}")
        return self


class TrainGeneratorConfig(GeneratorSettings):
    pairs: Location
    out: Location
    backbone: Location = FLAN_T5
    initial: OptionalLocation = None
    """A prompts folder to start from, of the same backbone; none: the embeddings of the instruction, of "true" and of "false".
    On the command line also `--from`."""
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
            raise ValueError(
                f"{self.decoding} decoding writes at most {most} different queries; samples is {self.samples}: "
                "lower it, or decode with top_k"
            )
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
    """Documents a batch, of all workers together."""
    search: Literal["fresh", "cached"] = "fresh"
    """Eq. 5's k(i): searched anew in every batch, or, cached, in the first epoch alone. Then every epoch has the same batches, in
    another order, and k(i) stays what it was found to be."""
    epochs: int = Field(2, ge=1)
    learning_rate: float = Field(7e-6, gt=0)
    schedule: Literal["constant", "linear"] = "linear"
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
    """The model to train, and to compare with; on the command line also `--from`."""
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


class FusionSettings(Settings):
    """Of a re-ranker's scores with BM25's, both standardised over a query's candidates."""

    weight: float = Field(0.5, ge=0)
    """Of BM25's side; the re-ranker's has 1."""


class FuseConfig(FusionSettings):
    run: Location
    """A run folder or a TREC run: the re-ranker's."""
    first: Location
    """The same of BM25, or of whatever found the candidates."""
    out: Location


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
