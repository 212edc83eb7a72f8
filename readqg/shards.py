"""The output folder: one Parquet file a shard, committed once by appearing under its final name; resume, refusal, verification.

```
OUT/
  _config.json                     what was asked: stage, config, input and model fingerprints, versions; written first
  part-00003-of-00064.parquet      one shard, whole; its footer holds counts, first and last input id, input fingerprint
  _tmp/<run id>/                   tries under way of one driver
  _metrics/00003.json              per part: sha256, seconds, counters; outside every digest
  _SUCCESS                         written last: counts, shards, sha256 of every part (or, for a model, of every file)
```
A try is written to `_tmp`, synced, read back with its page checksums, then hard-linked to the final name only if that name is
absent: whoever comes second deletes its own try. Nothing rests on locks, so late, doubled or killed workers do no harm.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from readqg.errors import FolderError, InputError
from readqg.stage import ShardResult

_FOOTER_KEY = b"readqg"
_STALE_TRY_S = 86_400.0
_VERSIONED = ("readqg", "torch", "transformers", "ray", "pyarrow")


def sha256_file(path: Path) -> str:
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


@dataclass(frozen=True)
class InputFolder:
    """A finished folder, opened for reading. Rows are numbered through its parts in order."""

    path: Path
    success: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Identifies the content: a hash over the sha256 of every part."""
        return str(self.success["fingerprint"])

    @property
    def rows(self) -> int:
        return int(self.success["counts"]["rows"])

    @property
    def parts(self) -> list[Path]:
        return [self.path / name for name in sorted(self.success["parts"])]

    @cached_property
    def schema(self) -> pa.Schema:
        return pq.read_schema(self.parts[0]).remove_metadata()

    def read(self, start: int = 0, stop: int | None = None, columns: list[str] | None = None) -> pa.Table:
        """Rows `start` to `stop` (exclusive), checked against their page checksums."""
        stop = self.rows if stop is None else min(stop, self.rows)
        tables, seen = [], 0
        for name in sorted(self.success["parts"]):
            rows = self.success["parts"][name]["rows"]
            low, high = max(start - seen, 0), min(stop - seen, rows)
            if low < high:
                tables.append(_read_part(self.path / name, columns).slice(low, high - low))
            seen += rows
        empty = self.schema.empty_table()
        return pa.concat_tables(tables) if tables else empty.select(columns) if columns else empty


def _read_part(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns, page_checksum_verification=True).replace_schema_metadata(None)
    except (OSError, pa.ArrowInvalid) as error:
        raise FolderError(f"{path} cannot be read: {error}. Delete that part and give the command that made it again.") from error


def open_input(path: str | Path, columns: tuple[str, ...] = ()) -> InputFolder:
    """Open a finished folder of Parquet parts.

    Raises `InputError` where the folder is absent, has no `_SUCCESS`, misses a part, or lacks one of `columns`."""
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such folder. Give the output folder of an earlier stage.")
    if not (path / "_SUCCESS").exists():
        raise InputError(f"{path} has no _SUCCESS: the stage that makes it has not finished. Give its command again, then this one.")
    success = _read_json(path / "_SUCCESS")
    if "parts" not in success:
        raise InputError(f"{path} holds a model, not rows.")
    absent = [name for name in success["parts"] if not (path / name).exists()]
    if absent:
        raise InputError(f"{path}: {len(absent)} of {len(success['parts'])} parts are gone, first {absent[0]}. "
                         "Delete _SUCCESS there and give the command that made it again.")
    folder = InputFolder(path, success)
    lacking = [name for name in columns if name not in folder.schema.names]
    if lacking:
        raise InputError(f"{path} has no column {', '.join(lacking)}; it has {', '.join(folder.schema.names)}. Is it the right folder?")
    return folder


@dataclass
class OutputFolder:
    """A folder being made. Picklable: workers commit through their own copy."""

    path: Path
    stage: str
    input_fingerprint: str
    run_id: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")

    @classmethod
    def begin(
        cls, path: str | Path, stage: str, config: Mapping[str, Any],
        inputs: Mapping[str, str] | None = None, models: Mapping[str, str] | None = None,
    ) -> OutputFolder:
        """Begin or go on with a folder.

        `config` is `readqg.config.identity(...)`, `inputs` and `models` name -> fingerprint. Raises `FolderError` where the
        folder was begun with something else (the difference is spelled out), holds other files, or may not be written."""
        path = Path(path)
        asked = json.loads(json.dumps(
            {"stage": stage, "config": config, "inputs": inputs or {}, "models": models or {}}, default=list, sort_keys=True))
        folder = cls(path, stage, fingerprint([asked["inputs"], asked["models"]]))
        with explained(f"making {path}"):
            path.mkdir(parents=True, exist_ok=True)
            if not (path / "_config.json").exists():
                strangers = [p.name for p in path.iterdir() if not p.name.startswith((".", "_"))]
                if strangers:
                    raise FolderError(f"{path} is not empty ({strangers[0]}, ...) and was not begun by ReadQG. Give an empty folder.")
                folder._create("_config.json", json.dumps({**asked, "versions": _versions()}, indent=1).encode())
        begun = _read_json(path / "_config.json")
        changed = list(_differences({k: begun.get(k) for k in asked}, asked))
        if changed:
            raise FolderError(f"{path} was begun with something else:\n" + "\n".join(f"  {line}" for line in changed)
                              + "\nGive another --out, or the same values, or delete that folder.")
        folder._sweep()
        return folder

    @property
    def done(self) -> bool:
        return (self.path / "_SUCCESS").exists()

    @property
    def tmp(self) -> Path:
        return self.path / "_tmp" / self.run_id

    def missing(self, total: int) -> list[int]:
        """Indices of the shards that are not there. Raises `FolderError` where parts of another total lie there."""
        there = {p.name for p in self.path.glob("part-*.parquet")}
        strange = there - {part_name(i, total) for i in range(total)}
        if strange:
            raise FolderError(f"{self.path} holds {min(strange)}, but this run has {total} shards. Give an empty folder.")
        return [i for i in range(total) if part_name(i, total) not in there]

    def commit(self, index: int, total: int, result: ShardResult, row_groups: list[int] | None = None, seconds: float = 0.0) -> dict[str, Any]:
        """Write one shard and make it appear. Returns its receipt; a shard that is there already is left as it is."""
        name = part_name(index, total)
        counts = {"inputs": result.inputs, "rows": result.table.num_rows, "errors": result.errors, "nothing": result.nothing}
        footer = {"stage": self.stage, "input": self.input_fingerprint, "first": result.first_id, "last": result.last_id, **counts}
        schema = result.table.schema.with_metadata({_FOOTER_KEY: json.dumps(footer, sort_keys=True).encode()})
        with explained(f"writing {self.path / name}"):
            self.tmp.mkdir(parents=True, exist_ok=True)
            try_path = self.tmp / f"{name}.{uuid.uuid4().hex[:8]}"
            try:
                _write_table(try_path, result.table.cast(schema.remove_metadata()).replace_schema_metadata(schema.metadata), row_groups)
                digest = sha256_file(try_path)
                won = _link(try_path, self.path / name)
            finally:
                try_path.unlink(missing_ok=True)
            if won:
                metrics = {"sha256": digest, "seconds": round(seconds, 3), **counts, **result.metrics}
                (self.path / "_metrics").mkdir(exist_ok=True)
                (self.path / "_metrics" / f"{index:05d}.json").write_text(json.dumps(metrics))
        return {"index": index, "committed": won, **counts, **result.metrics}

    def summary(self, total: int) -> dict[str, Any]:
        """What `_SUCCESS` will say. Raises `FolderError` where a shard is not there yet."""
        absent = self.missing(total)
        if absent:
            raise FolderError(f"{self.path}: {len(absent)} of {total} shards are not there yet.")
        parts = {part_name(i, total): self._part_facts(i, total) for i in range(total)}
        counts = {key: sum(p[key] for p in parts.values()) for key in ("inputs", "rows", "errors", "nothing")}
        return {"counts": counts, "shards": total, "parts": parts, "fingerprint": fingerprint([p["sha256"] for p in parts.values()])}

    def finish(self, total: int) -> dict[str, Any]:
        """Write `_SUCCESS` once every shard is there; returns it. Does nothing where it exists."""
        return self.success() if self.done else self._succeed(self.summary(total))

    def success(self) -> dict[str, Any]:
        """What `_SUCCESS` says."""
        return _read_json(self.path / "_SUCCESS")

    def commit_files(self, files: Path, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Make a folder of files (a model) the content of this one and write `_SUCCESS`, with `facts` in it."""
        digests = {}
        with explained(f"writing {self.path}"):
            for file in sorted(p for p in files.rglob("*") if p.is_file()):
                name = file.relative_to(files).as_posix()
                digests[name] = sha256_file(file)
                target = self.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
        return self._succeed({"files": digests, "fingerprint": fingerprint(digests), "facts": dict(facts or {})})

    def _part_facts(self, index: int, total: int) -> dict[str, Any]:
        path = self.path / part_name(index, total)
        footer = read_footer(path)
        metrics = self.path / "_metrics" / f"{index:05d}.json"
        digest = _read_json(metrics)["sha256"] if metrics.exists() else sha256_file(path)
        return {"sha256": digest, **{key: footer[key] for key in ("inputs", "rows", "errors", "nothing")}}

    def _succeed(self, success: dict[str, Any]) -> dict[str, Any]:
        self._create("_SUCCESS", json.dumps({"stage": self.stage, **success}, indent=1, default=float).encode())
        shutil.rmtree(self.tmp, ignore_errors=True)
        return self.success()

    def _create(self, name: str, content: bytes) -> None:
        """Make a small file appear whole, once."""
        with explained(f"writing {self.path / name}"):
            self.tmp.mkdir(parents=True, exist_ok=True)
            try_path = self.tmp / f"{name}.{uuid.uuid4().hex[:8]}"
            with try_path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            _link(try_path, self.path / name)
            try_path.unlink()

    def _sweep(self) -> None:
        """Remove tries that nobody can still be writing."""
        for stale in (self.path / "_tmp").glob("*"):
            if time.time() - stale.stat().st_mtime > _STALE_TRY_S:
                shutil.rmtree(stale, ignore_errors=True)


def read_footer(path: Path) -> dict[str, Any]:
    """What a part's footer says of it. Raises `FolderError` for a file that is no part of ours or is damaged."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        footer: dict[str, Any] = json.loads(metadata[_FOOTER_KEY])
    except (OSError, pa.ArrowInvalid, KeyError, ValueError) as error:
        raise FolderError(f"{path} is damaged or not a part: {error}. Delete it and give the command that made it again.") from error
    return footer


def verify(path: str | Path) -> list[str]:
    """What is wrong with a finished folder: every file compared with its sha256. An empty list: nothing."""
    path = Path(path)
    if not (path / "_SUCCESS").exists():
        return [f"{path}: no _SUCCESS"]
    success = _read_json(path / "_SUCCESS")
    expected = {n: p["sha256"] for n, p in success["parts"].items()} if "parts" in success else success["files"]
    problems = [
        f"{path / name}: {'missing' if not (path / name).exists() else 'its bytes have changed (sha256)'}"
        for name, digest in expected.items()
        if not (path / name).exists() or sha256_file(path / name) != digest
    ]
    extra = {p.name for p in path.glob("part-*.parquet")} - set(expected)
    return problems + [f"{path / name}: not named in _SUCCESS" for name in sorted(extra)]


def _write_table(path: Path, table: pa.Table, row_groups: list[int] | None) -> None:
    with path.open("wb") as file:
        with pq.ParquetWriter(file, table.schema, compression="zstd", write_page_checksum=True) as writer:
            start = 0
            for length in row_groups if row_groups is not None else [table.num_rows]:
                writer.write_table(table.slice(start, length), row_group_size=max(length, 1))
                start += length
        file.flush()
        os.fsync(file.fileno())
    if pq.read_table(path, page_checksum_verification=True).num_rows != table.num_rows:
        raise FolderError(f"{path}: what was read back is not what was written. Is the disk sound?")


def _link(source: Path, target: Path) -> bool:
    """True where `target` did not exist and is now `source`; the folder's entry is synced."""
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return True


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise FolderError(f"{path} is damaged: {error}. Delete the folder and make it again.") from error
    return content


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _differences(begun: Any, asked: Any, name: str = "") -> Iterator[str]:
    if isinstance(begun, dict) and isinstance(asked, dict):
        for key in sorted({*begun, *asked}):
            yield from _differences(begun.get(key), asked.get(key), f"{name}.{key}" if name else key)
    elif begun != asked:
        yield f"{name}: the folder has {begun!r}, this command {asked!r}"
