"""The first stages of `pairs`: each shard of scores, and each of passages, is grouped by a hash of the passage's id into one file with
one row group a partition, so that the last stage finds all of a passage's scores, and its text, in row group k of every file.

This is the shuffle of a join and a group-by, done with two passes over files: memory holds one shard at a time, and no worker speaks
to another.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from readqg.config import PairsConfig
from readqg.corpus import document_text
from readqg.errors import InputError, RunError
from readqg.labeling.scores import SCORES, ScoreSet
from readqg.labeling.texts import Texts
from readqg.stage import ShardStage

_TEXTS_A_SHARD = 65_536
_POLYNOMIAL = 0xEDB88320  # of CRC-32, reflected


def partition_of(ids: pl.Series, partitions: int) -> np.ndarray:
    """The partition of every id, (n,) int32: its CRC-32, which is the same everywhere and for good, modulo `partitions`."""
    text = ids.to_arrow().cast(pa.large_binary())
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    lengths, data = np.diff(offsets), np.frombuffer(text.buffers()[2] or b"", np.uint8)
    crc, rows = np.full(len(text), 0xFFFFFFFF, np.uint32), np.arange(len(text))
    for place in range(int(lengths.max(initial=0))):  # a byte of all ids at a time
        rows = rows[lengths[rows] > place]
        found = crc[rows]
        crc[rows] = _CRC_TABLE[(found ^ data[offsets[rows] + place]) & 0xFF] ^ (found >> 8)
    return ((crc ^ 0xFFFFFFFF) % partitions).astype(np.int32)


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(_POLYNOMIAL), table >> 1).astype(np.uint32)
    return table


_CRC_TABLE = _crc_table()


class _Grouped(ShardStage):
    """Rows with a partition, grouped by it. The order within a partition is the input's."""

    key = ()
    needs_model = False
    independent_rows = False
    config: PairsConfig

    def row_groups(self, table: pa.Table) -> list[int]:
        lengths: list[int] = np.bincount(table["partition"].to_numpy(), minlength=self.config.partitions).tolist()
        return lengths

    def _grouped(self, rows: pl.DataFrame) -> pa.Table:
        rows = rows.with_columns(partition=partition_of(rows["doc_id"], self.config.partitions))
        return rows.sort("partition", maintain_order=True).to_arrow().cast(self.schema)


class TextPartitionStage(_Grouped):
    """Passages to (doc_id, text = title + " " + text, partition)."""

    name = "partition-texts"
    schema = pa.schema([("doc_id", pa.string()), ("text", pa.string()), ("partition", pa.int32())])

    def __init__(self, config: PairsConfig, texts: Texts) -> None:
        self.config, self.texts = config, texts

    def inputs(self) -> dict[str, str]:
        return {"documents": self.texts.fingerprints["documents"]}

    @property
    def total(self) -> int:
        return -(-self.texts.documents.rows // _TEXTS_A_SHARD)

    def read(self, index: int) -> pa.Table:
        return self.texts.documents.read(index * _TEXTS_A_SHARD, (index + 1) * _TEXTS_A_SHARD)

    def compute(self, table: pa.Table) -> pa.Table:
        texts = [document_text(title, text) for title, text in zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True)]
        return self._grouped(pl.DataFrame({"doc_id": pl.from_arrow(table["doc_id"]), "text": texts}, schema_overrides={"text": pl.String}))


class PartitionStage(_Grouped):
    """Scores (query_id, doc_id, score) to the same rows, partitioned; one file a shard of `shard_rows` rows.

    Left out and counted: pairs without a score, and those whose passage or query is not known (for a query: or has no text)."""

    name = "partition"
    schema = SCORES.append(pa.field("partition", pa.int32()))

    def __init__(self, config: PairsConfig, scores: ScoreSet, texts: Texts) -> None:
        self.config = config
        self.scores = scores
        self.texts = texts
        self._counts: dict[str, int] = {}

    def inputs(self) -> dict[str, str]:
        return {"scores": self.scores.fingerprint, **self.texts.fingerprints}

    @property
    def total(self) -> int:
        return -(-self.scores.rows // self.config.shard_rows)

    def read(self, index: int) -> pa.Table:
        return self.scores.read(index * self.config.shard_rows, (index + 1) * self.config.shard_rows)

    def compute(self, table: pa.Table) -> pa.Table:
        rows = pl.DataFrame(pl.from_arrow(table))
        scored = rows.filter(pl.col("score").is_not_null())
        known = scored.with_columns(
            passage_known=_among(scored["doc_id"], self.texts.passage_hashes),
            query_known=_among(scored["query_id"], self.texts.query_hashes),
        )
        kept = known.filter(pl.col("passage_known") & pl.col("query_known")).select(SCORES.names)
        self._counts = {
            "unscored": rows.height - scored.height,
            "unknown_passage": known.filter(~pl.col("passage_known")).height,
            "unknown_query": known.filter(pl.col("passage_known") & ~pl.col("query_known")).height,
        }
        return self._grouped(kept)

    def counts(self) -> dict[str, int]:
        return self._counts


def _among(ids: pl.Series, hashes: np.ndarray) -> np.ndarray:
    """(n,) bool: whether each id is one of those with these hashes."""
    if not len(hashes):
        return np.zeros(len(ids), dtype=bool)
    own = ids.hash().to_numpy()
    order = np.argsort(own)  # in order, lookups find their neighbours in the processor's cache
    found = np.empty(len(own), dtype=bool)
    places = np.searchsorted(hashes, own[order])
    found[order] = hashes[np.minimum(places, len(hashes) - 1)] == own[order]
    return found


def check_known(stage: PartitionStage, counts: dict[str, float], unscored: int) -> None:
    """Refuse a score set that belongs to other texts. `counts` are those of the partitioned folder's `_SUCCESS`.

    Raises `InputError` where no pair is known, `RunError` where more than `max_unknown_share` of them are not."""
    config, scored = stage.config, int(counts["inputs"]) - unscored
    unknown = scored - int(counts["rows"])
    if unknown < scored and unknown <= config.max_unknown_share * scored:
        return
    found = (f"{stage.scores.name}: {unknown} of {scored} scored pairs name a passage that is not in {config.documents}, or a "
             f"query that is not in {config.queries} or has no text; the first: {_first_unknown(stage)}.")
    if unknown == scored:
        raise InputError(found + " Are these the texts that were scored?")
    raise RunError(found + f" That is more than the share of {config.max_unknown_share:g} that is allowed: give the texts that "
                   "were scored, or raise --max-unknown-share and give the command again.")


def _first_unknown(stage: PartitionStage) -> str:
    passages, queries = set(stage.texts.documents.ids), stage.texts.queries
    for index in range(stage.total):
        for row in stage.read(index).to_pylist():
            for kind, name, known in (("passage", "doc_id", passages), ("query", "query_id", queries)):
                if row["score"] is not None and row[name] not in known:
                    return f"{kind} {row[name]!r}"
    return "none"

