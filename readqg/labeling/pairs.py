"""Scores to document-centric pairs: every passage with positive and negative queries and their relevance (method, section 1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from readqg.config import PairsConfig, identity
from readqg.frames import pl
from readqg.labeling.partition import LAYOUT, PASSAGE, QUERY, PartitionStage, TextPartitionStage, check_known
from readqg.labeling.rules import REASONS, choose
from readqg.labeling.scores import ScoreSet, check_scores, open_scores
from readqg.labeling.texts import Texts
from readqg.places import Place, place_of, readable
from readqg.shards import OutputFolder, open_input
from readqg.stage import ShardStage

PARTITIONED, PARTITIONED_TEXTS = "_partitioned", "_partitioned-texts"
_DROPPED = (*REASONS, "no_text")
_QUERY = pa.struct([("query_id", pa.string()), ("query", pa.string()), ("score", pa.float32()), ("relevance", pa.float32())])
_ROWS_IN_GROUP = 512
_SCORED = pa.struct([(QUERY, pa.int32()), ("score", pa.float32())])


class PairsStage(ShardStage):
    """Partition k of the scores to shard k of the pairs, passages in the order of doc_id. An input row is a passage with
    all its scores; one that the rule drops has no output row and is counted with its reason."""

    name = "pairs"
    schema = pa.schema([("doc_id", pa.string()), ("text", pa.string()), ("positives", pa.list_(_QUERY)),
                        ("negatives", pa.list_(_QUERY)), ("error", pa.string())])
    key = ("doc_id",)
    needs_model = False
    independent_rows = False

    def __init__(self, config: PairsConfig, scores: ScoreSet, texts: Texts) -> None:
        self.config = config
        self.texts = texts
        self.partitioned = (place_of(config.out) / PARTITIONED).absolute()
        self.partitioned_texts = (place_of(config.out) / PARTITIONED_TEXTS).absolute()
        self._inputs = {"scores": scores.fingerprint, **texts.fingerprints, **LAYOUT}
        self._counts: dict[str, int] = {}

    def inputs(self) -> dict[str, str]:
        return self._inputs

    @property
    def total(self) -> int:
        return self.config.partitions

    def read(self, index: int) -> pa.Table:
        """(doc_id, text, duplicates, scored: list of {query, score}), a row a passage; a pair scored twice keeps its highest."""
        rows = _row_group(self.partitioned, index, [PASSAGE, QUERY, "score"])
        pairs = rows.group_by(PASSAGE, QUERY).agg(pl.col("score").max(), times=pl.len())
        passages = pairs.group_by(PASSAGE).agg(
            scored=pl.struct(QUERY, "score"), duplicates=(pl.col("times") - 1).sum().cast(pl.Int64))
        texts = _row_group(self.partitioned_texts, index, [PASSAGE, "doc_id", "text"])
        return passages.join(texts, on=PASSAGE).select("doc_id", "text", "duplicates", "scored").sort("doc_id").to_arrow().cast(pa.schema(
            [("doc_id", pa.string()), ("text", pa.string()), ("duplicates", pa.int64()), ("scored", pa.list_(_SCORED))]))

    def compute(self, table: pa.Table) -> pa.Table:
        passages = pl.DataFrame(pl.from_arrow(table)).with_row_index(PASSAGE)
        # Numbers stand for the ids: both in the ids' order.
        scored = passages.select("scored", doc_id=PASSAGE).explode("scored").unnest("scored").rename({QUERY: "query_id"})
        chosen, dropped = choose(scored, self.config.rule, self.config.m)
        queries = self.texts.query_table[chosen["query_id"]]
        query = pl.struct(*queries.columns, "score", "relevance")
        kept = chosen.with_columns(queries).group_by("doc_id", maintain_order=True).agg(
            positives=query.filter(pl.col("positive")), negatives=query.filter(~pl.col("positive")))
        kept = passages[kept["doc_id"]].select("doc_id", "text").with_columns(kept.select("positives", "negatives"))
        with_text = kept.filter(pl.col("text") != "").with_columns(error=pl.lit(None, pl.String))
        dropped["no_text"] = kept.height - with_text.height
        self._counts = {
            "passages": passages.height, "duplicates": int(passages["duplicates"].sum()),
            **{f"dropped_{reason}": dropped[reason] for reason in _DROPPED},
        }
        return with_text.select(self.schema.names).to_arrow().cast(self.schema)

    def row_groups(self, table: pa.Table) -> list[int]:
        """Small ones: training reads passages in random order, a row group for each."""
        return [min(_ROWS_IN_GROUP, table.num_rows - first) for first in range(0, table.num_rows, _ROWS_IN_GROUP)]

    def counts(self) -> dict[str, int]:
        return self._counts


def make_pairs(config: PairsConfig, run: Callable[[ShardStage, OutputFolder], Any]) -> dict[str, Any]:
    """Scores to pairs in `config.out`, with the partitioned scores in its subfolder `_partitioned`; returns `pairs_summary`.

    `run(stage, folder)` runs a shard stage into a folder that was begun. Raises `InputError` for scores that cannot be used,
    `RunError` where too many of them name unknown texts, `FolderError` where `config.out` was begun with something else."""
    texts = Texts(config.queries, config.documents)
    scores = open_scores(config.scores, place_of(config.out), config.max_pickle_bytes)
    unscored = check_scores(scores)
    pairs, partition = PairsStage(config, scores, texts), PartitionStage(config, scores, texts)
    partition_texts = TextPartitionStage(config, texts)
    out = _begin(pairs, config, place_of(config.out))
    partitioned = _begin(partition, config, pairs.partitioned)
    run(partition_texts, _begin(partition_texts, config, pairs.partitioned_texts))
    run(partition, partitioned)
    check_known(partition, open_input(partitioned.path).success["counts"], unscored)
    run(pairs, out)
    return pairs_summary(out.path)


def _row_group(folder: Place, index: int, columns: list[str]) -> pl.DataFrame:
    """Row group `index` of every part."""
    parts = open_input(folder).parts
    groups = [pq.ParquetFile(readable(p), page_checksum_verification=True).read_row_group(index, columns=columns) for p in parts]
    return pl.DataFrame(pl.from_arrow(pa.concat_tables(groups)))


def _begin(stage: ShardStage, config: PairsConfig, path: Place) -> OutputFolder:
    return OutputFolder.begin(path, stage.name, identity(config), stage.inputs(), stage.models())


def pairs_summary(out: str | Place) -> dict[str, Any]:
    """What became of the scores, of a finished pairs folder: scored pairs, those left out as unscored or unknown, duplicates;
    passages, those kept, and those dropped by reason."""
    read, made = (Counter(open_input(folder).success["counts"]) for folder in (place_of(out) / PARTITIONED, place_of(out)))
    return {
        "scored_pairs": read["inputs"] - read["unscored"],
        **{name: read[name] for name in ("unscored", "unknown_passage", "unknown_query")},
        "duplicates": made["duplicates"], "passages": made["passages"], "kept": made["rows"],
        "dropped": {reason: made[f"dropped_{reason}"] for reason in _DROPPED},
    }
