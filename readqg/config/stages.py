"""One class a stage. Units stand in the name or the docstring; "2", "4", ... name the section of the method."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, field_validator, model_validator

from readqg.config.base import Location, OptionalLocation, Settings, placement
from readqg.config.machine import MINILM_ENCODER, MINILM_L6, MINILM_L12, Compute


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


class RoundTripSettings(Settings):
    """Every generated query asked back of the corpus."""

    top_k: int = Field(30, ge=1)
    """Documents that are looked at, of a query."""
    shard_rows: int = Field(2048, ge=1)


class RoundTripConfig(RoundTripSettings):
    queries: Location
    """Generated queries."""
    documents: Location
    """The corpus that they were generated from, whole."""
    out: Location


class RatioSettings(Settings):
    """The likelihood ratio of generated queries."""

    document_tokens: int = Field(384, ge=1)
    query_tokens: int = Field(65, ge=2)
    """End token included; longer queries are cut."""
    batch_tokens: int = Field(16384, ge=1)
    """Tokens of a batch, prompts, document and query together at both relevances, padding included."""
    shard_rows: int = Field(512, ge=1)


class RatioConfig(RatioSettings):
    queries: Location
    """Generated queries."""
    documents: Location
    """The corpus that they were generated from."""
    out: Location
    prompts: OptionalLocation = None
    """A prompts folder; none: the ones that come with the package."""
    backbone: OptionalLocation = None
    """None: the one named in the prompts folder."""
    compute: Compute = Compute()


class ScoreSettings(Settings):
    """How text pairs are scored by a cross-encoder."""

    max_length: int = Field(512, ge=8)
    """Tokens of a pair; the longer side is cut first (section 5)."""
    batch_tokens: int = Field(8192, ge=1)
    """Tokens of a batch, padding included."""


class RankSettings(ScoreSettings):
    passages: Literal["first", "max"] = "first"
    """What of a document is scored: its beginning, as far as `max_length` goes; or, `max`, all of it in passages, of which the best one's
    score is the document's (MaxP; Dai & Callan, SIGIR 2019)."""
    passage_tokens: int = Field(200, ge=8)
    """Tokens of a passage, with the title at its beginning (as much of it as half a passage holds). About 150 words, as in the paper."""
    passage_stride: int = Field(100, ge=1)
    """Tokens from the beginning of a passage to that of the next."""

    @model_validator(mode="after")
    def _passages_overlap(self) -> RankSettings:
        if self.passage_stride > self.passage_tokens:
            raise ValueError(f"passage_stride {self.passage_stride} would leave tokens out between passages of {self.passage_tokens}: "
                             "lower it to passage_tokens at most")
        return self


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


class RankConfig(RankSettings):
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

    weight: NonNegativeFloat | Literal["learned"] = 0.5
    """Of BM25's side; the re-ranker's has 1. `learned`: the one that the re-ranker's folder carries, chosen on its held-out synthetic
    documents."""


class FuseConfig(FusionSettings):
    run: Location
    """A run folder or a TREC run: the re-ranker's."""
    first: Location
    """The same of BM25, or of whatever found the candidates."""
    out: Location


class EncoderSettings(Settings):
    """How a bi-encoder embeds texts."""

    encoder: Location
    pooling: Literal["mean", "cls"] = "mean"
    max_length: int = Field(512, ge=8)
    batch_tokens: int = Field(8192, ge=1)
    shard_documents: int = Field(256, ge=1)


class QualitySettings(EncoderSettings):
    """Section 5, quality of generated queries."""

    judge: Location = MINILM_L12
    """A cross-encoder, or a T5 judge (monoT5); whichever its files say."""
    encoder: Location = "thenlper/gte-base"
    """Bi-encoder for diversity and round trips; `none` leaves both out."""


class CoverageSettings(EncoderSettings):
    """Which documents stand for a corpus."""

    encoder: Location = MINILM_ENCODER
    max_length: int = Field(256, ge=8)
    clusters: int = Field(1024, ge=1)
    """Clusters at most; never more than documents are asked for. Documents are taken from them in turn."""
    seed: int = 0


class CoverageConfig(CoverageSettings):
    documents: Location
    out: Location
    max_documents: int = Field(1000, ge=1)
    compute: Compute = Compute()


class SelectConfig(Settings):
    """Of the samples of a document, those that are like real queries."""

    queries: Location
    """Generated queries, several samples a (document, relevance)."""
    like: Location
    """Real queries, without judgments: a .txt file of one a line, or what `import` reads as queries."""
    out: Location
    seed: int = 0
    shard_rows: int = Field(2048, ge=1)


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
