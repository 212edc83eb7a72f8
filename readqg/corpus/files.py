"""Rows of a file, one at a time: JSON lines, CSV, TSV, Parquet, judgments; plain or gzipped.

Nothing here knows what a document is. A line that cannot be read comes out as a `Line` with a reason, so that the caller may
set it aside and go on; what makes the whole file unreadable raises `InputError`.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from readqg.corpus.opening import MAX_LINE_BYTES, Inflated, bounded_lines, opened
from readqg.errors import InputError
from readqg.places import Place

SUFFIXES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
_PARQUET_BATCH_ROWS = 512
_TSV_LINES_IN_QUOTES = 200
_EXCERPT_CHARS = 200


@dataclass(frozen=True)
class Line:
    """One row: where it is (1-based line, or row of a Parquet file) and its fields, or why it has none."""

    number: int
    fields: dict[str, Any] | None
    reason: str = ""
    excerpt: str = ""
    file: str = ""
    """Of a source of several files: which, relative to it."""
    page: int = 0
    """Of a file that has pages, from 1; 0: the line is not of one page."""

    @property
    def where(self) -> str:
        """For a message."""
        if not self.file:
            return f"line {self.number}"
        return self.file + (f", page {self.page}" if self.page else f", row {self.number}" if self.number else "")


def file_format(path: Place) -> str:
    """The suffix that says how to read `path`, without `.gz`."""
    suffixes = [s.lower() for s in path.suffixes if s.lower() != ".gz"]
    return suffixes[-1] if suffixes else ""


def read_lines(path: Place) -> Iterator[Line]:
    """The rows of a file of documents or queries.

    Raises `InputError` where the file cannot be opened, has an unknown suffix, is damaged or is a gzip bomb."""
    readers = dict(zip(SUFFIXES, (_json_lines, _json_lines, _csv_records, _tsv_records, parquet_rows), strict=True))
    suffix = file_format(path)
    if suffix not in readers:
        known = ", ".join(SUFFIXES)
        raise InputError(f"{path}: unknown kind of file ({suffix or 'no suffix'}). Known: {known}, each also with .gz.")
    return readers[suffix](path)


def read_judgment_lines(path: Place) -> Iterator[Line]:
    """The rows of a file of judgments: BEIR's three tab-separated columns, TREC's four, or any of the formats above."""
    if file_format(path) in (".jsonl", ".ndjson", ".csv", ".parquet"):
        return read_lines(path)
    return _qrels(path)


def columns(path: Place) -> list[str] | None:
    """Column names of a CSV, TSV or Parquet file; None for JSON lines, where each line has its own."""
    suffix = file_format(path)
    if suffix == ".parquet":
        with _parquet(path) as parquet:
            return list(parquet.schema_arrow.names)
    if suffix not in (".csv", ".tsv"):
        return None
    with opened(path) as file:
        first = next(_text_lines(path, file), (1, ""))[1]
    return next(csv.reader([first], delimiter="\t" if suffix == ".tsv" else _delimiter(first)), [])


def _delimiter(header: str) -> str:
    """Of a CSV file: a comma, or what Excel writes in its place where decimals have the comma."""
    return next((mark for mark in (",", ";", "\t") if mark in header), ",")


def _json_lines(path: Place) -> Iterator[Line]:
    with opened(path) as file:
        for number, raw in bounded_lines(file):
            if raw is None:
                yield Line(number, None, f"the line is longer than {MAX_LINE_BYTES:,} bytes")
            elif raw.strip():
                yield _json_line(number, raw)


def _json_line(number: int, raw: bytes) -> Line:
    excerpt = raw[:_EXCERPT_CHARS].decode("utf-8", "replace").rstrip("\r\n")
    try:
        fields = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Line(number, None, f"not valid UTF-8 (byte {error.start + 1} of the line)", excerpt)
    except json.JSONDecodeError as error:
        return Line(number, None, f"not valid JSON: {error.msg} (character {error.colno})", excerpt)
    except (ValueError, RecursionError) as error:
        return Line(number, None, f"not usable JSON: {error}", excerpt)
    if not isinstance(fields, dict):
        return Line(number, None, f"a JSON object was expected, found {type(fields).__name__}", excerpt)
    return Line(number, fields, excerpt=excerpt)


def _text_lines(path: Place, file: BinaryIO) -> Iterator[tuple[int, str]]:
    """Bytes that are no UTF-8 become lone surrogates, which UTF-8 itself cannot hold: `_record` knows them by that."""
    for number, raw in bounded_lines(file):
        if raw is None:
            raise InputError(f"{path}, line {number}: longer than {MAX_LINE_BYTES:,} bytes. Is it a text file?")
        yield number, raw.decode("utf-8", "surrogateescape")


def _record(number: int, header: list[str], values: list[str]) -> Line:
    joined = " | ".join(values)
    excerpt = joined[:_EXCERPT_CHARS].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    try:
        joined.encode()
    except UnicodeEncodeError:
        return Line(number, None, "not valid UTF-8", excerpt)
    if len(values) != len(header):
        return Line(number, None, f"{len(values)} fields, but the header has {len(header)} ({', '.join(header)})", excerpt)
    return Line(number, dict(zip(header, values, strict=True)), excerpt=excerpt)


def _csv_records(path: Place) -> Iterator[Line]:
    csv.field_size_limit(MAX_LINE_BYTES)
    with opened(path) as file:
        lines = (text for _, text in _text_lines(path, file))
        first = next(lines, "")
        reader = csv.reader(itertools.chain([first], lines), delimiter=_delimiter(first), strict=True)
        header: list[str] = []
        while True:
            number = reader.line_num + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Line(number, None, f"not valid CSV: {error}")
                continue
            if not header:
                header = values
            elif values:
                yield _record(number, header, values)


def _tsv_records(path: Place) -> Iterator[Line]:
    """Two kinds of TSV are about: quoted like CSV, and with no quoting at all. A record is read as quoted where that works
    out, over several lines if need be, and else as one literal line, so that an odd quote does not swallow its neighbours."""
    with opened(path) as file:
        lines = _text_lines(path, file)
        header: list[str] = []
        ahead: list[tuple[int, str]] = []
        while True:
            first = ahead.pop(0) if ahead else next(lines, None)
            if first is None:
                return
            values, used = _tsv_values(first[1], len(header), lines, ahead)
            del ahead[:used]
            if not header:
                header = values
            elif values != [""]:
                yield _record(first[0], header, values)


def _tsv_values(text: str, width: int, lines: Iterator[tuple[int, str]], ahead: list[tuple[int, str]]) -> tuple[list[str], int]:
    """The fields of the record that begins with line `text`, and how many of the lines `ahead` it took; reads on as needed.
    Lines that have `width` fields each, as they stand, are records of their own even if their quotes would pair up."""
    literal = text.rstrip("\r\n").split("\t")
    if not any(value.startswith('"') for value in literal):
        return literal, 0
    all_whole = len(literal) == width
    for used in range(_TSV_LINES_IN_QUOTES):
        try:
            values = next(csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True))
            return (literal, 0) if used and all_whole else (values, used)
        except csv.Error as error:
            if "unexpected end" not in str(error):
                break
        if used == len(ahead):
            following = next(lines, None)
            if following is None:
                break
            ahead.append(following)
        text += ahead[used][1]
        all_whole = all_whole and ahead[used][1].count("\t") == width - 1
    return literal, 0


def _qrels(path: Place) -> Iterator[Line]:
    with opened(path) as file:
        for number, text in _text_lines(path, file):
            text = text.rstrip("\r\n")
            values = text.split("\t") if "\t" in text else text.split()
            if len(values) == 4:  # TREC: query, iteration, document, grade
                values = [values[0], values[2], values[3]]
            if not text.strip() or (number == 1 and values[-1:] in (["score"], ["relevance"])):
                continue
            if len(values) == 3:
                yield _record(number, ["query_id", "doc_id", "relevance"], values)
            else:
                reason = f"{len(values)} columns; expected 3 (query-id, corpus-id, score) or TREC's 4"
                yield Line(number, None, reason, text[:_EXCERPT_CHARS])


@contextmanager
def _parquet(path: Place) -> Iterator[pq.ParquetFile]:
    with opened(path) as file, tempfile.TemporaryFile() as whole:
        if isinstance(file, io.BufferedReader) and isinstance(file.raw, Inflated):
            while chunk := file.read(1 << 20):
                whole.write(chunk)
            whole.seek(0)
            file = cast(BinaryIO, whole)
        try:
            yield pq.ParquetFile(file)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(f"{path}: not a Parquet file, or damaged ({error}).") from None


def parquet_rows(path: Place) -> Iterator[Line]:
    """The rows of a Parquet file, gzipped or not."""
    with _parquet(path) as parquet:
        number = 0
        for batch in parquet.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
            for fields in batch.to_pylist():
                number += 1
                yield Line(number, fields, excerpt=str({k: str(v)[:40] for k, v in fields.items()})[:_EXCERPT_CHARS])
