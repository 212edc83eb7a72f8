"""A finished folder, opened for reading."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from readqg.errors import FolderError, InputError
from readqg.places import Place, place_of, readable
from readqg.shards.files import read_json, sha256_file


@dataclass(frozen=True)
class InputFolder:
    """A finished folder, opened for reading. Rows are numbered through its parts in order."""

    path: Place
    success: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Identifies the content: a hash over the sha256 of every part."""
        return str(self.success["fingerprint"])

    @property
    def rows(self) -> int:
        return int(self.success["counts"]["rows"])

    @property
    def parts(self) -> list[Place]:
        return [self.path / name for name in self._names]

    @cached_property
    def _names(self) -> list[str]:
        return sorted(self.success["parts"])

    @cached_property
    def starts(self) -> list[int]:
        """The number of every part's first row, and after the last part that of all rows."""
        return list(accumulate((self.success["parts"][name]["rows"] for name in self._names), initial=0))

    @cached_property
    def schema(self) -> pa.Schema:
        return pq.read_schema(readable(self.parts[0])).remove_metadata()

    def read(self, start: int = 0, stop: int | None = None, columns: list[str] | None = None) -> pa.Table:
        """Rows `start` to `stop` (exclusive), checked against their page checksums."""
        stop = self.rows if stop is None else min(stop, self.rows)
        tables = []
        for part in range(max(bisect_right(self.starts, start) - 1, 0), bisect_left(self.starts, stop)):
            low, high = max(start, self.starts[part]), min(stop, self.starts[part + 1])
            if low < high:
                tables.append(self.read_part(part, columns).slice(low - self.starts[part], high - low))
        empty = self.schema.empty_table()
        return pa.concat_tables(tables) if tables else empty.select(columns) if columns else empty

    def read_part(self, part: int, columns: list[str] | None = None) -> pa.Table:
        """All rows of a part, by its place among them, checked against their page checksums."""
        return _read_part(self.path / self._names[part], columns)


def _read_part(path: Place, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(readable(path), columns=columns, page_checksum_verification=True).replace_schema_metadata(None)
    except (OSError, pa.ArrowInvalid) as error:
        if getattr(error, "errno", None):  # the system or a store refused; what is there may be sound
            raise FolderError(f"{path} cannot be read: {error}. Once it can, the same command goes on.") from error
        again = "Delete that part and the folder's _SUCCESS, then give the command that made it again."
        raise FolderError(f"{path} cannot be read: {error}. {again}") from error


_STAGES_OF_A_CORPUS = ("documents", "queries", "judgments")


def open_input(path: str | Place, columns: tuple[str, ...] = ()) -> InputFolder:
    """Open a finished folder of Parquet parts.

    Raises `InputError` where the folder is absent, has no `_SUCCESS`, misses a part, or lacks one of `columns`."""
    path = place_of(path).absolute()  # workers have other working directories
    if not path.is_dir():
        raise InputError(f"{path}: no such folder. Give the output folder of an earlier stage.")
    if not (path / "_SUCCESS").exists():
        inner = [name for name in _STAGES_OF_A_CORPUS if (path / name / "_SUCCESS").exists()]
        if inner:
            raise InputError(f"{path} is a corpus: {', '.join(inner)}. Give the folder in it that is meant, such as {path / inner[0]}")
        raise InputError(
            f"{path} has no _SUCCESS: the stage that makes it has not finished. Let it end, or give its command again; then this one."
        )
    success = read_json(path / "_SUCCESS")
    if "parts" not in success:
        raise InputError(f"{path} holds a model, not rows.")
    there = {p.name for p in path.glob("part-*.parquet")}
    absent = [name for name in success["parts"] if name not in there]
    if absent:
        raise InputError(
            f"{path}: {len(absent)} of {len(success['parts'])} parts are gone, first {absent[0]}. "
            "Delete _SUCCESS there and give the command that made it again."
        )
    folder = InputFolder(path, success)
    lacking = [name for name in columns if name not in folder.schema.names]
    if lacking:
        raise InputError(
            f"{path} has no column {', '.join(lacking)}; it has {', '.join(folder.schema.names)}. Is it the right folder?"
        )
    return folder


def is_stage_config(path: Place) -> bool:
    """Whether a `_config.json` is that of an output folder: others have files of that name, too."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"stage", "versions"} <= found.keys()


def verify(path: str | Place) -> list[str]:
    """What is wrong with a finished folder: every file compared with its sha256. An empty list: nothing."""
    path = place_of(path)
    if not (path / "_SUCCESS").exists():
        return [f"{path}: no _SUCCESS"]
    success = read_json(path / "_SUCCESS")
    expected = {n: p["sha256"] for n, p in success["parts"].items()} if "parts" in success else success["files"]
    problems = [
        f"{path / name}: {'missing' if not (path / name).exists() else 'its bytes have changed (sha256)'}"
        for name, digest in expected.items()
        if not (path / name).exists() or sha256_file(path / name) != digest
    ]
    extra = {p.name for p in path.glob("part-*.parquet")} - set(expected)
    return problems + [f"{path / name}: not named in _SUCCESS" for name in sorted(extra)]
