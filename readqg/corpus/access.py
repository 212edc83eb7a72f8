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
from readqg.corpus.rows import SCHEMAS, Kind, RowReader, document_text
from readqg.corpus.sources import Source, locate
from readqg.errors import InputError
from readqg.places import Place
from readqg.shards import open_input, stable_hash

_PARTS_IN_MEMORY = 64


def read_texts(path: str | Place) -> dict[str, str]:
    """Queries: query_id -> text, in the order of the file. From an imported folder or a raw file or BEIR folder."""
    table = _read_table(locate(path, "queries"))
    return dict(zip(table["query_id"].to_pylist(), table["text"].to_pylist(), strict=True))


def read_judgments(path: str | Place, split: str = "test") -> dict[str, dict[str, int]]:
    """Judgments: query_id -> {doc_id: grade}. From an imported folder, BEIR's TSV, TREC qrels, or a BEIR folder's `split`."""
    judgments: dict[str, dict[str, int]] = {}
    for row in _read_table(locate(path, "judgments", split)).to_pylist():
        judgments.setdefault(row["query_id"], {})[row["doc_id"]] = row["relevance"]
    return judgments


def input_fingerprint(path: str | Place, kind: Kind) -> str:
    """Identifies the content of the rows of `kind` at `path`, raw or imported."""
    return locate(path, kind).fingerprint()


def subset(ids: Iterable[str], limit: int | None) -> list[str]:
    """`limit` of the ids, drawn by a stable hash and kept in their order; all of them where there are no more."""
    ids = list(ids)
    if limit is None or len(ids) <= limit:
        return ids
    drawn = set(sorted(ids, key=lambda i: (stable_hash(i), i))[:limit])
    return [i for i in ids if i in drawn]


class Documents:
    """Random access to documents by id; iterating gives {doc_id, title, text} in corpus order.

    Pickled as its path: a worker opens it anew, once a process. In memory: the ids, and of an imported folder the last 64
    parts read; of a raw file everything."""

    def __init__(self, path: Place, fingerprint: str, ids: pa.Array, starts: list[int], read: Callable[[int], pa.Table]) -> None:
        self.path = path
        self.fingerprint = fingerprint
        """Identifies the content."""
        self._ids, self._starts, self._read = ids, starts, read

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
        return len(self._ids)

    @cached_property
    def ids(self) -> list[str]:
        """All ids in corpus order."""
        found: list[str] = self._ids.to_pylist()
        return found

    def __len__(self) -> int:
        return self.rows

    def __contains__(self, doc_id: str) -> bool:
        return self.row(doc_id) is not None

    def __iter__(self) -> Iterator[dict[str, str]]:
        for part in range(len(self._starts) - 1):
            yield from self._read(part).to_pylist()

    def read(self, start: int, stop: int) -> pa.Table:
        """Rows `start` to `stop` (exclusive): doc_id, title, text."""
        tables = []
        for part, (low, high) in enumerate(pairwise(self._starts)):
            if max(start, low) < min(stop, high):
                tables.append(self._read(part).slice(max(start - low, 0), min(stop, high) - max(start, low)))
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
        return self.take([row for row in rows if row is not None])

    def take(self, rows: Sequence[int]) -> pa.Table:
        """Rows by their numbers, in the order given: doc_id, title, text. Only the parts that hold them are read."""
        wanted = np.asarray(rows, dtype=np.int64)
        part_of = np.searchsorted(self._starts, wanted, side="right") - 1
        order = np.argsort(part_of, kind="stable")
        pieces = [
            self._read(int(part)).take(wanted[part_of == part] - self._starts[part]) for part in np.unique(part_of)
        ]
        if not pieces:
            return SCHEMAS["documents"].empty_table()
        back = np.empty(len(order), dtype=np.int64)
        back[order] = np.arange(len(order))
        return pa.concat_tables(pieces).take(back)

    @cached_property
    def _order(self) -> np.ndarray:
        """Rows sorted by id: Arrow sorts strings by code point, as Python compares them. A dict would take ten times the room."""
        return pc.sort_indices(self._ids).to_numpy()

    def row(self, doc_id: str) -> int | None:
        """The number of a document's row, from 0 in corpus order; None for an unknown id."""
        at = bisect_left(self._order, doc_id, key=lambda row: self._ids[int(row)].as_py())
        if at == self.rows or self._ids[int(self._order[at])].as_py() != doc_id:
            return None
        return int(self._order[at])


@lru_cache(maxsize=4)
def _open_documents(source: Source, changed_ns: int) -> Documents:
    if not source.imported:
        table = _read_table(source)
        ids = table["doc_id"].combine_chunks()
        return Documents(source.path, source.fingerprint(), ids, [0, table.num_rows], lambda part: table)
    folder = open_input(source.path, ("doc_id", "title", "text"))
    rows = [folder.success["parts"][part.name]["rows"] for part in folder.parts]
    starts = [0, *np.cumsum(rows).tolist()]
    bounds = list(pairwise(starts))
    read = lru_cache(maxsize=_PARTS_IN_MEMORY)(lambda part: folder.read(*bounds[part], columns=["doc_id", "title", "text"]))
    ids = folder.read(columns=["doc_id"])["doc_id"].combine_chunks()
    return Documents(source.path, folder.fingerprint, ids, starts, read)


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
