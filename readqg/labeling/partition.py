"""The first of the two stages of `pairs`: each shard of scores is sorted by a hash of the passage's id into one file with one
row group a partition, so that the second stage finds all of a passage's scores in row group k of every file.

This is the shuffle of a group-by, done with two passes over files: memory holds one shard at a time, and no worker speaks to
another.
"""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from readqg.config import PairsConfig
from readqg.corpus import Documents, input_fingerprint, read_texts
from readqg.errors import InputError, RunError
from readqg.labeling.scores import SCORES, ScoreSet
from readqg.stage import ShardStage


def partition_of(ids: pl.Series, partitions: int) -> np.ndarray:
    """The partition of every id, (n,) int32: its CRC-32, which is the same everywhere and for good, modulo `partitions`."""
    unique = ids.unique()
    hashes = np.fromiter((zlib.crc32(i.encode("utf-8", "surrogatepass")) for i in unique), np.uint32, len(unique))
    places = pl.DataFrame({"id": unique, "partition": (hashes % partitions).astype(np.int32)})
    return pl.DataFrame({"id": ids}).join(places, on="id", how="left", maintain_order="left")["partition"].to_numpy()


class PartitionStage(ShardStage):
    """Scores (query_id, doc_id, score) to the same rows, partitioned; one file a shard of `shard_rows` rows.

    Left out and counted: pairs without a score, and those whose passage or query is not known."""

    name = "partition"
    schema = SCORES.append(pa.field("partition", pa.int32()))
    key = ()
    needs_model = False

    def __init__(self, config: PairsConfig, scores: ScoreSet) -> None:
        self.config = config
        self.scores = scores
        self._counts: dict[str, float] = {}

    def inputs(self) -> dict[str, str]:
        """Fingerprints of what is read."""
        return pairs_inputs(self.config, self.scores)

    def models(self) -> dict[str, str]:
        return {}

    @property
    def total(self) -> int:
        return -(-self.scores.rows // self.config.shard_rows)

    def read(self, index: int) -> pa.Table:
        return self.scores.read(index * self.config.shard_rows, (index + 1) * self.config.shard_rows)

    def compute(self, table: pa.Table) -> pa.Table:
        rows = pl.from_arrow(table)
        assert isinstance(rows, pl.DataFrame)
        scored = rows.filter(pl.col("score").is_not_null())
        known = scored.with_columns(
            passage_known=pl.col("doc_id").is_in(known_documents(self.config.documents).implode()),
            query_known=pl.col("query_id").is_in(query_texts(self.config.queries)["query_id"].implode()),
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

    def metrics(self) -> dict[str, float]:
        return self._counts


def check_known(config: PairsConfig, scores: ScoreSet, counts: dict[str, float], unscored: int) -> None:
    """Refuse a score set that belongs to other texts. `counts` are those of the partitioned folder's `_SUCCESS`.

    Raises `InputError` where no passage or query is known, `RunError` where the unknown are more than
    `config.max_unknown_share`."""
    left_out = int(counts["inputs"] - counts["rows"]) - unscored
    scored = int(counts["inputs"]) - unscored
    if left_out <= config.max_unknown_share * scored:
        return
    found = f"{scores.name}: {left_out} of {scored} scored pairs name a passage that is not in {config.documents}, or a query " \
            f"that is not in {config.queries}; the first: {_first_unknown(config, scores)}."
    if left_out == scored:
        raise InputError(found + " Are these the texts that were scored?")
    raise RunError(found + f" That is more than the allowed share of {config.max_unknown_share:g} (max_unknown_share).")


def _first_unknown(config: PairsConfig, scores: ScoreSet) -> str:
    documents = set(known_documents(config.documents))
    queries = set(query_texts(config.queries)["query_id"])
    for start in range(0, scores.rows, config.shard_rows):
        for row in scores.read(start, start + config.shard_rows).to_pylist():
            if row["score"] is not None and (row["doc_id"] not in documents or row["query_id"] not in queries):
                kind = "passage" if row["doc_id"] not in documents else "query"
                return f"{kind} {row['doc_id' if kind == 'passage' else 'query_id']!r}"
    raise AssertionError("called where there is an unknown id")


def pairs_inputs(config: PairsConfig, scores: ScoreSet) -> dict[str, str]:
    """Fingerprints of the three inputs of `pairs`."""
    return {
        "scores": scores.fingerprint,
        "queries": input_fingerprint(config.queries, "queries"),
        "documents": input_fingerprint(config.documents, "documents"),
    }


@lru_cache(maxsize=1)
def documents_of(path: str) -> Any:
    """The documents, opened once in a process."""
    return Documents.open(path)


@lru_cache(maxsize=1)
def known_documents(path: str) -> pl.Series:
    """The ids of the documents; kept for the shards to come in this process."""
    return pl.Series("doc_id", list(documents_of(path).ids), pl.String)


@lru_cache(maxsize=1)
def query_texts(path: str) -> pl.DataFrame:
    """query_id and query of all queries; kept for the shards to come in this process."""
    texts = read_texts(path)
    return pl.DataFrame({"query_id": list(texts.keys()), "query": list(texts.values())},
                        schema={"query_id": pl.String, "query": pl.String})
