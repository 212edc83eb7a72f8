"""The first of the two stages of `pairs`: each shard of scores is sorted by a hash of the passage's id into one file with one
row group a partition, so that the second stage finds all of a passage's scores in row group k of every file.

This is the shuffle of a group-by, done with two passes over files: memory holds one shard at a time, and no worker speaks to
another.
"""

from __future__ import annotations

import zlib

import numpy as np
import polars as pl
import pyarrow as pa

from readqg.config import PairsConfig
from readqg.errors import InputError, RunError
from readqg.labeling.scores import SCORES, ScoreSet
from readqg.labeling.texts import Texts
from readqg.stage import ShardStage


def partition_of(ids: pl.Series, partitions: int) -> np.ndarray:
    """The partition of every id, (n,) int32: its CRC-32, which is the same everywhere and for good, modulo `partitions`."""
    unique = ids.unique()
    hashes = np.fromiter((zlib.crc32(i.encode()) for i in unique), np.uint32, len(unique))
    places = pl.DataFrame({"id": unique, "partition": (hashes % partitions).astype(np.int32)})
    return pl.DataFrame({"id": ids}).join(places, on="id", how="left", maintain_order="left")["partition"].to_numpy()


class PartitionStage(ShardStage):
    """Scores (query_id, doc_id, score) to the same rows, partitioned; one file a shard of `shard_rows` rows.

    Left out and counted: pairs without a score, and those whose passage or query is not known (for a query: or has no text)."""

    name = "partition"
    schema = SCORES.append(pa.field("partition", pa.int32()))
    key = ()
    needs_model = False
    independent_rows = False

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

    def load(self) -> None:
        self._passages, self._queries = self.texts.passage_ids.implode(), self.texts.query_table["query_id"].implode()

    def compute(self, table: pa.Table) -> pa.Table:
        rows = pl.DataFrame(pl.from_arrow(table))
        scored = rows.filter(pl.col("score").is_not_null())
        known = scored.with_columns(
            passage_known=pl.col("doc_id").is_in(self._passages), query_known=pl.col("query_id").is_in(self._queries),
        )
        kept = known.filter(pl.col("passage_known") & pl.col("query_known")).select(SCORES.names)
        self._counts = {
            "unscored": rows.height - scored.height,
            "unknown_passage": known.filter(~pl.col("passage_known")).height,
            "unknown_query": known.filter(pl.col("passage_known") & ~pl.col("query_known")).height,
        }
        kept = kept.with_columns(partition=partition_of(kept["doc_id"], self.config.partitions))
        return kept.sort("partition", "doc_id", "query_id", "score").to_arrow().cast(self.schema)

    def row_groups(self, table: pa.Table) -> list[int]:
        lengths: list[int] = np.bincount(table["partition"].to_numpy(), minlength=self.config.partitions).tolist()
        return lengths

    def counts(self) -> dict[str, int]:
        return self._counts


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

