"""Rows of a finished folder by their numbers, for training, which reads them in an order of its own."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from readqg.fetching import local_file
from readqg.places import Place
from readqg.shards import InputFolder

_ROW_GROUPS_IN_MEMORY = 16
_ROWS_AT_A_TIME = 65_536


class RandomRows:
    """Some columns of a folder. A row is read with its row group; the last few of these stay in memory."""

    def __init__(self, folder: InputFolder, columns: tuple[str, ...]) -> None:
        self.folder, self.columns = folder, columns

    def read(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Rows by number, in the order asked for."""
        return [self._row(row) for row in rows]

    def _row(self, row: int) -> dict[str, Any]:
        group = bisect_right(self._starts, row) - 1
        part, number, _ = self._groups[group]
        table = _read_row_group(part, self.folder.fingerprint, number, self.columns)
        found: dict[str, Any] = table.slice(row - self._starts[group], 1).to_pylist()[0]
        return found

    @cached_property
    def _groups(self) -> list[tuple[Place, int, int]]:
        """(part, row group, rows) of every row group of the folder, in order."""
        found = []
        for path in self.folder.parts:
            metadata = pq.read_metadata(local_file(path))
            found += [(path, group, metadata.row_group(group).num_rows) for group in range(metadata.num_row_groups)]
        return found

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate((rows for _, _, rows in self._groups[:-1]), initial=0))


def in_order(folder: InputFolder, columns: Sequence[str]) -> Iterator[tuple[int, pa.Table]]:
    """All rows, some at a time: (number of the first, rows)."""
    row = 0
    for part in folder.parts:
        with pq.ParquetFile(local_file(part), page_checksum_verification=True) as file:
            for batch in file.iter_batches(_ROWS_AT_A_TIME, columns=list(columns)):
                yield row, pa.Table.from_batches([batch])
                row += batch.num_rows


@lru_cache(maxsize=_ROW_GROUPS_IN_MEMORY)
def _read_row_group(path: Place, fingerprint: str, number: int, columns: tuple[str, ...]) -> pa.Table:
    """`fingerprint`: of the folder. A process may live longer than what lay at a path."""
    with pq.ParquetFile(local_file(path), page_checksum_verification=True) as file:
        return file.read_row_group(number, columns=list(columns))
