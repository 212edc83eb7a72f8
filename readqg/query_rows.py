"""Stages from a queries folder to a queries folder: round trips, likelihood ratios, selection."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from readqg.corpus.generated import QUERIES
from readqg.shards import open_input
from readqg.stage import ShardStage


class QueryRowsStage(ShardStage):
    """Reads a queries folder in shards of `shard_rows` rows; its schema has all the folder's columns and then `added`, which
    replace columns of the same names."""

    key = ("doc_id",)

    def __init__(self, folder: str, shard_rows: int, added: pa.Schema, needs: Sequence[str] = QUERIES.names) -> None:
        """Raises `InputError` where the folder cannot be read or lacks one of the columns `needs`."""
        self.queries = open_input(folder, tuple(needs))
        self._shard_rows = shard_rows
        self._columns = [name for name in self.queries.schema.names if name not in added.names]
        self.schema = pa.schema([*(self.queries.schema.field(name) for name in self._columns), *added])

    @property
    def total(self) -> int:
        return max(1, -(-self.queries.rows // self._shard_rows))

    def inputs(self) -> dict[str, str]:
        return {"queries": self.queries.fingerprint}

    def read(self, index: int) -> pa.Table:
        first = index * self._shard_rows
        return self.queries.read(first, first + self._shard_rows, self._columns)
