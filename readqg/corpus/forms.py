"""What every source of rows answers to, and the two plain ones: a single raw file, and a finished folder of parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from readqg.config import ImportSettings
from readqg.corpus.files import Line, columns, read_judgment_lines, read_lines
from readqg.corpus.opening import looking_at
from readqg.corpus.rows import Kind
from readqg.places import Place
from readqg.shards import open_input, sha256_file


@dataclass(frozen=True)
class Source:
    """One kind of rows: a raw file, or, `imported`, a finished folder of parts. Other forms extend it."""

    kind: Kind
    path: Place
    imported: bool = False

    named: ClassVar[bool] = False
    """Whether rows have the canonical field names already, so that the names in the settings do not matter."""
    of_files: ClassVar[bool] = False
    """Whether a row that cannot be used is a whole file, or a page of one, rather than a line. Such rows are slow to read."""

    def lines(self, settings: ImportSettings) -> Iterator[Line]:
        """The raw rows, bad ones with a reason. Raises `InputError` where nothing can be read at all."""
        return read_judgment_lines(self.path) if self.kind == "judgments" else read_lines(self.path)

    def columns(self) -> list[str] | None:
        """Names that all rows share; None where each row has its own."""
        return columns(self.path)

    def fingerprint(self) -> str:
        """Identifies the content."""
        with looking_at(self.path):
            return open_input(self.path).fingerprint if self.imported else sha256_file(self.path)

    def changed_ns(self) -> int:
        """When the content was last written."""
        marker = self.path / "_SUCCESS" if self.imported else self.path
        return marker.stat().st_mtime_ns if marker.exists() else 0

    def left_out(self) -> str:
        """What lies there and is not read, in words; empty where there is nothing."""
        return ""
