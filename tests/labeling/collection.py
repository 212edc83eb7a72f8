"""A small scored collection on disk, for the tests of `pairs`."""

import json
from pathlib import Path

import polars as pl

from readqg.config import PairsConfig
from readqg.labeling.pairs import make_pairs
from readqg.local import run_here
from readqg.shards import open_input

PASSAGES = {"d1": "wing flow", "d2": "boundary layer", "d3": "shock heat", "d4": "flow", "d5": "heat"}
QUERIES = {f"q{i}": f"what is {i}" for i in range(9)}


def write_scores(path: Path, rows) -> Path:
    """Rows of (query_id, doc_id, score)."""
    schema = {"query_id": pl.String, "doc_id": pl.String, "score": pl.Float32}
    pl.DataFrame(list(rows), schema=schema, orient="row").write_parquet(path)
    return path


def pairs_config(folder: Path, rows=None, passages=None, queries=None, **kwargs) -> PairsConfig:
    """Writes what the config names; `kwargs` are fields of it."""
    passages, queries = passages or PASSAGES, queries or QUERIES
    (folder / "corpus.jsonl").write_text("".join(
        json.dumps({"_id": i, "title": "On" if i == "d1" else "", "text": text}) + "\n" for i, text in passages.items()))
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": i, "text": text}) + "\n" for i, text in queries.items()))
    if rows is not None:
        kwargs["scores"] = str(write_scores(folder / "scores.parquet", rows))
    return PairsConfig(**{"queries": str(folder / "queries.jsonl"), "documents": str(folder / "corpus.jsonl"),
                          "out": str(folder / "out"), "partitions": 3, "shard_rows": 4, "m": 1, **kwargs})


def run_pairs(config: PairsConfig):
    """(summary, rows of the pairs folder)."""
    summary = make_pairs(config, run_here)
    return summary, open_input(config.out).read().to_pylist()
