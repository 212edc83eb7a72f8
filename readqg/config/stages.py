"""One class a stage. Units stand in the name or the docstring; "2", "4", ... name the section of the method."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from readqg.config.base import Location, OptionalLocation, Settings, later, placement
from readqg.config.machine import MINILM_ENCODER, MINILM_L6, MINILM_L12, Compute


class RetrieveSettings(Settings):
    top_k: int = Field(100, ge=1)
    """Section 5."""
    fields: Literal["multifield", "flat"] = "multifield"
    """`multifield`: the scores of an index of titles and of one of texts, added; `flat`: one index of both together."""
    k1: float = Field(0.9, ge=0)
    """BM25's saturation of a term's count."""
    b: float = Field(0.4, ge=0, le=1)
    """BM25's share of length normalisation."""
    drop_self: bool = False
    """Remove from a query's ranking the document with the query's own id (ArguAna)."""
    shard_queries: int = Field(64, ge=1)
    """Queries of a shard."""


class RetrieveConfig(RetrieveSettings):
    documents: Location
    """The corpus."""
    queries: Location
    """What is searched for: what `import` reads as queries, or a .txt file of one a line (whose ids are the lines' numbers)."""
    out: Location
    """The run folder to make."""
    max_queries: int | None = Field(None, ge=1)
    """A subset drawn by a stable hash of the query id."""
    judgments: OptionalLocation = None
    """With it only queries that have judgments are kept."""


class RoundTripSettings(Settings):
    """Every generated query asked back of the corpus."""

    top_k: int = Field(30, ge=1)
    """Documents that are looked at, of a query."""
    shard_rows: int = Field(2048, ge=1)
    """Queries of a shard."""


class RoundTripConfig(RoundTripSettings):
    queries: Location
    """Generated queries."""
    documents: Location
    """The corpus that they were generated from, whole."""
    out: Location
    """The folder to make: the queries, with the rank of their document and what else was found."""


class RatioSettings(Settings):
    """The likelihood ratio of generated queries."""

    document_tokens: int = Field(384, ge=1)
    """Of a document, title first; the rest is cut."""
    query_tokens: int = Field(65, ge=2)
    """End token included; longer queries are cut."""
    batch_tokens: int = Field(16384, ge=1)
    """Tokens of a batch, prompts, document and query together at both relevances, padding included."""
    shard_rows: int = Field(512, ge=1)
    """Queries of a shard."""


class RatioConfig(RatioSettings):
    queries: Location
    """Generated queries."""
    documents: Location
    """The corpus that they were generated from."""
    out: Location
    """The folder to make: the queries, with their ratios."""
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


class ScoreQueriesSettings(ScoreSettings):
    """Every generated query scored with its own document."""

    shard_rows: int = Field(512, ge=1)
    """Queries of a shard."""


class ScoreQueriesConfig(ScoreQueriesSettings):
    queries: Location
    """Generated queries."""
    documents: Location
    """The corpus that they were generated from."""
    out: Location
    """The folder to make: the queries, with their scores."""
    model: Location = MINILM_L12
    """The cross-encoder that is to be trained on them."""
    compute: Compute = Compute()


class RankSettings(ScoreSettings):
    passages: Literal["first", "max"] = "first"
    """What of a document is scored: its beginning, as far as `max_length` goes; or, `max`, all of it in passages, of which the best one's
    score is the document's (MaxP; Dai & Callan, SIGIR 2019)."""
    passage_tokens: int = Field(200, ge=8)
    """Tokens of a passage, with the title at its beginning (as much of it as half a passage holds); fewer where `max_length` leaves
    fewer beside the query. About 150 words, as in the paper."""
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
    """An imported folder, or a file that `import` reads."""
    documents: Location
    """Passages, likewise."""
    out: Location
    """The scores folder to make."""
    model: Location = MINILM_L6
    """Section 1: MiniLM fine-tuned on MS MARCO."""
    shard_rows: int = Field(2048, ge=1)
    """Pairs of a shard."""
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
    """The queries that the scores name."""
    documents: Location
    """The passages that the scores name."""
    out: Location
    """The pairs folder to make."""
    partitions: int = Field(64, ge=1, le=1024)
    """Shards of the output; a passage goes to one by its row among the documents."""
    shard_rows: int = Field(1_000_000, ge=1)
    """Scores that are sorted at a time."""
    max_pickle_bytes: int = placement(8 << 30, ge=1)
    """A pickle of scores that is longer, unpacked, is refused."""
    compute: Compute = Compute()


GRID = tuple(i / 10 for i in range(11))
"""The relevances at which a document's whole range of queries is looked at (section 5)."""


class GenerateSettings(Settings):
    """Section 3."""

    relevances: tuple[float, ...] = (1.0, 0.0)
    """The r that queries are asked at, each in [0, 1]."""
    samples: int = Field(1, ge=1)
    """Queries a (document, relevance)."""
    decoding: Literal["greedy", "beam", "top_k"] = "top_k"
    """How tokens are chosen; greedy and beam write the same query every time."""
    top_k: int = Field(10, ge=1)
    """Of top_k decoding: the tokens drawn from."""
    beams: int = Field(3, ge=1)
    """Of beam decoding."""
    temperature: float = Field(1.0, gt=0)
    """Of top_k decoding; below 1, likely tokens gain."""
    document_tokens: int = Field(384, ge=1)
    """Of a document, title first; the rest is cut."""
    max_new_tokens: int = Field(64, ge=1)
    """Of a query at most."""
    batch_tokens: int = Field(16384, ge=1)
    """Tokens of a batch, prompts, document and query together, padding included."""
    shard_rows: int = Field(64, ge=1)
    """Documents of a shard: what a kill costs, and how finely progress shows. Many GPUs want more (`readqg plan` says when)."""
    seed: int = 0
    """Of top_k decoding's draws, which hang on it, document, r, sample and step alone."""

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
    """What queries are written for."""
    out: Location
    """The queries folder to make."""
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
    """Of the run."""
    documents: Location
    """Of the run."""
    out: Location
    """The run folder to make."""
    model: Location = MINILM_L6
    """The cross-encoder."""
    shard_queries: int = Field(16, ge=1)
    """Queries of a shard."""
    compute: Compute = Compute()


class FusionSettings(Settings):
    """Of a re-ranker's scores with BM25's, both standardised over a query's candidates."""

    weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] | Literal["learned"] = 0.5
    """Of BM25's side, 0 or more; the re-ranker's has 1. `learned`: the one that the re-ranker's folder carries, chosen on its held-out
    synthetic documents. There the scores are standardised over a query's own document and BM25's first 20, here over `retrieve.top_k`
    candidates, of which most are far from relevant: the deeper the candidates, the less the weight fits them."""


class FuseConfig(FusionSettings):
    run: Location
    """A run folder or a TREC run: the re-ranker's."""
    first: Location
    """The same of BM25, or of whatever found the candidates."""
    out: Location
    """The run folder to make."""
    documents: Literal["run", "both"] = later("run")
    """Whose documents are ranked: those of `run`; or of `both`, each side giving those that it lacks its lowest score."""
    top_k: int | None = later(None, ge=1)
    """Documents of a query; none: all."""


class EncoderSettings(Settings):
    """How a bi-encoder embeds texts."""

    encoder: Location
    """A bi-encoder of sentence-transformers."""
    pooling: Literal["mean", "cls"] = "mean"
    """Of the bi-encoder's states: their mean, or the first one."""
    max_length: int = Field(512, ge=8)
    """Tokens of a text, and of a pair."""
    batch_tokens: int = Field(8192, ge=1)
    """Tokens of a batch, padding included."""
    shard_documents: int = Field(256, ge=1)
    """Documents of a shard."""


class QualitySettings(EncoderSettings):
    """Section 5, quality of generated queries."""

    judge: Location = MINILM_L12
    """A cross-encoder, or a T5 judge (monoT5); whichever its files say."""
    encoder: Location = "thenlper/gte-base"
    """Bi-encoder for diversity and round trips; `none` leaves both out."""


class CoverageSettings(EncoderSettings):
    """Which documents stand for a corpus."""

    encoder: Location = MINILM_ENCODER
    """A bi-encoder of sentence-transformers."""
    max_length: int = Field(256, ge=8)
    """Tokens of a document."""
    clusters: int = Field(1024, ge=1)
    """Clusters at most; never more than documents are asked for. Documents are taken from them in turn."""
    seed: int = 0
    """Of the clusters."""


class DenseSettings(EncoderSettings):
    """Documents found by a bi-encoder."""

    encoder: Location = MINILM_ENCODER
    """A bi-encoder of sentence-transformers."""
    max_length: int = Field(256, ge=8)
    """Tokens of a document, and of a query."""
    shard_queries: int = Field(64, ge=1)
    """Queries of a shard."""


class DenseConfig(DenseSettings):
    documents: Location
    """The corpus."""
    queries: Location
    """What is searched for."""
    out: Location
    """The run folder to make; the corpus's vectors lie in it."""
    max_queries: int | None = Field(None, ge=1)
    """A subset drawn by a stable hash of the query id."""
    judgments: OptionalLocation = None
    """With it only queries that have judgments are kept."""
    top_k: int = Field(100, ge=1)
    """Documents of a query."""
    drop_self: bool = False
    """Remove from a query's ranking the document with the query's own id (ArguAna)."""
    compute: Compute = Compute()


class CoverageConfig(CoverageSettings):
    documents: Location
    """The corpus."""
    out: Location
    """The documents folder to make."""
    max_documents: int = Field(1000, ge=1)
    """Documents taken."""
    compute: Compute = Compute()


class SelectConfig(Settings):
    """Of the samples of a document, those that are like real queries."""

    queries: Location
    """Generated queries, several samples a (document, relevance)."""
    like: Location
    """Real queries, without judgments: a .txt file of one a line, or what `import` reads as queries."""
    out: Location
    """The queries folder to make."""
    seed: int = 0
    """Of the draws."""
    shard_rows: int = Field(2048, ge=1)
    """Queries of a shard."""


class QualityConfig(QualitySettings):
    queries: Location
    """Generated queries."""
    documents: Location
    """What they were generated from."""
    out: Location
    """The folder to make: a row a document, and a summary."""
    teacher: OptionalLocation = None
    """The model whose labels trained the generator."""
    start: OptionalLocation = None
    """The re-ranker's start. A judge that is the teacher or the start is labelled self-judged."""
    compute: Compute = Compute()


class EvaluateConfig(Settings):
    run: Location
    """A TREC run or a run folder."""
    qrels: Location
    """BEIR's TSV, TREC qrels, or an imported judgments folder."""
    against: OptionalLocation = None
    """A second run: adds its figures, the differences and a paired randomisation test."""
    measures: tuple[str, ...] = ("nDCG@10", "R@100", "RR@10")
    """In ir-measures' notation."""
    permutations: int = Field(10_000, ge=100)
    """Of the randomisation test; exact where there are no more."""
    seed: int = 0
    """Of the test and its interval."""
