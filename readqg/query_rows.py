"""Stages from a queries folder to a queries folder: round trips, likelihood ratios, selection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from readqg.corpus.generated import QUERIES
from readqg.shards import InputFolder, open_input
from readqg.stage import ShardStage

_MADE_WITH = b"readqg"


def made_with(folder: InputFolder, column: str) -> dict[str, Any]:
    """What `QueryRowsStage.noting` wrote of a column; nothing of one without a note."""
    return dict(json.loads((folder.schema.field(column).metadata or {}).get(_MADE_WITH, b"{}")))


class QueryRowsStage(ShardStage):
    """Reads a queries folder in shards of `shard_rows` rows; its schema has all the folder's columns and then `added`, which
    replace columns of the same names."""

    key = ("doc_id", "relevance", "sample")

    def __init__(self, folder: str, shard_rows: int, added: pa.Schema, needs: Sequence[str] = QUERIES.names) -> None:
        """Raises `InputError` where the folder cannot be read or lacks one of the columns `needs`."""
        self.queries = open_input(folder, tuple(needs))
        self._shard_rows = shard_rows
        self._columns = [name for name in self.queries.schema.names if name not in added.names]
        self.schema = pa.schema([*(self.queries.schema.field(name) for name in self._columns), *added])

    @staticmethod
    def noting(field: pa.Field, **facts: Any) -> pa.Field:
        """The column with what it was made with, which stays with it in the folders made of this one."""
        return field.with_metadata({_MADE_WITH: json.dumps(facts)})

    @property
    def total(self) -> int:
        return max(1, -(-self.queries.rows // self._shard_rows))

    def inputs(self) -> dict[str, str]:
        return {"queries": self.queries.fingerprint}

    def read(self, index: int) -> pa.Table:
        first = index * self._shard_rows
        return self.queries.read(first, first + self._shard_rows, self._columns)
