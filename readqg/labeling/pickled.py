"""The public MS MARCO scores: a gzipped pickle of {query_id: {doc_id: score}}, read without unpickling it.

A pickle is a program: loading it can run anything. Here its instructions are walked with the standard library's `pickletools`,
and only those that make dictionaries, strings, whole numbers and floats are carried out; any other ends the reading with its
name. Nothing is looked up, called or built but these four. As the queries' dictionaries come out as they are complete, 160 M
scores need no more memory than some thousand queries of them (and about two seconds a million, where the unpickler would
take a tenth of that and 20 GB).
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from readqg.corpus.files import opened
from readqg.errors import InputError
from readqg.places import Place
from readqg.shards import appearing, explained

_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "SHORT_BINUNICODE", "BINUNICODE"}
_IDLE = {"PROTO", "FRAME"}
_CAN_RUN_CODE = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD", "EXT1", "EXT2", "EXT4"}
_MAX_ID_BYTES = 1 << 16
_MAX_HELD = 50_000_000  # values in memory at once: far above any real file, far below any real memory

Scores = dict[int | str, float | int]


class _Refused(ValueError):
    """What the pickle holds that it may not."""


def read_pickled_scores(file: BinaryIO, max_bytes: int) -> Iterator[tuple[int | str, Scores]]:
    """(query_id, {doc_id: score}) of every query, from the bytes of a pickle of protocol 2 or newer.

    Raises `InputError` for anything but dictionaries of numbers by id, for damage, and past `max_bytes` bytes."""
    source = _Bytes(file, max_bytes)
    try:
        for query_id, scores in _outer_items(SimpleNamespace(read=source.read, readline=source.refuse)):
            yield query_id, _checked(query_id, scores)
    except _Refused as refusal:
        raise InputError(f"after byte {source.seen:,} the pickle holds {refusal}. Only {{query_id: {{doc_id: score}}}} made of "
                         "dictionaries, strings, whole numbers and floats is read. If you trust its origin, write its scores as "
                         "Parquet (query_id, doc_id, score) and give that.") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"no sound pickle of scores, at byte {source.seen:,}: {error}. Fetch or make it again.") from None


def pickle_to_parquet(path: Place, out: Place, max_bytes: int, rows_a_group: int) -> None:
    """Write a pickle's scores, gzipped or not, to the Parquet file `out` (query_id, doc_id: string, score: float32), which
    appears whole or not at all. Raises `InputError` as `read_pickled_scores` does, `FolderError` where it cannot be written."""
    schema = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("score", pa.float32())])
    with explained(f"making {out.parent}"):
        out.parent.mkdir(parents=True, exist_ok=True)
    with appearing(out) as part:
        try:
            with opened(path) as file, pq.ParquetWriter(part, schema, compression="zstd", write_page_checksum=True) as writer:
                for columns in _columns(read_pickled_scores(file, max_bytes), rows_a_group):
                    writer.write_table(pa.table(columns, schema))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _columns(queries: Iterator[tuple[int | str, Scores]], rows: int) -> Iterator[list[list[Any]]]:
    """The scores of whole queries, as columns of at least `rows` rows (the last ones may be shorter)."""
    columns: list[list[Any]] = [[], [], []]
    for query_id, scores in queries:
        columns[0] += [str(query_id)] * len(scores)
        columns[1] += map(str, scores)
        columns[2] += scores.values()
        if len(columns[0]) >= rows:
            yield columns
            columns = [[], [], []]
    yield columns


def _outer_items(source: Any) -> Iterator[tuple[Any, Any]]:
    """The items of the one dictionary that the pickle is, as they are set."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    held = 0
    argument: Any
    for opcode, argument, _ in pickletools.genops(source):
        name = opcode.name
        if name in _VALUES:
            stack.append(argument)
        elif name == "EMPTY_DICT":
            stack.append({})
        elif name == "MARK":
            marks.append(len(stack))
        elif name in ("SETITEM", "SETITEMS"):
            start = marks.pop() if name == "SETITEMS" else len(stack) - 2
            items, stack[start:] = stack[start:], []
            pairs = zip(items[::2], items[1::2], strict=True)
            if len(stack) == 1 and not marks:
                yield from pairs
                held = 0
            else:
                held += len(items)
                stack[-1].update(pairs)
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            # A dictionary is not kept: it would keep every query's scores in memory. Only ids recur.
            memo[len(memo) if argument is None else argument] = None if isinstance(stack[-1], dict) else stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name not in _IDLE and name != "STOP":
            raise _Refused(f"the instruction {name}" + (", which can run code" if name in _CAN_RUN_CODE else ""))
        if held + len(stack) + len(marks) + len(memo) > _MAX_HELD:
            raise _Refused(f"more than {_MAX_HELD:,} values that would have to be kept at once")
    if len(stack) != 1 or not isinstance(stack[0], dict):
        raise _Refused("something other than one dictionary")


def _checked(query_id: Any, scores: Any) -> Scores:
    if type(query_id) not in (int, str):
        raise _Refused(f"a query id of type {type(query_id).__name__}")
    if type(scores) is not dict:
        raise _Refused(f"a {type(scores).__name__} under query {query_id!r} instead of a dictionary of scores")
    for doc_id, score in scores.items():
        if type(doc_id) not in (int, str) or type(score) not in (int, float):
            found = f"a {type(score).__name__} by a {type(doc_id).__name__}"
            raise _Refused(f"{found} under query {query_id!r} instead of a score by id")
    return scores


class _Bytes:
    """Reads that are counted and bounded, in all and each."""

    def __init__(self, file: BinaryIO, max_bytes: int) -> None:
        self._read, self._max, self.seen = file.read, max_bytes, 0

    def read(self, size: int) -> bytes:
        if size > _MAX_ID_BYTES:
            raise _Refused(f"a string of {size:,} bytes (ids have {_MAX_ID_BYTES:,} at most)")
        self.seen += size
        if self.seen > self._max:
            raise _Refused(f"more than {self._max:,} bytes, which is the limit (max_pickle_bytes)")
        return self._read(size)

    def refuse(self) -> bytes:
        """In place of `readline`, which only instructions that are refused would use, without bounds."""
        raise _Refused("an instruction that names something to call, or of the old text form (protocol 0)")
