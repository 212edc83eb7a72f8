"""Batches of training triples: which documents a step holds, and a worker's share of them, tokenised.

Which documents a step holds is a function of (seed, step) and the set of documents alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, cycle, islice

import numpy as np
import pyarrow as pa

from readqg.config import TrainRerankerConfig
from readqg.corpus import Documents
from readqg.reranker.examples import Examples, Triple
from readqg.reranker.replay import Replay
from readqg.shards import stable_hash
from readqg.tokenizing import EncodedPairs, PairTokenizer
from readqg.workers import Workers


class Batches:
    """Which documents a batch holds.

    Every epoch is a permutation of all documents, keyed by (seed, epoch). Its last batch, if short, is filled up with the
    first documents of the same permutation: every document is seen in every epoch, all batches are of one size, and no
    document is twice in a batch. With fewer documents than `batch`, a batch is all of them. `fixed`: every epoch has the batches
    of the first, their queries too, in another order. `others`: the negative of a document is the positive of the one after it in the
    permutation."""

    def __init__(self, examples: Examples, batch: int, seed: int, fixed: bool = False, others: bool = False):
        self.examples, self.seed, self.fixed, self.others = examples, seed, fixed, others
        self.size = min(batch, len(examples))
        self.per_epoch = -(-len(examples) // self.size)
        self._orders: dict[tuple[str, int], np.ndarray] = {}

    def triples(self, number: int) -> list[Triple]:
        """Batch `number` (0-based)."""
        epoch, place = 0 if self.fixed else number // self.per_epoch, self.place(number)
        order = self._permutation("", epoch, len(self.examples))
        places = np.arange(place * self.size, (place + 1) * self.size) % len(order)
        triples = [self.examples.triple(int(row), epoch) for row in order[places]]
        if not self.others:
            return triples
        following = [self.examples.triple(int(row), epoch).positive for row in order[(places + 1) % len(order)]]
        return [_with_negative(triple, query) for triple, query in zip(triples, following, strict=True)]

    def place(self, number: int) -> int:
        """Where batch `number` lies in its epoch's permutation; fixed batches keep their place whatever the epoch."""
        epoch, place = divmod(number, self.per_epoch)
        return int(self._permutation("batches ", epoch, self.per_epoch)[place]) if self.fixed and epoch else place

    def _permutation(self, what: str, epoch: int, size: int) -> np.ndarray:
        if (what, epoch) not in self._orders:
            kept = {key: order for key, order in self._orders.items() if key[0] != what}
            key = stable_hash(f"{what}{epoch}", self.seed)
            self._orders = {**kept, (what, epoch): np.random.Generator(np.random.Philox(key=key)).permutation(size).astype(np.uint32)}
        return self._orders[what, epoch]


def _with_negative(triple: Triple, query: str) -> Triple:
    return triple if _words(triple.positive) == _words(query) else replace(triple, negative=query)


def _words(query: str) -> str:
    return " ".join(query.lower().split())


@dataclass(frozen=True)
class Batch:
    """A worker's b of the B documents of a batch, its pairs tokenised: document i here is document `first` + i of the batch. Row
    i * columns + j of `encoded` is (q_i, j-th of its documents); row b * columns + e is the pair of Eq. 6 of the e-th document that
    has one, `negatives[e]`; then come `below` further queries with their documents; last 1 + n rows for each of this worker's
    `replayed` documents, the positive pair first.

    The documents of a query are the batch's, its own at column `first` + i; or, `chosen`, its own and then the mined ones, or k(i)
    where that is known."""

    number: int
    own: int
    """b."""
    columns: int
    first: int
    chosen: bool
    negatives: list[int]
    below: int
    graded: list[tuple[int, int]]
    """(asked at the higher r, asked at the lower), pairs of queries of one document: places in `own_rows` + `below_rows`."""
    replayed: int
    encoded: EncodedPairs
    duplicates: int
    """Documents whose text or positive query is another's in the batch too: for these, k(i) may be a false negative."""

    def row(self, i: int, column: int) -> int:
        return i * self.columns + column

    @property
    def own_rows(self) -> list[int]:
        """Of (q_i, d_i)."""
        return [self.row(i, 0 if self.chosen else self.first + i) for i in range(self.own)]

    @property
    def below_rows(self) -> range:
        """Of the pairs of `below`."""
        first = self.own * self.columns + len(self.negatives)
        return range(first, first + self.below)

    def replayed_rows(self) -> tuple[list[int], list[int]]:
        """Of the positive pairs, and of the negative ones, document by document."""
        start, stop = self.below_rows.stop, len(self.encoded.input_ids)
        width = (stop - start) // self.replayed if self.replayed else 1
        positive = range(start, stop, width)
        return list(positive), [row for row in range(start, stop) if row not in positive]


class BatchMaker:
    """From the triples of a step to this worker's pairs. `held_out`: documents that are not mined."""

    def __init__(
        self, config: TrainRerankerConfig, batches: Batches, documents: Documents, replay: Replay | None, held_out: frozenset[str],
    ) -> None:
        self.config, self.batches, self.documents, self.replay, self.held_out = config, batches, documents, replay, held_out

    def make(self, number: int, workers: Workers, tokenize: PairTokenizer, hardest: list[int] | None = None) -> Batch:
        """`hardest`: k(i) of all documents of the batch, where it is known."""
        triples = self.batches.triples(number)
        texts = self.documents.texts([t.doc_id for t in triples])
        first, stop = workers.span(len(triples))
        mine = triples[first:stop]
        per_query, others = self.config.mined, self.documents.texts([d for t in mine for d in self.mined(t, triples, number)])
        if hardest is not None:
            per_query, others = 1, [texts[k] for k in hardest[first:stop]]
        if per_query:
            pairs = [(t.positive, text) for i, t in enumerate(mine)
                     for text in (texts[first + i], *others[i * per_query:(i + 1) * per_query])]
        else:
            pairs = [(t.positive, text) for t in mine for text in texts]
        negatives = [i for i, t in enumerate(mine) if t.negative is not None] if self.config.w_mr else []
        pairs += [self._negative_pair(mine[i], texts[first + i]) for i in negatives]
        below, graded = 0, []
        for i, triple in enumerate(mine):
            further = self.graded(triple, number)
            pairs += [(query, texts[first + i]) for _, query in further]
            asked = [(triple.relevance, i), *((r, len(mine) + below + n) for n, (r, _) in enumerate(further))]
            graded += [(place, other) for r, place in asked for lower, other in asked if r > lower]
            below += len(further)
        columns = 1 + per_query if per_query else len(triples)
        replayed = workers.mine(self.replay.batch(number)) if self.replay else []
        pairs += chain.from_iterable(replayed)
        return Batch(number, len(mine), columns, first, per_query > 0, negatives, below, graded, len(replayed), tokenize(pairs),
                     _duplicates(triples, texts))

    def graded(self, triple: Triple, number: int) -> list[tuple[float, str]]:
        """(r, query): some of a document's queries at r under 1, no two of the same words, and none of the positive's."""
        if not triple.below:
            return []
        words, drawn = {_words(triple.positive)}, list[tuple[float, str]]()
        for i in self._random("graded", triple, number).permutation(len(triple.below)):
            if len(drawn) == self.config.graded:
                break
            row = self.batches.examples.of(triple.doc_id, triple.below[i])
            if _words(row["query"]) not in words:
                words.add(_words(row["query"]))
                drawn.append((row["relevance"], row["query"]))
        return drawn

    def mined(self, triple: Triple, triples: list[Triple], number: int) -> list[str]:
        """Ids of the mined documents of a query, or of random ones, none of them held out. Where BM25 finds too few, others of the batch
        stand in; of a batch too small for that, some stand twice."""
        wanted = self.config.mined
        if not wanted:
            return []
        random = self._random("mined", triple, number)
        if self.config.mined_by == "random":
            ids = self.documents.id_column
            some = random.choice(len(ids), min(len(ids), wanted + 1 + len(self.held_out)), replace=False)
            found = [doc_id for doc_id in ids.take(pa.array(some)).to_pylist() if doc_id not in {*self.held_out, triple.doc_id}]
        else:
            found = [doc_id for doc_id in triple.found[self.config.mined_from - 1:] if doc_id not in self.held_out]
        drawn = [found[i] for i in random.permutation(len(found))[:wanted]]
        rest = [t.doc_id for t in triples if t.doc_id != triple.doc_id]
        return [*drawn, *islice(cycle(rest), wanted - len(drawn))]

    def _random(self, what: str, triple: Triple, number: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=stable_hash(f"{what} {number} {triple.doc_id}", self.config.seed)))

    def _negative_pair(self, triple: Triple, text: str) -> tuple[str, str]:
        """F(q_i, n_i), with n_i in the passage's place, or F(n_i, d_i)."""
        negative = triple.negative or ""
        return (triple.positive, negative) if self.config.negative_pair == "query_query" else (negative, text)


def _duplicates(triples: list[Triple], texts: list[str]) -> int:
    positives = [triple.positive for triple in triples]
    return sum(texts.count(text) > 1 or positives.count(query) > 1 for text, query in zip(texts, positives, strict=True))
