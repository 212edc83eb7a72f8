"""`readqg label`: candidate (query, passage) pairs to a cross-encoder's raw logits (method, section 1)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pyarrow as pa

from readqg import models
from readqg.config import LabelConfig
from readqg.labeling.candidates import candidates_fingerprint, open_candidates
from readqg.labeling.texts import Texts
from readqg.places import place_of
from readqg.stage import ShardStage
from readqg.tokenizing import EncodedPairs, PairTokenizer


class LabelStage(ShardStage):
    """A row is a pair, in the order of the candidates. A score is the logit as it is (identity activation).

    A pair that cannot be scored (an unknown id, no text, no finite number from the model) has no score and says why in
    `error`. Raises `InputError` or `ModelError` for inputs or a model that cannot be read, before any worker starts."""

    name = "label"
    schema = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("score", pa.float32()), ("error", pa.string())])
    key = ("query_id", "doc_id")

    def __init__(self, config: LabelConfig) -> None:
        self.config = config
        candidates = str(place_of(config.candidates).absolute())
        self.texts = Texts(config.queries, config.documents)
        self._inputs = {"candidates": candidates_fingerprint(candidates), **self.texts.fingerprints}
        self.candidates = open_candidates(candidates, self._inputs["candidates"], place_of(config.out))
        self._total = -(-self.candidates.rows // config.shard_rows)

    @property
    def total(self) -> int:
        return self._total

    def inputs(self) -> dict[str, str]:
        return self._inputs

    def models(self) -> dict[str, str]:
        return {"cross-encoder": models.fingerprint(self.config.model)}

    def read(self, index: int) -> pa.Table:
        """Pairs: query_id, doc_id."""
        return self.candidates.read(index * self.config.shard_rows, (index + 1) * self.config.shard_rows)

    def prepare(self, table: pa.Table) -> pa.Table:
        """Adds `_why_not` (null, or why the pair cannot be scored) and the pair's `_input_ids` and `_type_ids` (of one that
        cannot: empty lists)."""
        pairs = list(zip(table["query_id"].to_pylist(), table["doc_id"].to_pylist(), strict=True))
        known = list(dict.fromkeys(doc_id for _, doc_id in pairs if doc_id in self.texts.documents))
        passages = dict(zip(known, self.texts.documents.texts(known), strict=True))
        queries = self.texts.queries
        why_not = [_why_not(query_id, queries.get(query_id), doc_id, passages.get(doc_id)) for query_id, doc_id in pairs]
        sound = np.array([reason is None for reason in why_not], dtype=bool)
        tokenize = _tokenizer(models.resolve(self.config.model), self.config.max_length)
        encoded = tokenize([(queries[q], passages[d]) for (q, d), is_sound in zip(pairs, sound, strict=True) if is_sound])
        table = table.append_column("_why_not", pa.array(why_not, pa.string()))
        for name, tokens in zip(("_input_ids", "_type_ids"), encoded.to_arrow(), strict=True):
            table = table.append_column(name, _spread(tokens, sound))
        return table

    def load(self) -> None:
        from readqg import devices
        from readqg.crossencoder import CrossEncoderScorer

        devices.set_threads(self.config.compute)
        device, dtype = devices.device_and_dtype(self.config.compute)
        folder = models.resolve(self.config.model)
        self._scorer = CrossEncoderScorer(folder, self.config.max_length, self.config.batch_tokens, device, dtype)

    def compute(self, table: pa.Table) -> pa.Table:
        sound = table["_why_not"].is_null().to_numpy()
        encoded = table.filter(pa.array(sound)).select(["_input_ids", "_type_ids"]).combine_chunks()
        logits = np.full(table.num_rows, np.nan, dtype=np.float32)
        logits[sound] = self._scorer.score_encoded(EncodedPairs.from_arrow(*(c.combine_chunks() for c in encoded.columns)))
        why_not = table["_why_not"].to_pylist()
        errors = [reason or _not_finite(logit) for reason, logit in zip(why_not, logits.tolist(), strict=True)]
        scores = pa.array(logits, mask=~np.isfinite(logits))
        return pa.table([table["query_id"], table["doc_id"], scores, pa.array(errors, pa.string())], schema=self.schema)

    def metrics(self) -> dict[str, float]:
        """Of the last `compute`: tokens scored, and how often running out of memory halved the batches."""
        return {"tokens": self._scorer.last_tokens, "halvings": self._scorer.last_halvings}


def _why_not(query_id: str, query: str | None, doc_id: str, passage: str | None) -> str | None:
    if query is None:
        return f"query {query_id!r} is not among the queries, or has no text"
    if passage is None:
        return f"passage {doc_id!r} is not among the documents"
    return None if passage else f"passage {doc_id!r} has no text"


def _not_finite(logit: float) -> str | None:
    return None if np.isfinite(logit) else f"the model's score is {logit}"


def _spread(tokens: pa.Array, sound: np.ndarray) -> pa.Array:
    """The rows of `tokens` at the places where `sound`, empty lists at the others."""
    lengths = np.zeros(len(sound), dtype=np.int32)
    lengths[sound] = tokens.value_lengths().to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, tokens.flatten())


@lru_cache(maxsize=2)
def _tokenizer(folder: str, max_length: int) -> PairTokenizer:
    return PairTokenizer(folder, max_length)
