"""Document-centric pairs for tests of the generator."""

from pathlib import Path
from typing import Any

import pyarrow as pa

from readqg.shards import OutputFolder
from readqg.stage import ShardResult

SIDE = pa.list_(pa.struct({"query_id": pa.string(), "query": pa.string(), "score": pa.float32(), "relevance": pa.float32()}))
PAIRS = pa.schema({"doc_id": pa.string(), "text": pa.string(), "positives": SIDE, "negatives": SIDE})


def query(name: str, text: str, score: float, relevance: float) -> dict[str, Any]:
    return {"query_id": name, "query": text, "score": score, "relevance": relevance}


def pair_row(number: int, positives: int = 2, negatives: int = 2) -> dict[str, Any]:
    """Document `number`: its positives are about its own word, its negatives about another; scores fall with the index."""
    words = ["wing", "flow", "boundary", "shock", "heat", "layer"]
    own, other = words[number % 6], words[(number + 1) % 6]
    return {
        "doc_id": f"d{number}", "text": f"the {own} of the {own} layer " * (1 + number % 3),
        "positives": [query(f"p{number}.{i}", f"what is the {own} {i}", 9.0 - i, 1.0 - i / 10) for i in range(positives)],
        "negatives": [query(f"n{number}.{i}", f"what is {other} {i} of query", -9.0 + i, i / 10) for i in range(negatives)],
    }


def write_pairs(path: Path, rows: list[dict[str, Any]], parts: int = 1, rows_per_group: int = 1_000_000) -> Path:
    """A finished pairs folder of `parts` parts, each of row groups of `rows_per_group`."""
    folder = OutputFolder.begin(path, "pairs", {"rows": len(rows)})
    for part in range(parts):
        table = pa.Table.from_pylist(rows[part * len(rows) // parts : (part + 1) * len(rows) // parts], PAIRS)
        sizes = [min(rows_per_group, table.num_rows - i) for i in range(0, table.num_rows, rows_per_group)] or None
        folder.commit(part, parts, ShardResult(table, table.num_rows, 0, 0), row_groups=sizes)
    folder.finish(parts)
    return path
