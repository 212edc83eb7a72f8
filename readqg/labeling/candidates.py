"""Candidate lists in: which passages a query is to be scored with."""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

import pyarrow as pa

from readqg.corpus.files import file_format, opened, read_lines
from readqg.errors import InputError
from readqg.places import Place, place_of
from readqg.runs import read_run
from readqg.shards import open_input, sha256_file

log = logging.getLogger("readqg")

PAIRS = pa.schema([("query_id", pa.string()), ("doc_id", pa.string())])


def candidates_fingerprint(path: str) -> str:
    """Identifies the content. Raises `InputError` where there is no such file or finished folder."""
    if place_of(path).is_dir():
        return open_input(path, ("query_id", "doc_id")).fingerprint
    if not place_of(path).is_file():
        raise InputError(f"{path}: no such file or folder. Give candidates as a TREC run, a run folder, or JSON lines "
                         'of {"query_id": ..., "doc_ids": [...]}.')
    return sha256_file(place_of(path))


@lru_cache(maxsize=1)
def read_candidates(path: str, fingerprint: str) -> pa.Table:
    """(query_id, doc_id), each pair once, in the order of the file; a query's pairs stand together. From a run folder, a TREC
    run, or JSON lines, each of the two gzipped or not. Kept for the shards to come in this process.

    Raises `InputError` naming file and line for what cannot be read, and where there is no pair."""
    if not place_of(path).is_dir() and _is_json(place_of(path)):
        lists = _json_lists(place_of(path))
    else:
        lists = {query_id: dict.fromkeys(scores) for query_id, scores in read_run(path).items()}
    query_ids = [query_id for query_id, doc_ids in lists.items() for _ in doc_ids]
    if not query_ids:
        raise InputError(f"{path} holds no candidate pair.")
    return pa.table([query_ids, [doc_id for doc_ids in lists.values() for doc_id in doc_ids]], PAIRS)


def _is_json(path: Place) -> bool:
    with opened(path) as file:
        is_json = file.read(1 << 10).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{")
    if is_json and file_format(path) not in (".jsonl", ".ndjson"):
        raise InputError(f"{path} looks like JSON lines: name it .jsonl or .jsonl.gz.")
    return is_json


def _json_lists(path: Place) -> dict[str, dict[str, None]]:
    lists: dict[str, dict[str, None]] = {}
    repeated = 0
    for line in read_lines(path):
        where = f"{path}, line {line.number}"
        if line.fields is None:
            raise InputError(f"{where}: {line.reason}.")
        query_id = _identifier(line.fields.get("query_id"), "query_id", where)
        doc_ids = line.fields.get("doc_ids")
        if not isinstance(doc_ids, list):
            found = f"found {doc_ids!r:.80}" if "doc_ids" in line.fields else f"the fields are {', '.join(line.fields) or 'none'}"
            raise InputError(f"{where}: doc_ids must be a list of passage ids; {found}.")
        known = lists.setdefault(query_id, {})
        for doc_id in doc_ids:
            name = _identifier(doc_id, "doc_ids", where)
            repeated += name in known
            known[name] = None
    if repeated:
        log.warning("%s: %d pairs stand there more than once; each is scored once", path, repeated)
    return lists


def _identifier(value: Any, field: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{where}: {field} needs an id (a string or a whole number); found {value!r:.80}.")
    return str(value)
