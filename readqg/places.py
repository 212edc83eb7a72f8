"""Where files and folders lie: a path, or an object store (`s3://bucket/prefix`, `gs://bucket/prefix`).

`place_of` makes a `pathlib.Path` of the one and a `StorePath` of the other, which answers to the same names for the little that is
needed here. What differs between the two has a function here: appearing once, reading by pyarrow, removing a folder. A store has no
folders, only names with slashes: one is there as soon as something lies in it.
"""

from __future__ import annotations

import fnmatch
import io
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias

from packaging.version import Version

from readqg.errors import ConfigError, FolderError, ReadQGError

STORES = {"s3": "s3fs", "gs": "gcsfs"}
"""Scheme -> the package that speaks to the store, through fsspec. Others are refused: fsspec's own way to create an object once looks
first and writes then, so two writers may both win."""

_LEAST_VERSION = "2024.12"
_CONFLICTS = 6
_BLOCK_BYTES = 8 << 20
_ONE_REQUEST_BYTES = 256 << 20  # far above any part; what is larger, a model's weights, goes in pieces
_HELP = (
    "Check the bucket's name, the credentials (S3: AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the machine's role; "
    "GCS: GOOGLE_APPLICATION_CREDENTIALS, or the machine's account) and, for a store of your own, AWS_ENDPOINT_URL."
)


class Changed(NamedTuple):
    """When an object was last written, on the store's clock."""

    st_mtime: float
    st_mtime_ns: int


@dataclass(frozen=True, order=True)
class StorePath:
    """An object, or all objects under a prefix. Raises `ConfigError` for a store that is not supported; all that asks the store
    raises `FolderError` where it does not answer, or refuses."""

    url: str

    def __post_init__(self) -> None:
        scheme, _, rest = self.url.partition("://")
        if scheme not in STORES:
            raise ConfigError(f"{self.url}: {scheme}:// is not supported. Give a path, s3://bucket/prefix or gs://bucket/prefix.")
        names = [name for name in rest.split("/") if name not in ("", ".")]
        if not names:
            raise ConfigError(f"{self.url} names no bucket. Give {scheme}://bucket/prefix.")
        object.__setattr__(self, "url", f"{scheme}://{'/'.join(names)}")

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str | PurePosixPath) -> StorePath:
        return StorePath(f"{self.url}/{name}")

    @property
    def bucket(self) -> StorePath:
        scheme, _, key = self.url.partition("://")
        return StorePath(f"{scheme}://{key.split('/')[0]}")

    @property
    def name(self) -> str:
        return self._pure.name

    @property
    def stem(self) -> str:
        return self._pure.stem

    @property
    def suffix(self) -> str:
        return self._pure.suffix

    @property
    def suffixes(self) -> list[str]:
        return self._pure.suffixes

    @property
    def parent(self) -> StorePath:
        """A bucket is its own."""
        return self if self == self.bucket else StorePath(self.url.rpartition("/")[0])

    def relative_to(self, other: StorePath) -> PurePosixPath:
        return self._pure.relative_to(other._pure)

    def absolute(self) -> StorePath:
        return self

    def exists(self) -> bool:
        with self._asking() as store:
            return bool(store.exists(self._key))

    def is_dir(self) -> bool:
        with self._asking() as store:
            return bool(store.isdir(self._key))

    def is_file(self) -> bool:
        with self._asking() as store:
            return bool(store.isfile(self._key))

    def iterdir(self) -> Iterator[StorePath]:
        """What lies in it, objects and prefixes; nothing where it is not there."""
        with self._asking() as store:
            try:
                found = store.ls(self._key, detail=False)
            except FileNotFoundError:
                found = []
        return (self / name for name in sorted({PurePosixPath(key).name for key in found if key.strip("/") != self._key}))

    def glob(self, pattern: str) -> Iterator[StorePath]:
        """Of `iterdir`, those whose name fits."""
        return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

    def rglob(self, pattern: str) -> Iterator[StorePath]:
        """The objects under the prefix, at any depth, whose name fits."""
        scheme = self.url.partition("://")[0]
        with self._asking() as store:
            found = sorted(store.find(self._key))
        return (StorePath(f"{scheme}://{key}") for key in found if fnmatch.fnmatchcase(PurePosixPath(key).name, pattern))

    def stat(self) -> Changed:
        with self._asking() as store:
            when = store.modified(self._key).timestamp()
        return Changed(when, int(when * 1e9))

    def version(self) -> str:
        """What changes when the object does: made of its ETag, or of all that the store says of it."""
        with self._asking() as store:
            return str(store.checksum(self._key))

    def open(self, mode: str = "rb") -> io.BufferedReader:
        """The object's bytes as a file, fetched as they are read."""
        if mode != "rb":
            raise ValueError(f"an object is read as bytes or written whole, not opened with {mode!r}")
        with self._asking() as store:
            raw = store.open(self._key, "rb", block_size=_BLOCK_BYTES)
        return io.BufferedReader(raw, 1 << 20)

    def read_bytes(self) -> bytes:
        with self._asking() as store:
            return bytes(store.cat_file(self._key))

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, content: bytes) -> None:
        """Put the object, whatever was there."""
        with self._asking() as store:
            store.pipe_file(self._key, content)

    def upload(self, file: Path) -> None:
        """`write_bytes` of a local file."""
        with self._asking() as store:
            store.put_file(str(file), self._key)

    def download(self, file: Path) -> None:
        """Write the object to a local file."""
        with self._asking() as store:
            store.get_file(self._key, str(file))

    def create(self, content: bytes | Path) -> bool:
        """Put the object, of these bytes or this file, on condition that the name is absent; False where it is not. Up to 256 MiB
        it is one request. A conflict with another writer is tried again: who has won shows then."""
        if isinstance(content, Path) and content.stat().st_size < _ONE_REQUEST_BYTES:
            content = content.read_bytes()
        for number in range(_CONFLICTS):
            try:
                with self._asking() as store:
                    if isinstance(content, Path):
                        store.put_file(str(content), self._key, mode="create")
                    else:
                        store.pipe_file(self._key, content, mode="create", chunksize=_ONE_REQUEST_BYTES)
                return True
            except FileExistsError:
                return False
            except _ConflictError:
                time.sleep(random.uniform(0.1, 0.2) * 2**number)
        raise FolderError(f"{self}: other writers were in the way {_CONFLICTS} times. Give the same command again.")

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a prefix is there with its first object."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object. A store does not say whether it was there."""
        with self._asking() as store:
            try:
                store.rm_file(self._key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    @property
    def _key(self) -> str:
        return self.url.partition("://")[2]

    @property
    def _pure(self) -> PurePosixPath:
        return PurePosixPath(self._key)

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        """The store's file system; what it raises is told apart, and told to the user."""
        try:
            yield _file_system(self.url.partition("://")[0], os.getpid())
        except (ReadQGError, FileNotFoundError, FileExistsError, IsADirectoryError):
            raise
        except Exception as error:  # s3fs and gcsfs let the errors of four libraries through
            status = _http_status(error)
            if status == 412:
                raise FileExistsError(str(self)) from error
            if status == 409:
                raise _ConflictError(str(self)) from error
            raise FolderError(f"{self}: the store refuses or does not answer: {type(error).__name__}: {error}. {_HELP}") from error


Place: TypeAlias = Path | StorePath


class _ConflictError(OSError):
    """Another request for the same name was under way."""


def is_store(where: object) -> bool:
    """Whether this names an object store, or what is written like one."""
    return isinstance(where, StorePath) or (isinstance(where, str) and "://" in where)


def place_of(where: str | Path | StorePath) -> Place:
    """What is meant by a location. Raises `ConfigError` for a store that is not supported."""
    if isinstance(where, str):
        return StorePath(where) if is_store(where) else Path(where)
    return where


def readable(where: Place) -> Any:
    """What pyarrow and polars read a file from: the path, or the object as an open file."""
    return where.open() if isinstance(where, StorePath) else where


def create(where: Place, content: bytes) -> bool:
    """Make a small file, once; False where it is there already."""
    if isinstance(where, StorePath):
        return where.create(content)
    try:
        with where.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def remove_folder(folder: Place) -> None:
    """Remove all that lies in a folder, as far as that can be done."""
    if isinstance(folder, StorePath):
        for path in folder.rglob("*"):
            path.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


@lru_cache(maxsize=4)
def _file_system(scheme: str, pid: int) -> Any:
    """Once a process, and for all its threads. Listings are never cached: other drivers and workers write there too."""
    package = STORES[scheme]
    try:
        found = version(package)
    except PackageNotFoundError:
        raise ConfigError(f"{scheme}:// needs the package {package}, which is not installed: pip install 'readqg[{scheme}]'.") from None
    if Version(found) < Version(_LEAST_VERSION):
        raise ConfigError(f"{scheme}:// needs {package} {_LEAST_VERSION} or newer, for older ones cannot create an object once; found "
                          f"{found}: pip install --upgrade 'readqg[{scheme}]'.")
    import fsspec

    return fsspec.filesystem(scheme, use_listings_cache=False)


def _http_status(error: BaseException | None) -> int | None:
    """Of the answer that an error of s3fs (botocore's) or gcsfs stems from."""
    while error is not None:
        response = getattr(error, "response", None)
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(response, dict) else getattr(error, "code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__
    return None
