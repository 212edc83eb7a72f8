"""Hashes, names and small files of an output folder."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from readqg.errors import FolderError
from readqg.places import Place, StorePath, readable
from readqg.shards.once import sync

FOOTER_KEY = b"readqg"


def sha256_file(path: Place) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """A stable hash of a JSON-able value: the first 32 hex digits of the sha256 of its canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=list).encode()).hexdigest()[:32]


def stable_hash(text: str, seed: int = 0) -> int:
    """A 64-bit hash that is the same on every machine and in every process; used to draw subsets of ids."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=str(seed).encode())
    return int.from_bytes(digest.digest(), "big")


def part_name(index: int, total: int) -> str:
    return f"part-{index:05d}-of-{total:05d}.parquet"


@contextmanager
def appearing(path: Place) -> Iterator[Path]:
    """A name to write to; what is written appears under `path` whole, or not at all. Errors are `explained`."""
    if isinstance(path, StorePath):
        with explained(f"writing {path}"), tempfile.TemporaryDirectory(prefix="readqg-") as folder:
            yield Path(folder) / path.name
            path.upload(Path(folder) / path.name)
        return
    # Two hosts that share a folder may have processes of the same number. `readqg clean` knows the ending.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    with explained(f"writing {path}"):
        try:
            yield partial
            sync(partial)  # else the new name may outlive a power cut that its bytes do not
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_whole(path: Place, text: str) -> None:
    """Write a small file so that a kill leaves the old one or the new one."""
    if isinstance(path, StorePath):
        return path.write_bytes(text.encode())
    with appearing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def explained(action: str) -> Iterator[None]:
    """Turns the operating system's refusals into a `FolderError` that says what to do."""
    try:
        yield
    except PermissionError as error:
        raise FolderError(f"No permission {action}: {error}. Choose another folder or mend its rights.") from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise FolderError(
            f"The disk is full {action}: {error}. What is committed stays; free some space and give the same command again."
        ) from error


def read_footer(path: Place) -> dict[str, Any]:
    """What a part's footer says of it. Raises `FolderError` for a file that is no part of ours or is damaged."""
    try:
        metadata = pq.read_schema(readable(path)).metadata or {}
        footer: dict[str, Any] = json.loads(metadata[FOOTER_KEY])
    except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
        raise FolderError(
            f"{path} is damaged or not a part: {error}. Delete it and the folder's _SUCCESS, then give the command that made it again."
        ) from error
    return footer


def read_json(path: Place) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise FolderError(f"{path} is damaged: {error}. Delete the folder and make it again.") from error
    return content
