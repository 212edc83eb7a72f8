"""The work of each stage for a corpus of a given size, counted in the tokens that the models read.

Counting tokens, not rows, is what lets a rate that was measured on a few documents speak for a corpus of millions, and for
other lengths: a transformer's time is proportional to its tokens, but for attention, which at 512 tokens is a tenth of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from readqg.config import RankConfig, RunConfig
from readqg.reranker.selection import CANDIDATES

_QUERY_ROW_BYTES = 90  # a generated query in compressed Parquet
_RUN_ROW_BYTES = 24
_CHECKPOINT_COPIES = 4  # the weights, two moments, and the best weights so far
_SPECIAL_TOKENS = 3
_RANK_SHARD_QUERIES = RankConfig.model_fields["shard_queries"].default


@dataclass(frozen=True)
class Corpus:
    """What the work depends on. `lengths`: tokens of a sample of the documents, uncut. `text_bytes`: of a document."""

    documents: int
    lengths: tuple[int, ...]
    text_bytes: float
    queries: int
    query_tokens: float
    written_tokens: float
    """Tokens of a generated query."""
    prompt_tokens: int
    """Soft prompts and separator before a generated query."""

    def mean_tokens(self, most: int) -> float:
        """Mean tokens of a document cut to `most`."""
        return sum(min(length, most) for length in self.lengths) / len(self.lengths)

    def pair_tokens(self, max_length: int, query_tokens: float) -> float:
        """Mean tokens of a query of so many with a document, the pair cut to `max_length`."""
        added = query_tokens + _SPECIAL_TOKENS
        return sum(min(length + added, max_length) for length in self.lengths) / len(self.lengths)


@dataclass(frozen=True)
class Work:
    """One stage. Tokens by how they are read: forward through the generator, many at a time (`generated`) or one after another
    (`written`), forward through the cross-encoder (`scored`), and forward and back (`trained`)."""

    stage: str
    units: int
    unit: str
    grows_with: str
    generated: float = 0.0
    scored: float = 0.0
    trained: float = 0.0
    written: float = 0.0
    disk_bytes: float = 0.0
    shards: int = 1
    models: int = 1
    """How often a model is loaded one after the other."""
    sharing: int = 1
    """Of a training: workers that can share a batch."""
    shard_flag: tuple[str, int] | None = None
    """The flag that sets the size of a shard, and what it is now; None where there is none."""

    @property
    def tokens(self) -> float:
        return self.generated + self.written + self.scored + self.trained

    def flops(self, generator_parameters: int, scorer_parameters: int) -> float:
        """By the usual count: 2 a parameter and token forward, 6 forward and back. Parameters without embeddings; attention, of which
        there is little at these lengths, is not in it."""
        forward = (self.generated + self.written) * generator_parameters + self.scored * scorer_parameters
        return 2 * forward + 6 * self.trained * scorer_parameters


def work_of(corpus: Corpus, config: RunConfig, model_bytes: float, label_pairs: int = 0, label_shard_rows: int = 1) -> list[Work]:
    """The stages of `readqg run` in order; with `label_pairs`, labelling that many pairs stands first.

    `model_bytes`: the cross-encoder's weights in float32."""
    stages = [_label(corpus, config, label_pairs, label_shard_rows)] if label_pairs else []
    stages.append(Work("import", corpus.documents, "documents", "documents", disk_bytes=0.45 * corpus.documents * corpus.text_bytes,
                       shards=-(-corpus.documents // config.documents.shard_rows)))
    if corpus.queries:
        stages.append(Work("retrieve", corpus.queries, "queries", "queries x documents",
                           disk_bytes=corpus.queries * config.retrieve.top_k * _RUN_ROW_BYTES,
                           shards=-(-corpus.queries // config.retrieve.shard_queries)))
    if config.queries is None:
        stages.append(_generate(corpus, config))
    if config.reranker.needs_round_trip:
        queries = _queries_written(corpus, config)
        stages.append(Work("round-trip", queries, "queries", "documents squared", shards=-(-queries // config.round_trip.shard_rows),
                           disk_bytes=queries * config.round_trip.top_k * _RUN_ROW_BYTES))
    if config.reranker.needs_ratio:
        stages.append(_ratio(corpus, config))
    if config.reranker.needs_scores:
        queries = _queries_written(corpus, config)
        stages.append(Work("score-queries", queries, "pairs", "documents", disk_bytes=queries * _QUERY_ROW_BYTES,
                           scored=queries * corpus.pair_tokens(config.score_queries.max_length, corpus.written_tokens),
                           shards=-(-queries // config.score_queries.shard_rows),
                           shard_flag=("--score-queries.shard-rows", config.score_queries.shard_rows)))
    stages.append(training(corpus, config, model_bytes))
    if corpus.queries:
        stages.append(_rank(corpus, config))
    return stages


def not_counted(config: RunConfig) -> list[str]:
    """Stages that the settings ask for and `work_of` leaves out."""
    asked = {
        "coverage": config.sampling == "coverage", "select": config.queries_like is not None, "quality": config.quality is not None,
        "the bi-encoder's first stage": config.candidates == "both",
        "the sizes that until_no_gain tries": config.until_no_gain,
        "the report's grid": config.grid_documents > 0 and config.queries is None,
        "the other passages of long documents": config.rank.passages != "first",
    }
    return [stage for stage, wanted in asked.items() if wanted]


def written_for(corpus: Corpus, config: RunConfig) -> int:
    """Documents that queries are written for."""
    return min(corpus.documents, config.max_documents or corpus.documents)


def _queries_written(corpus: Corpus, config: RunConfig) -> int:
    return written_for(corpus, config) * len(config.generate.relevances) * config.generate.samples


def _label(corpus: Corpus, config: RunConfig, pairs: int, shard_rows: int) -> Work:
    tokens = pairs * corpus.pair_tokens(config.rank.max_length, corpus.query_tokens)
    return Work("label", pairs, "pairs", "pairs", scored=tokens, disk_bytes=pairs * _RUN_ROW_BYTES, shards=-(-pairs // shard_rows),
                shard_flag=("--label-shard-rows", shard_rows))


def _generate(corpus: Corpus, config: RunConfig) -> Work:
    documents, queries = written_for(corpus, config), _queries_written(corpus, config)
    # The samples of a document at one relevance share its reading.
    prefixes = documents * len(config.generate.relevances)
    read = prefixes * (corpus.prompt_tokens + corpus.mean_tokens(config.generate.document_tokens))
    return Work("generate", queries, "queries", "documents", generated=read, written=queries * corpus.written_tokens,
                disk_bytes=queries * _QUERY_ROW_BYTES,
                shards=-(-documents // config.generate.shard_rows), shard_flag=("--generate.shard-rows", config.generate.shard_rows))


def _ratio(corpus: Corpus, config: RunConfig) -> Work:
    queries = _queries_written(corpus, config)
    # At r = 1 and at r = 0; the queries of a document share its reading.
    documents = written_for(corpus, config) * (corpus.prompt_tokens + corpus.mean_tokens(config.generate.document_tokens))
    return Work("ratio", queries, "queries", "documents", generated=2 * (documents + queries * corpus.written_tokens),
                disk_bytes=queries * _QUERY_ROW_BYTES, shards=-(-queries // config.ratio.shard_rows),
                shard_flag=("--ratio.shard-rows", config.ratio.shard_rows))


def training(corpus: Corpus, config: RunConfig, model_bytes: float, taken: int | None = None) -> Work:
    """The re-ranker's. `taken`: its batches, where they are known, for filters drop documents that cannot be foreseen."""
    settings = config.reranker
    documents = written_for(corpus, config)
    held_out = settings.held_out(documents)
    batch = settings.written_in_batch(documents)
    steps = taken or settings.batches(documents)
    validations = 1 + -(-steps // (config.train.validate_steps * config.train.accumulation))
    pair = corpus.pair_tokens(settings.max_length, corpus.written_tokens)
    two_queries = 2 * corpus.written_tokens + _SPECIAL_TOKENS
    negative = two_queries if settings.negative_pair == "query_query" else pair
    # Eq. 5 searches k(i) among all other pairs without gradient, where no documents are mined; gradients run through the pairs chosen,
    # that of Eq. 6 and graded ones.
    passes = 0 if settings.mined else 1 if settings.search == "cached" else settings.epochs
    searched = passes * steps / settings.epochs * (batch * batch - batch) * pair
    chosen = steps * (batch + settings.replayed) * (1 + (settings.mined or 1)) * pair
    below = (len(config.generate.relevances) - 1) * (1 if config.queries_like else config.generate.samples)
    graded = steps * batch * min(settings.graded, below) * pair
    anchored = chosen if settings.w_anchor else 0.0  # the start's scores of the same pairs
    validated = validations * held_out * (CANDIDATES + 1) * pair
    disk = model_bytes * (1 + _CHECKPOINT_COPIES * (config.train.keep_checkpoints + 1))
    return Work("train", steps, "steps", "documents", scored=searched + anchored + validated,
                trained=chosen + graded + (steps * batch * negative if settings.w_mr else 0), disk_bytes=disk, sharing=batch)


def _rank(corpus: Corpus, config: RunConfig) -> Work:
    queries = min(corpus.queries, config.max_queries or corpus.queries)
    pairs = 2 * queries * config.retrieve.top_k  # the start and the tuned model
    return Work("rank", pairs, "pairs", "queries", scored=pairs * corpus.pair_tokens(config.rank.max_length, corpus.query_tokens),
                disk_bytes=pairs * _RUN_ROW_BYTES, shards=2 * -(-queries // _RANK_SHARD_QUERIES), models=2)


def total_disk(stages: Sequence[Work]) -> float:
    return sum(stage.disk_bytes for stage in stages)
