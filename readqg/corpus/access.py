"""Reading documents, queries and judgments, imported or raw.

Raw files are read by the same rules as `readqg import` and held in memory, and one bad line is an error, for there is no
folder to set it aside in. Imported documents are read part by part as they are asked for.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from readqg.config import ImportSettings
from readqg.corpus.irds import is_collection
from readqg.corpus.mapped import COLUMNS, MappedRows, found_copy, make_copy
from readqg.corpus.rows import SCHEMAS, Kind, RowReader, document_text
from readqg.corpus.sources import Source, locate
from readqg.errors import InputError
from readqg.places import Place, place_of
from readqg.shards import InputFolder, open_input, sha256_file, stable_hash, write_whole

_PARTS_IN_MEMORY = 64
_PARTS_IN_TURN = 2


def read_texts(path: str | Place) -> dict[str, str]:
    """Queries: query_id -> text, in the order of the file. From an imported folder or a raw file or BEIR folder; or a .txt file of a query
    a line, whose id is the line's number. Raises `InputError` where it cannot be read."""
    if _is_lines(path):
        return _lines(place_of(path))
    table = _read_table(locate(path, "queries"))
    return dict(zip(table["query_id"].to_pylist(), table["text"].to_pylist(), strict=True))


def read_judgments(path: str | Place, split: str = "test") -> dict[str, dict[str, int]]:
    """Judgments: query_id -> {doc_id: grade}. From an imported folder, BEIR's TSV, TREC qrels, or a BEIR folder's `split`."""
    judgments: dict[str, dict[str, int]] = {}
    for row in _read_table(locate(path, "judgments", split)).to_pylist():
        judgments.setdefault(row["query_id"], {})[row["doc_id"]] = row["relevance"]
    return judgments


def write_qrels(path: Place, judgments: Iterable[tuple[str, str, int]]) -> None:
    """Write (query_id, doc_id, grade) as BEIR's TSV, whole or not at all. Raises `FolderError` where the disk is full."""
    lines = (f"{query_id}\t{doc_id}\t{grade}\n" for query_id, doc_id, grade in judgments)
    write_whole(path, "query-id\tcorpus-id\tscore\n" + "".join(lines))


def input_fingerprint(path: str | Place, kind: Kind) -> str:
    """Identifies the content of the rows of `kind` at `path`, raw or imported, or of a .txt file of queries."""
    if kind == "queries" and _is_lines(path):
        return sha256_file(place_of(path))
    return locate(path, kind).fingerprint()


def subset(ids: Iterable[str], limit: int | None) -> list[str]:
    """`limit` of the ids, drawn by a stable hash and kept in their order; all of them where there are no more."""
    ids = list(ids)
    if limit is None or len(ids) <= limit:
        return ids
    drawn = set(sorted(ids, key=lambda i: (stable_hash(i), i))[:limit])
    return [i for i in ids if i in drawn]


def _is_lines(path: str | Place) -> bool:
    return str(path).endswith(".txt") and not place_of(path).is_dir()


def _lines(path: Place) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}). Give a .txt file of a query a line, in UTF-8.") from error
    return {str(number): line.strip() for number, line in enumerate(lines, 1) if line.strip()}


class Documents:
    """Random access to documents by id; iterating gives {doc_id, title, text} in corpus order.

    Pickled as its path: a worker opens it anew, once a process. In memory: the ids once they are asked for, and of an imported folder
    the last 64 parts that rows were taken from, and the last two that were read in turn; of a raw file everything. Where ids asked for
    lie in more than 64 parts, the texts come from a copy on this machine's disk that is laid out for it, and the ids too
    (`readqg.corpus.mapped`)."""

    def __init__(self, path: Place, fingerprint: str, content: pa.Table | InputFolder) -> None:
        self.path = path
        self.fingerprint = fingerprint
        """Identifies the content."""
        self._folder = content if isinstance(content, InputFolder) else None
        self._starts = content.starts if isinstance(content, InputFolder) else [0, content.num_rows]

        def read(part: int) -> pa.Table:
            return content.read_part(part, COLUMNS) if isinstance(content, InputFolder) else content

        self._read = lru_cache(maxsize=_PARTS_IN_MEMORY)(read)
        self._read_in_turn = lru_cache(maxsize=_PARTS_IN_TURN)(read)
        self._asked: set[int] = set()

    @classmethod
    def open(cls, path: str | Place) -> Documents:
        """Open an imported folder (or one that holds it), or whatever else `readqg import` reads.

        Raises `InputError` where there is none, it is unfinished, or a raw file has a bad line."""
        source = locate(path, "documents")
        return _open_documents(source, source.changed_ns())

    def __reduce__(self) -> tuple[Callable[[Place], Documents], tuple[Place]]:
        return Documents.open, (self.path if is_collection(self.path) else self.path.absolute(),)

    @property
    def rows(self) -> int:
        """Number of documents."""
        return self._starts[-1]

    @cached_property
    def ids(self) -> list[str]:
        """All ids in corpus order."""
        found: list[str] = self.id_column.to_pylist()
        return found

    @cached_property
    def id_column(self) -> pa.Array:
        """The same, of a fifth of the room."""
        if self._copy is not None:
            return self._copy.ids
        return (self._folder.read(columns=["doc_id"]) if self._folder else self._read(0))["doc_id"].combine_chunks()

    def __len__(self) -> int:
        return self.rows

    def __contains__(self, doc_id: str) -> bool:
        return self.row(doc_id) is not None

    def __iter__(self) -> Iterator[dict[str, str]]:
        for part in range(len(self._starts) - 1):
            yield from self._read_in_turn(part).to_pylist()

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows `start` to `stop` (exclusive): doc_id, title, text."""
        tables = []
        for part, (low, high) in enumerate(pairwise(self._starts)):
            if max(start, low) < min(stop, high):
                tables.append(self._read_in_turn(part).slice(max(start - low, 0), min(stop, high) - max(start, low)))
        return pa.concat_tables(tables) if tables else SCHEMAS["documents"].empty_table()

    def texts(self, ids: Sequence[str]) -> list[str]:
        """Title + " " + text of each document, in the order of `ids`. Raises `InputError` for unknown ids."""
        table = self.table(ids)
        pairs = zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True)
        return [document_text(title, text) for title, text in pairs]

    def table(self, ids: Sequence[str]) -> pa.Table:
        """The rows (doc_id, title, text) of `ids`, in their order. Raises `InputError` for unknown ids."""
        rows = [self.row(i) for i in ids]
        unknown = [i for i, row in zip(ids, rows, strict=True) if row is None]
        if unknown:
            more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
            raise InputError(f"{self.path} has no document {unknown[0]!r}{more}. Is it the corpus that those ids come from?")
        found = np.array([row for row in rows if row is not None], dtype=np.int64)
        copy = self._copy_for(found)
        return self.take(found) if copy is None else _taken(found, copy.starts, copy.read)

    def take(self, rows: Sequence[int] | np.ndarray) -> pa.Table:
        """Rows by their numbers, in the order given: doc_id, title, text. Only the parts that hold them are read."""
        return _taken(np.asarray(rows, dtype=np.int64), self._starts, self._read)

    @cached_property
    def _copy(self) -> MappedRows | None:
        """For random access; where there is none yet, `_copy_for` makes it when it is worth its while."""
        return found_copy(self._folder) if self._folder is not None and len(self._starts) > _PARTS_IN_MEMORY + 1 else None

    def _copy_for(self, rows: np.ndarray) -> MappedRows | None:
        """None as long as what this process has asked for by id lies in no more parts than memory holds."""
        if self._copy is None and self._folder is not None and len(self._asked) <= _PARTS_IN_MEMORY:
            self._asked.update(_parts_of(rows, self._starts).tolist())
            if len(self._asked) > _PARTS_IN_MEMORY:
                self._copy = make_copy(self._folder)
                if self._copy is not None:
                    self.id_column, self._order = self._copy.ids, self._copy.order
        return self._copy

    @cached_property
    def _order(self) -> np.ndarray:
        """Rows sorted by id: Arrow sorts strings by code point, as Python compares them. A dict would take ten times the room."""
        return pc.sort_indices(self.id_column).to_numpy() if self._copy is None else self._copy.order

    def row(self, doc_id: str) -> int | None:
        """The number of a document's row, from 0 in corpus order; None for an unknown id."""
        ids, order = self.id_column, self._order
        at = bisect_left(order, doc_id, key=lambda row: ids[int(row)].as_py())
        if at == self.rows or ids[int(order[at])].as_py() != doc_id:
            return None
        return int(order[at])


def _parts_of(rows: np.ndarray, starts: Sequence[int]) -> np.ndarray:
    """Of every row, the place of the last of `starts` that is not after it."""
    return np.searchsorted(starts, rows, side="right") - 1


def _taken(rows: np.ndarray, starts: Sequence[int], read: Callable[[int], pa.Table]) -> pa.Table:
    """Rows in the order given, where `read(n)` gives those from `starts[n]` on."""
    if not len(rows):
        return SCHEMAS["documents"].empty_table()
    part_of = _parts_of(rows, starts)
    order = np.argsort(part_of, kind="stable")
    parts, firsts = np.unique(part_of[order], return_index=True)
    groups = zip(parts.tolist(), np.split(rows[order], firsts[1:]), strict=True)
    pieces = [read(part).take(wanted - starts[part]) for part, wanted in groups]
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return pa.concat_tables(pieces).combine_chunks().take(back)


@lru_cache(maxsize=4)
def _open_documents(source: Source, changed_ns: int) -> Documents:
    if not source.imported:
        return Documents(source.path, source.fingerprint(), _read_table(source))
    folder = open_input(source.path, tuple(COLUMNS))
    return Documents(source.path, folder.fingerprint, folder)


def _read_table(source: Source) -> pa.Table:
    """All rows of a source in its kind's schema."""
    schema = SCHEMAS[source.kind]
    if source.imported:
        return open_input(source.path, tuple(schema.names)).read(columns=schema.names)
    rows = []
    for line, row in RowReader(source, ImportSettings()).read():
        if row is None:
            raise InputError(f"{source.path}, {line.where}: {line.reason}. Mend it, or give the output of `readqg import`, "
                             "which sets bad lines aside.")
        rows.append(row)
    if not rows:
        raise InputError(f"{source.path} holds no {source.kind}.")
    return pa.Table.from_pylist(rows, schema)
