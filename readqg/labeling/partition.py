"""The first stages of `pairs`: each shard of scores, and each of passages, is grouped by the passage's number into one file with one
row group a partition, so that the last stage finds all of a passage's scores, and its text, in row group k of every file. Ids become
numbers here, which are a tenth of the work to sort, write and read again.

This is the shuffle of a join and a group-by, done with two passes over files: memory holds one shard at a time, and no worker speaks
to another.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from readqg.config import PairsConfig
from readqg.corpus import document_text
from readqg.errors import InputError, RunError
from readqg.frames import pl
from readqg.labeling.scores import ScoreSet
from readqg.labeling.texts import Texts
from readqg.stage import ShardStage

_TEXTS_A_SHARD = 65_536
PASSAGE, QUERY = "passage", "query"
"""Columns of numbers: of the passage's row in the documents, of the query's in `Texts.query_table`."""


LAYOUT = {"partitioned by": "row"}
"""Among the inputs of all three stages: parts of another layout, which earlier versions made, are not gone on with."""


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
        rows = rows.with_columns(partition=pl.col(PASSAGE) % self.config.partitions)
        return rows.sort("partition", maintain_order=True).to_arrow().cast(self.schema)


class TextPartitionStage(_Grouped):
    """Passages to (passage, doc_id, text = title + " " + text, partition)."""

    name = "partition-texts"
    schema = pa.schema([(PASSAGE, pa.int32()), ("doc_id", pa.string()), ("text", pa.string()), ("partition", pa.int32())])

    def __init__(self, config: PairsConfig, texts: Texts) -> None:
        self.config, self.texts = config, texts

    def inputs(self) -> dict[str, str]:
        return {"documents": self.texts.fingerprints["documents"], **LAYOUT}

    @property
    def total(self) -> int:
        return -(-self.texts.documents.rows // _TEXTS_A_SHARD)

    def read(self, index: int) -> pa.Table:
        first = index * _TEXTS_A_SHARD
        table = self.texts.documents.read(first, first + _TEXTS_A_SHARD)
        return table.append_column(PASSAGE, pa.array(np.arange(first, first + table.num_rows, dtype=np.int32)))

    def compute(self, table: pa.Table) -> pa.Table:
        texts = [document_text(title, text) for title, text in zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True)]
        rows = pl.DataFrame(pl.from_arrow(table.select([PASSAGE, "doc_id"])))
        return self._grouped(rows.with_columns(text=pl.Series(texts, dtype=pl.String)))


class PartitionStage(_Grouped):
    """Scores (query_id, doc_id, score) to (passage, query, score, partition); one file a shard of `shard_rows` rows.

    Left out and counted: pairs without a score, and those whose passage or query is not known (for a query: or has no text)."""

    name = "partition"
    schema = pa.schema([(PASSAGE, pa.int32()), (QUERY, pa.int32()), ("score", pa.float32()), ("partition", pa.int32())])

    def __init__(self, config: PairsConfig, scores: ScoreSet, texts: Texts) -> None:
        self.config = config
        self.scores = scores
        self.texts = texts
        self._counts: dict[str, int] = {}

    def inputs(self) -> dict[str, str]:
        return {"scores": self.scores.fingerprint, **self.texts.fingerprints, **LAYOUT}

    @property
    def total(self) -> int:
        return -(-self.scores.rows // self.config.shard_rows)

    def read(self, index: int) -> pa.Table:
        return self.scores.read(index * self.config.shard_rows, (index + 1) * self.config.shard_rows)

    def compute(self, table: pa.Table) -> pa.Table:
        rows = pl.DataFrame(pl.from_arrow(table))
        scored = rows.filter(pl.col("score").is_not_null())
        passage, query = self.texts.passage_numbers.of(scored["doc_id"]), self.texts.query_numbers.of(scored["query_id"])
        numbered = pl.DataFrame({PASSAGE: passage, QUERY: query, "score": scored["score"]})
        kept = numbered.filter((pl.col(PASSAGE) >= 0) & (pl.col(QUERY) >= 0))
        self._counts = {
            "unscored": rows.height - scored.height,
            "unknown_passage": int((passage < 0).sum()),
            "unknown_query": int(((passage >= 0) & (query < 0)).sum()),
        }
        return self._grouped(kept)

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

