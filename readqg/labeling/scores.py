"""Score sets in: a scores folder, a Parquet file, or the public gzipped pickle of MS MARCO scores (converted once)."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from readqg.corpus.files import opened
from readqg.errors import InputError
from readqg.frames import pl
from readqg.labeling.pickled import pickle_to_parquet
from readqg.places import Place, place_of, readable
from readqg.shards import open_input, sha256_file

log = logging.getLogger("readqg")

_PICKLE_MAGIC = b"\x80"
_ROWS_A_GROUP = 1 << 18
SCORES = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("score", pa.float32())])


@dataclass(frozen=True)
class ScoreSet:
    """Scored pairs in Parquet files; rows are numbered through the files in order. Small and picklable."""

    name: str
    files: tuple[Place, ...]
    rows_of: tuple[int, ...]

    fingerprint: str

    @property
    def rows(self) -> int:
        return sum(self.rows_of)

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows `start` to `stop` (exclusive) as `SCORES`; a score is null where its pair could not be scored."""
        tables, seen = [SCORES.empty_table()], 0
        for file, rows in zip(self.files, self.rows_of, strict=True):
            low, high = max(start - seen, 0), min(stop - seen, rows)
            if low < high:
                tables.extend(table.cast(SCORES) for table in rows_of_file(file, low, high, SCORES.names))
            seen += rows
        return pa.concat_tables(tables)


def open_scores(path: str | Place, converted: Place, max_pickle_bytes: int) -> ScoreSet:
    """Open a scores folder, a Parquet file with the columns query_id, doc_id, score, or a pickle, gzipped or not, of
    {query_id: {doc_id: score}}. A pickle is written as Parquet into the folder `converted` first, once.

    Raises `InputError` where it is absent, of no such kind, lacks a column, or holds no row."""
    path, converted = place_of(path).absolute(), converted.absolute()
    if path.is_dir():
        folder = open_input(path, tuple(SCORES.names))
        files, fingerprint = tuple(folder.parts), folder.fingerprint
    elif path.is_file():
        files, fingerprint = (path,), sha256_file(path)
        if not _is_parquet(path):
            files = (converted / f"_scores-{fingerprint[:16]}.parquet",)
            if not files[0].exists():
                log.info("%s is written as Parquet first, to %s", path, files[0])
                pickle_to_parquet(path, files[0], max_pickle_bytes, _ROWS_A_GROUP)
    else:
        raise InputError(f"{path}: no such file or folder. Give a scores folder, a Parquet file or a gzipped pickle of scores.")
    rows_of = [_rows_of(file) for file in files]
    if not sum(rows_of):
        raise InputError(f"{path} holds no scored pair.")
    return ScoreSet(str(path), files, tuple(rows_of), fingerprint)


def _is_parquet(path: Place) -> bool:
    """True for Parquet, false for what may be a pickle, by the first bytes; the name says nothing."""
    with opened(path) as file:
        start = file.read(4)
    if start != b"PAR1" and not start.startswith(_PICKLE_MAGIC):
        raise InputError(f"{path} begins with {start!r}: neither Parquet nor a pickle (protocol 2 or newer), gzipped or not. "
                         "Scores are read from these, or from the output folder of `readqg label`.")
    return start == b"PAR1"


def _rows_of(file: Place) -> int:
    try:
        parquet = pq.read_metadata(readable(file))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{file} cannot be read as Parquet: {error}. Fetch or make it again.") from None
    schema = parquet.schema.to_arrow_schema()
    lacking = [name for name in SCORES.names if name not in schema.names]
    if lacking:
        raise InputError(f"{file} has no column {', '.join(lacking)}; it has {', '.join(schema.names)}. "
                         "Scores need query_id, doc_id and score.")
    score = schema.field("score").type
    if not (pa.types.is_floating(score) or pa.types.is_integer(score)):
        raise InputError(f"{file}: column score holds {score}; it must hold numbers, the cross-encoder's raw logits.")
    return int(parquet.num_rows)


def check_scores(scores: ScoreSet) -> int:
    """Look once through all scores; returns how many are null (pairs that `label` could not score).

    Raises `InputError` for a missing id, for NaN or an infinite score (with file and row), for a set without any score, and
    for one that lies wholly within [0, 1]: those went through a sigmoid, and the boundary at 0 means nothing there."""
    nulls, low, high = 0, float("inf"), float("-inf")
    for file in scores.files:
        score = pl.col("score").cast(pl.Float32)
        facts = pl.scan_parquet(readable(file)).select(
            nulls=score.null_count(), low=score.min(), high=score.max(), bad=(~score.is_finite()).sum(),
            no_id=(pl.col("query_id").is_null() | pl.col("doc_id").is_null()).sum(),
        ).collect().row(0, named=True)
        if facts["bad"] or facts["no_id"]:
            raise InputError(_first_bad_row(file))
        nulls += facts["nulls"]
        low, high = min(low, _or(facts["low"], low)), max(high, _or(facts["high"], high))
    if nulls == scores.rows:
        raise InputError(f"{scores.name}: not one of its {nulls} pairs has a score.")
    if low >= 0 and high <= 1:
        raise InputError(
            f"{scores.name}: all scores lie within [0, 1] (from {low:g} to {high:g}), so they went through a sigmoid, and the "
            "boundary of 0 between positives and negatives means nothing. Give raw logits; `readqg label` stores them.")
    return nulls


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def _first_bad_row(file: Place) -> str:
    rows = pl.scan_parquet(readable(file)).select("query_id", "doc_id", "score").with_row_index("row")
    score = pl.col("score").cast(pl.Float32)
    lacking = pl.col("query_id").is_null() | pl.col("doc_id").is_null()
    row = rows.filter(lacking | ~score.is_finite()).head(1).collect().row(0, named=True)
    found = f"query {row['query_id']!r}, passage {row['doc_id']!r}, score {row['score']}"
    return (f"{file}, row {row['row']} (counted from 0): {found}. Every pair needs both ids and a finite score; "
            "mend or remove that row.")


def rows_of_file(file: Place, start: int, stop: int, columns: list[str]) -> Iterator[pa.Table]:
    """Rows `start` to `stop` (exclusive) of one file, reading only the row groups that hold them."""
    parquet, seen = pq.ParquetFile(readable(file), page_checksum_verification=True), 0
    for group in range(parquet.num_row_groups):
        rows = parquet.metadata.row_group(group).num_rows
        low, high = max(start - seen, 0), min(stop - seen, rows)
        if low < high:
            table = parquet.read_row_group(group, columns=columns).slice(low, high - low)
            yield pa.table({name: _plain(table[name]) for name in columns})
        seen += rows


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.cast(column, column.type.value_type) if pa.types.is_dictionary(column.type) else column
