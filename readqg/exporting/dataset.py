"""A Hugging Face dataset folder: Parquet, and a card that says where the queries come from and what binds their use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from jinja2 import Environment, PackageLoader, StrictUndefined

from readqg.corpus import Documents
from readqg.exporting.rows import usable
from readqg.random_rows import in_order
from readqg.reranker.card import SHOWN_SETTINGS, WRITERS
from readqg.shards import InputFolder, read_json

_COLUMNS = ("doc_id", "relevance", "sample", "query", "log_likelihood", "n_tokens")
_ROWS_A_FILE = 1_000_000
_AT_A_TIME = 8192
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"),
          (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))


def to_dataset(queries: InputFolder, documents: Documents | None, counts: Counter[str], folder: Path) -> None:
    """`queries/train-*.parquet` with all usable rows at every relevance, `corpus/corpus-*.parquet` only where `documents` are given, since
    their text may not be free to publish, and `README.md`."""
    columns = [name for name in _COLUMNS if name in queries.schema.names]
    schema = pa.schema([queries.schema.field(name) for name in columns])
    tables = (usable(table, counts).select(columns) for _, table in in_order(queries, [*columns, "error"]))
    counts["rows"] = _write(folder / "queries", "train", tables, schema)
    if documents is not None:
        schema = documents.read(0, 0).schema
        tables = (documents.read(start, start + _AT_A_TIME) for start in range(0, documents.rows, _AT_A_TIME))
        counts["documents"] = _write(folder / "corpus", "corpus", tables, schema)
    (folder / "README.md").write_text(card(read_json(queries.path / "_config.json"), counts), encoding="utf-8")


def _write(folder: Path, split: str, tables: Iterator[pa.Table], schema: pa.Schema) -> int:
    """Files of about a million rows; returns the rows. Their number, which is in their names, is known at the end."""
    folder.mkdir()
    files: list[Path] = []
    writer: pq.ParquetWriter | None = None
    in_file = rows = 0
    try:
        for table in tables:
            if writer is None or in_file >= _ROWS_A_FILE:
                if writer is not None:
                    writer.close()
                files.append(folder / f"{len(files):05d}")
                writer, in_file = pq.ParquetWriter(files[-1], schema, compression="zstd"), 0
            writer.write_table(table.cast(schema))
            in_file += table.num_rows
            rows += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    for number, file in enumerate(files):
        file.rename(folder / f"{split}-{number:05d}-of-{len(files):05d}.parquet")
    return rows


def card(begun: dict[str, Any], counts: Counter[str]) -> str:
    """The card in Markdown, with the hub's front matter. `begun`: `_config.json` of the queries."""
    environment = Environment(loader=PackageLoader("readqg.exporting", "."), undefined=StrictUndefined, keep_trailing_newline=True,
                              trim_blocks=True)
    wrote = begun["stage"] in WRITERS
    settings = {name: begun["config"][name] for name in SHOWN_SETTINGS if wrote and name in begun.get("config", {})}
    size = next((name for limit, name in _SIZES if counts["rows"] < limit), "1B<n<10B")
    return environment.get_template("dataset_card.md.j2").render(
        counts=counts, settings=settings, size=size, inputs=begun.get("inputs", {}),
        models=begun.get("models", {}) if wrote else {}, stage=begun["stage"],
        version=begun.get("versions", {}).get("readqg", "unknown"))
