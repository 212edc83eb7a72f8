"""A folder being made: begin or go on, commit, finish."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from readqg.errors import FolderError, RunError
from readqg.shards.attempts import clear_attempts
from readqg.shards.files import FOOTER_KEY, explained, fingerprint, part_name, read_footer, read_json, sha256_file, write_whole
from readqg.stage import ShardResult

log = logging.getLogger("readqg")

_STALE_TRY_S = 86_400.0
_COUNTS = ("inputs", "rows", "errors", "nothing")
_VERSIONED = ("readqg", "torch", "transformers", "ray", "pyarrow")


@dataclass
class OutputFolder:
    """A folder being made. Picklable: workers commit through their own copy."""

    path: Path
    stage: str
    input_fingerprint: str
    run_id: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")

    @classmethod
    def begin(
        cls,
        path: str | Path,
        stage: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str] | None = None,
        models: Mapping[str, str] | None = None,
    ) -> OutputFolder:
        """Begin or go on with a folder.

        `config` is `readqg.config.identity(...)`, `inputs` and `models` name -> fingerprint. Raises `FolderError` where the
        folder was begun with something else (the difference is spelled out), holds other files, or may not be written."""
        path = Path(path).absolute()  # workers have other working directories
        asked = json.loads(
            json.dumps(
                {"stage": stage, "config": config, "inputs": inputs or {}, "models": models or {}}, default=list, sort_keys=True
            )
        )
        folder = cls(path, stage, fingerprint([asked["inputs"], asked["models"]]))
        with explained(f"making {path}"):
            path.mkdir(parents=True, exist_ok=True)
            if not (path / "_config.json").exists():
                strangers = [p.name for p in path.iterdir() if not p.name.startswith((".", "_"))]
                if strangers:
                    raise FolderError(
                        f"{path} is not empty ({strangers[0]}, ...) and was not begun by ReadQG. Give an empty folder."
                    )
                folder._create("_config.json", json.dumps({**asked, "versions": _versions()}, indent=1).encode())
        begun = read_json(path / "_config.json")
        changed = list(_differences({k: begun.get(k) for k in asked}, asked))
        if changed:
            raise FolderError(
                f"{path} was begun with something else:\n"
                + "\n".join(f"  {line}" for line in changed)
                + "\nGive another --out, or the same values, or delete that folder."
            )
        folder._reopen()
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

    def commit(
        self, index: int, total: int, result: ShardResult, row_groups: list[int] | None = None, seconds: float = 0.0
    ) -> dict[str, Any]:
        """Write one shard and make it appear. Returns its receipt; a shard that is there already is left as it is."""
        name = part_name(index, total)
        counts = {
            "inputs": result.inputs,
            "rows": result.table.num_rows,
            "errors": result.errors,
            "nothing": result.nothing,
        }
        footer = {
            "stage": self.stage,
            "input": self.input_fingerprint,
            "first": result.first_id,
            "last": result.last_id,
            **counts,
            **({"counts": result.counts} if result.counts else {}),
        }
        schema = result.table.schema.with_metadata({FOOTER_KEY: json.dumps(footer, sort_keys=True).encode()})
        with explained(f"writing {self.path / name}"):
            self.tmp.mkdir(parents=True, exist_ok=True)
            try_path = self.tmp / f"{name}.{uuid.uuid4().hex[:8]}"
            try:
                _write_table(
                    try_path, result.table.cast(schema.remove_metadata()).replace_schema_metadata(schema.metadata), row_groups
                )
                digest = sha256_file(try_path)
                won = _link(try_path, self.path / name)
            finally:
                try_path.unlink(missing_ok=True)
            if won:
                metrics = {"sha256": digest, "seconds": round(seconds, 3), **counts, **result.counts, **result.metrics}
                (self.path / "_metrics").mkdir(exist_ok=True)
                write_whole(self.path / "_metrics" / f"{index:05d}.json", json.dumps(metrics))
        clear_attempts(self.path, index)
        return {"index": index, "committed": won, "seconds": seconds, **counts, **result.metrics}

    def summary(self, total: int) -> dict[str, Any]:
        """What `_SUCCESS` will say. Raises `FolderError` where a shard is not there yet."""
        absent = self.missing(total)
        if absent:
            raise FolderError(f"{self.path}: {len(absent)} of {total} shards are not there yet.")
        parts = {part_name(i, total): self._part_facts(i, total) for i in range(total)}
        counts = Counter(dict.fromkeys(_COUNTS, 0))
        for facts in parts.values():
            counts.update({name: count for name, count in facts.items() if name != "sha256"})
        return {
            "counts": dict(counts),
            "shards": total,
            "parts": parts,
            "fingerprint": fingerprint([p["sha256"] for p in parts.values()]),
        }

    def finish(self, total: int, max_error_share: float = 1.0) -> dict[str, Any]:
        """Write `_SUCCESS` once every shard is there; returns it. Does nothing where it exists.

        Raises `RunError` where more than `max_error_share` of the input rows have an error."""
        if self.done:
            return self.success()
        summary = self.summary(total)
        inputs, errors = summary["counts"]["inputs"], summary["counts"]["errors"]
        if errors > max_error_share * inputs:
            raise RunError(
                f"{self.stage}: {errors} of {inputs} rows have an error, more than the {max_error_share:.0%} allowed. "
                f"Column `error` in {self.path} says why. To try those rows again, delete their parts; to accept them, raise "
                "--compute.max-error-share; then give the command again."
            )
        return self._succeed(summary)

    def success(self) -> dict[str, Any]:
        """What `_SUCCESS` says."""
        return read_json(self.path / "_SUCCESS")

    def commit_files(self, files: Path, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Make a folder of files (a model) the content of this one and write `_SUCCESS`, with `facts` in it."""
        digests = {}
        with explained(f"writing {self.path}"):
            for file in sorted(p for p in files.rglob("*") if p.is_file()):
                name = file.relative_to(files).as_posix()
                digests[name] = sha256_file(file)
                target = self.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                file.chmod(0o644)  # libraries that write through a temporary file leave 0600
                _sync(file)
                os.replace(file, target)
        return self._succeed({"files": digests, "fingerprint": fingerprint(digests), "facts": dict(facts or {})})

    def _part_facts(self, index: int, total: int) -> dict[str, Any]:
        path = self.path / part_name(index, total)
        footer = read_footer(path)
        if (footer["stage"], footer["input"]) != (self.stage, self.input_fingerprint):
            raise FolderError(f"{path} was made by {footer['stage']} from another input. Delete it and give the same command again.")
        return {"sha256": sha256_file(path), **{key: footer[key] for key in _COUNTS}, **footer.get("counts", {})}

    def _succeed(self, success: dict[str, Any]) -> dict[str, Any]:
        self._create("_SUCCESS", json.dumps({"stage": self.stage, **success}, indent=1, default=float).encode())
        for leftover in (self.tmp, self.path / "_attempts"):
            shutil.rmtree(leftover, ignore_errors=True)
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

    def _reopen(self) -> None:
        """A finished folder that has lost parts is unfinished again: only they are made anew."""
        if not self.done:
            return
        absent = [name for name in self.success().get("parts", {}) if not (self.path / name).exists()]
        if absent:
            log.warning("%s: %d parts are gone, first %s; they are made again", self.path, len(absent), absent[0])
            (self.path / "_SUCCESS").unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove tries that nobody can still be writing."""
        for stale in (self.path / "_tmp").glob("*"):
            with suppress(FileNotFoundError):  # another driver's, removed meanwhile
                if time.time() - stale.stat().st_mtime > _STALE_TRY_S:
                    shutil.rmtree(stale, ignore_errors=True)


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
    _sync(target.parent)
    return True


def _sync(path: Path) -> None:
    """Have the system write a file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
