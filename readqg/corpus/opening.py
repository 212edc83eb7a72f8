"""The bytes and lines of a file, plain or gzipped, within limits.

A gzip file is known by its first two bytes, not by its name. It is refused when it inflates like a bomb: text shrinks 3 to 10
times, never 200 times over a hundred megabytes.
"""

from __future__ import annotations

import gzip
import io
import itertools
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from readqg.errors import InputError
from readqg.places import Place

MAX_LINE_BYTES = 64 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_BOMB_RATIO = 200
_BOMB_FLOOR_BYTES = 100 << 20


@contextmanager
def opened(path: Place) -> Iterator[BinaryIO]:
    """The bytes of a file, inflated where it is gzipped."""
    with looking_at(path), path.open("rb") as raw:
        gzipped = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        yield cast(BinaryIO, io.BufferedReader(Inflated(raw, path), 1 << 20)) if gzipped else raw


@contextmanager
def looking_at(path: Place) -> Iterator[None]:
    """Turns the operating system's refusals into an `InputError` that says what to do."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; a file was expected.") from None
    except PermissionError:
        raise InputError(f"{path}: no permission to read it. Mend its rights (chmod +r) or copy it elsewhere.") from None


class Inflated(io.RawIOBase):
    """What a gzip file holds, as a stream that raises `InputError` where it is damaged or a bomb."""

    def __init__(self, raw: BinaryIO, path: Place) -> None:
        self._raw, self._path, self._gzip, self._bytes = raw, path, gzip.GzipFile(fileobj=raw), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            chunk = self._gzip.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{self._path}: the gzip file is damaged or cut off after {self._bytes:,} bytes of content "
                             f"({error}). Fetch or compress it again.") from None
        self._bytes += len(chunk)
        if self._bytes > _BOMB_FLOOR_BYTES and self._bytes > _BOMB_RATIO * self._raw.tell():
            raise InputError(f"{self._path}: inflates more than {_BOMB_RATIO} times (stopped at {self._bytes:,} bytes): this is "
                             "no text but a gzip bomb. If it is meant, give the inflated file.")
        buffer[: len(chunk)] = chunk
        return len(chunk)


def bounded_lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines, ended by a newline byte alone; None for one that is longer than memory should hold."""
    for number in itertools.count(1):
        raw = file.readline(MAX_LINE_BYTES)
        if not raw:
            return
        if len(raw) < MAX_LINE_BYTES or raw.endswith(b"\n"):
            yield number, raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            continue
        while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield number, None
