"""Candidate lists in: which passages a query is to be scored with.

They are read once, as a stream, into a Parquet file in groups of equal length, and from there by row numbers: 160 M pairs as Python
objects would take 16 GB in every process that reads shards of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from readqg import runs
from readqg.corpus.files import file_format, opened, read_lines
from readqg.errors import InputError
from readqg.labeling.scores import rows_of_file
from readqg.places import Place, place_of, readable
from readqg.shards import appearing, explained, open_input, sha256_file

log = logging.getLogger("readqg")

PAIRS = pa.schema([("query_id", pa.string()), ("doc_id", pa.string())])
_ROWS_A_GROUP = 1 << 16

Piece = tuple[int, str, list[str]]  # line, query_id, doc_ids
Lists = Iterable[tuple[str, dict[str, None]]]


@dataclass(frozen=True)
class Candidates:
    """Pairs in a Parquet file. Small and picklable."""

    file: Place
    rows: int

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows `start` to `stop` (exclusive): query_id, doc_id. Only the row groups that hold them are read."""
        return pa.concat_tables([PAIRS.empty_table(), *rows_of_file(self.file, start, stop, PAIRS.names)])


def candidates_fingerprint(path: str) -> str:
    """Identifies the content. Raises `InputError` where there is no such file or finished folder."""
    if place_of(path).is_dir():
        return open_input(path, ("query_id", "doc_id")).fingerprint
    if not place_of(path).is_file():
        raise InputError(f"{path}: no such file or folder. Give candidates as a TREC run, a run folder, or JSON lines "
                         'of {"query_id": ..., "doc_ids": [...]}.')
    return sha256_file(place_of(path))


def open_candidates(path: str, fingerprint: str, converted: Place) -> Candidates:
    """(query_id, doc_id), each pair once, in the order of the file; a query's pairs stand together, where it comes first. From a run
    folder, a TREC run, or JSON lines, each of the two gzipped or not; written as Parquet into the folder `converted` first, once.

    Raises `InputError` naming file and line for what cannot be read, and where there is no pair."""
    out = converted.absolute() / f"_candidates-{fingerprint[:16]}.parquet"
    if not out.exists():
        _convert(place_of(path), out)
    rows = int(pq.read_metadata(readable(out)).num_rows)
    if not rows:
        raise InputError(f"{path} holds no candidate pair.")
    return Candidates(out, rows)


def _convert(path: Place, out: Place) -> None:
    with explained(f"making {out.parent}"):
        out.parent.mkdir(parents=True, exist_ok=True)
    source = _Source(path)
    with appearing(out) as part:
        rows, again = _write(source.lists(), part)
        given = source.given
        if again:
            rows, _ = _write(source.together(again), part)
    if source.is_json and given > rows:
        log.warning("%s: %d pairs stand there more than once; each is scored once", path, given - rows)


class _Source:
    """The candidate lists of a file, streamed."""

    def __init__(self, path: Place) -> None:
        self.path = path
        self.is_run_folder = path.is_dir()
        self.is_json = not self.is_run_folder and _is_json(path)
        self.given = 0
        """Passages of all that was read so far, repeats too."""

    def lists(self) -> Iterator[tuple[str, dict[str, None]]]:
        """(query_id, its doc_ids) as they stand: a query that comes again, after others, is another list."""
        for query_id, pieces in groupby(self._pieces(), key=lambda piece: piece[1]):
            known: dict[str, None] = {}
            for piece in pieces:
                self._add(known, piece)
            yield query_id, known

    def together(self, again: set[str]) -> Iterator[tuple[str, dict[str, None]]]:
        """The same where the queries `again` come more than once: each is one list, where it comes first. Only these are kept."""
        whole: dict[str, dict[str, None]] = {}
        for piece in self._pieces():
            if piece[1] in again:
                self._add(whole.setdefault(piece[1], {}), piece)
        for query_id, doc_ids in self.lists():
            yield query_id, whole.pop(query_id, {}) if query_id in again else doc_ids

    def _add(self, known: dict[str, None], piece: Piece) -> None:
        line, query_id, doc_ids = piece
        self.given += len(doc_ids)
        if not self.is_json and not self.is_run_folder and doc_ids[0] in known:
            raise runs.twice(self.path, line, query_id, doc_ids[0])
        known.update(dict.fromkeys(doc_ids))

    def _pieces(self) -> Iterator[Piece]:
        if self.is_json:
            return _json_lists(self.path)
        rows = runs.folder_rows(self.path) if self.is_run_folder else runs.trec_rows(self.path)
        return ((number, query_id, [doc_id]) for number, query_id, doc_id, _ in rows)


def _write(lists: Lists, out: Path) -> tuple[int, set[str]]:
    """Write lists as groups of `_ROWS_A_GROUP` rows; returns how many rows, and the queries that came more than once."""
    seen: set[str] = set()
    again: set[str] = set()
    rows, query_ids, doc_ids = 0, list[str](), list[str]()
    with pq.ParquetWriter(out, PAIRS, compression="zstd", write_page_checksum=True) as writer:
        for query_id, found in lists:
            (again if query_id in seen else seen).add(query_id)
            query_ids += [query_id] * len(found)
            doc_ids += found
            rows += len(found)
            while len(query_ids) >= _ROWS_A_GROUP:
                writer.write_table(pa.table([query_ids[:_ROWS_A_GROUP], doc_ids[:_ROWS_A_GROUP]], PAIRS))
                del query_ids[:_ROWS_A_GROUP], doc_ids[:_ROWS_A_GROUP]
        if query_ids:
            writer.write_table(pa.table([query_ids, doc_ids], PAIRS))
    return rows, again


def _is_json(path: Place) -> bool:
    with opened(path) as file:
        is_json = file.read(1 << 10).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    if is_json and file_format(path) not in (".jsonl", ".ndjson"):
        raise InputError(f"{path} looks like JSON lines: name it .jsonl or .jsonl.gz.")
    return is_json


def _json_lists(path: Place) -> Iterator[Piece]:
    for line in read_lines(path):
        where = f"{path}, line {line.number}"
        if line.fields is None:
            raise InputError(f"{where}: {line.reason}.")
        query_id = _identifier(line.fields.get("query_id"), "query_id", where)
        doc_ids = line.fields.get("doc_ids")
        if not isinstance(doc_ids, list):
            found = f"found {doc_ids!r:.80}" if "doc_ids" in line.fields else f"the fields are {', '.join(line.fields) or 'none'}"
            raise InputError(f"{where}: doc_ids must be a list of passage ids; {found}.")
        yield line.number, query_id, [_identifier(doc_id, "doc_ids", where) for doc_id in doc_ids]


def _identifier(value: Any, field: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{where}: {field} needs an id (a string or a whole number); found {value!r:.80}.")
    return str(value)
