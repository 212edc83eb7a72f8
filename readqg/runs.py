"""Rankings: TREC run files in and out, run folders in, and the one order that every part of ReadQG ranks by.

A run is `{query_id: {doc_id: score}}`. The order is trec_eval's: by score as a 32-bit float, highest first; equal scores by
doc_id, highest first. The rank column of a TREC file is never read.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import logging
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from readqg.errors import InputError
from readqg.places import Place, place_of
from readqg.shards import appearing, open_input, sha256_file, write_whole

Run = dict[str, dict[str, float]]

log = logging.getLogger("readqg")

TREC_FILE = "_run.trec"
QUERIES_FILE = "_queries.json"
_GZIP_MAGIC = b"\x1f\x8b"
_UNFIT = re.compile(r"[ \t\n\r\v\f\ud800-\udfff]")


def ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """A query's documents, best first. Scores are numbers; a NaN has no place in an order."""
    with np.errstate(over="ignore"):
        rounded = np.fromiter(scores.values(), np.float64, len(scores)).astype(np.float32).tolist()
    order = sorted(zip(rounded, scores, strict=True), reverse=True)
    return [(doc_id, scores[doc_id]) for _, doc_id in order]


def read_run(path: str | Place) -> Run:
    """A run from a run folder or from a TREC file, plain or gzipped. Queries come in the order of the file.

    Rows of a folder that have an error instead of a score are left out, with a warning. Raises `InputError`."""
    path = place_of(path)
    return _read_folder(path) if path.is_dir() else read_trec(path)


def fingerprint(path: str | Place) -> str:
    """Identifies the content of a run folder or a TREC file. Raises `InputError` where there is none."""
    path = place_of(path)
    if path.is_dir():
        return open_input(path, ("query_id", "doc_id", "score")).fingerprint
    if not path.is_file():
        raise _absent(path)
    return sha256_file(path)


def read_trec(path: str | Place) -> Run:
    """Read a TREC run file: query_id, `Q0`, doc_id, rank, score, tag, parted by ASCII white space.

    Raises `InputError` naming file and line: not six columns, a score that is no finite number, a document twice under one
    query, not UTF-8, a damaged gzip file; also for a file with no lines."""
    path, run = place_of(path), Run()
    for number, query_id, doc_id, score in trec_rows(path):
        documents = run.setdefault(query_id, {})
        if doc_id in documents:
            raise twice(path, number, query_id, doc_id)
        documents[doc_id] = score
    return run


def trec_rows(path: Place) -> Iterator[tuple[int, str, str, float]]:
    """(line, query_id, doc_id, score) of a TREC run file, streamed. Raises as `read_trec`, but does not look for repeats."""
    empty = True
    for number, line in _lines(path):
        columns = line.split()
        if not columns:
            continue
        if len(columns) != 6:
            raise InputError(f"{path}, line {number}: {len(columns)} columns where a TREC run has 6 "
                             f"(query_id Q0 doc_id rank score tag): {line[:100].decode(errors='replace').strip()!r}")
        query_id, doc_id = _text(columns[0], path, number), _text(columns[2], path, number)
        empty = False
        yield number, query_id, doc_id, _number(columns[4], path, number)
    if empty:
        raise InputError(f"{path} is empty; a TREC run has lines of query_id Q0 doc_id rank score tag.")


def twice(path: Place, line: int, query_id: str, doc_id: str) -> InputError:
    return InputError(f"{path}, line {line}: document {doc_id!r} stands twice under query {query_id!r}. Remove one.")


def write_trec(path: str | Place, run: Mapping[str, Mapping[str, float]], tag: str = "readqg") -> None:
    """Write a TREC run file (gzipped where the name ends in .gz), ranked, each score in full precision.

    The file appears whole or not at all. Raises `InputError` for an id that the format cannot hold (empty, with white
    space, or no valid Unicode), `FolderError` where the disk is full or may not be written."""
    path = place_of(path)
    with appearing(path) as partial, _writer(partial, compressed=path.suffix == ".gz") as file:
        for query_id, scores in run.items():
            _check_id(query_id, "query")
            for rank, (doc_id, score) in enumerate(ranked(scores), 1):
                _check_id(doc_id, "document")
                file.write(f"{query_id} Q0 {doc_id} {rank} {float(score)!r} {tag}\n")


def write_trec_beside(folder: str | Place, tag: str) -> None:
    """Write `_run.trec` into a finished run folder, unless it is there. Ids that the format cannot hold are a warning only:
    the folder itself is the result."""
    target = place_of(folder) / TREC_FILE
    if target.exists():
        return
    try:
        write_trec(target, _read_folder(place_of(folder)), tag)
    except InputError as error:
        log.warning("%s is not written: %s", target, error)


def write_queries_beside(folder: str | Place, query_ids: Iterable[str]) -> None:
    """Write `_queries.json` into a run folder: which queries were asked. Those without a result have no row to tell."""
    write_whole(place_of(folder) / QUERIES_FILE, json.dumps(list(query_ids)))


def read_queries_beside(run: str | Place) -> list[str] | None:
    """The queries that a run (its folder, or the `_run.trec` in it) was asked; None where that is not known."""
    path = place_of(run)
    path = path.parent if path.name == TREC_FILE else path
    if not (path / QUERIES_FILE).is_file():
        return None
    try:
        asked = json.loads((path / QUERIES_FILE).read_text())
    except ValueError as error:
        raise InputError(f"{path / QUERIES_FILE} is damaged ({error}). Delete it and give the run's command again.") from error
    return [str(query_id) for query_id in asked]


def _read_folder(path: Place) -> Run:
    run = Run()
    for _, query_id, doc_id, score in folder_rows(path):
        run.setdefault(query_id, {})[doc_id] = score
    return run


def folder_rows(path: Place) -> Iterator[tuple[int, str, str, float]]:
    """(row, query_id, doc_id, score) of a run folder, streamed; rows without a score are left out, with a warning."""
    folder, without_score = open_input(path, ("query_id", "doc_id", "score")), 0
    for start in range(0, folder.rows, 1_000_000):
        table = folder.read(start, start + 1_000_000, ["query_id", "doc_id", "score"])
        for row, (query_id, doc_id, score) in enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True), start):
            if score is None or doc_id is None or math.isnan(score):
                without_score += 1
                continue
            yield row, query_id, doc_id, score
    if without_score:
        log.warning("%s: %d rows have an error instead of a score and are not in the ranking", path, without_score)


def _absent(path: Place) -> InputError:
    return InputError(f"{path}: no such file or folder. Give a TREC run file or the output folder of `retrieve` or `rank`.")


def _lines(path: Place) -> Iterator[tuple[int, bytes]]:
    if not path.is_file():
        raise _absent(path)
    number = 0
    try:
        with path.open("rb") as raw:
            start = raw.read(3)
            raw.seek(3 if start == codecs.BOM_UTF8 else 0)
            stream = gzip.GzipFile(fileobj=raw) if start.startswith(_GZIP_MAGIC) else raw
            for number, line in enumerate(stream, 1):
                yield number, line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}, after line {number}: the gzip file is damaged ({error}). Fetch or make it again.") from error
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it. Mend its rights.") from error


def _text(column: bytes, path: Place, line: int) -> str:
    try:
        return column.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}, line {line}: {column[:100]!r} is not UTF-8 ({error.reason}). Is it a TREC run?") from error


def _number(text: bytes, path: Place, line: int) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise InputError(f"{path}, line {line}: the score (column 5) is {text.decode(errors='replace')!r}, not a finite number.")
    return score


@contextmanager
def _writer(path: Path, compressed: bool) -> Iterator[TextIO]:
    with path.open("wb") as raw:
        # No name and no time in the gzip header, so that equal runs are equal files.
        stream: Any = gzip.GzipFile(fileobj=raw, mode="wb", filename="", mtime=0) if compressed else raw
        with io.TextIOWrapper(stream, encoding="utf-8", newline="\n") as file:
            yield file


def _check_id(text: str, kind: str) -> None:
    if not text or _UNFIT.search(text):
        raise InputError(f"a TREC run parts its columns by white space and is UTF-8, so it cannot hold the {kind} id {text!r}.")
