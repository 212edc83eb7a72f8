"""A folder being made: begin or go on, commit, finish."""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from readqg.errors import FolderError, RunError
from readqg.places import Place, StorePath, place_of, remove_folder
from readqg.shards.attempts import clear_attempts
from readqg.shards.files import FOOTER_KEY, explained, fingerprint, part_name, read_footer, read_json, sha256_file, write_whole
from readqg.shards.once import appear_once, prove, sync
from readqg.stage import ShardResult

log = logging.getLogger("readqg")

_STALE_TRY_S = 86_400.0
_READERS = 8  # at once, of a store's parts
_COUNTS = ("inputs", "rows", "errors", "nothing")
_IDENTITY = ("stage", "input", "first", "last", "inputs")
_VERSIONED = ("readqg", "torch", "transformers", "ray", "pyarrow")


@dataclass
class OutputFolder:
    """A folder being made. Picklable: workers commit through their own copy."""

    path: Place
    stage: str
    input_fingerprint: str
    run_id: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}")

    @classmethod
    def begin(
        cls,
        path: str | Place,
        stage: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, str] | None = None,
        models: Mapping[str, str] | None = None,
    ) -> OutputFolder:
        """Begin or go on with a folder.

        `config` is `readqg.config.identity(...)`, `inputs` and `models` name -> fingerprint. Raises `FolderError` where the
        folder was begun with something else (the difference is spelled out), holds other files, or may not be written, and for a
        store that does not keep to conditional creates."""
        path = place_of(path).absolute()  # workers have other working directories
        asked = json.loads(
            json.dumps(
                {"stage": stage, "config": config, "inputs": inputs or {}, "models": models or {}}, default=list, sort_keys=True
            )
        )
        folder = cls(path, stage, fingerprint([asked["inputs"], asked["models"]]))
        if isinstance(path, StorePath):
            prove(path)
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
        """Where tries are made. A store has none: there they are made in a local temporary folder each."""
        return self.local / "_tmp" / self.run_id

    @property
    def local(self) -> Path:
        """The folder, which must be a path here."""
        if isinstance(self.path, StorePath):
            raise TypeError(f"{self.path} is no path")
        return self.path

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
            with self._try(name) as try_path:
                _write_table(
                    try_path, result.table.cast(schema.remove_metadata()).replace_schema_metadata(schema.metadata), row_groups
                )
                digest = sha256_file(try_path)
                won = appear_once(try_path, self.path / name)
            if not won and isinstance(self.path, StorePath):
                self._check_same(self.path / name, footer)
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
        names = [part_name(i, total) for i in range(total)]
        with ThreadPoolExecutor(_READERS if isinstance(self.path, StorePath) else 1) as pool:
            parts = dict(zip(names, pool.map(self._part_facts, names), strict=True))
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

    def commit_files(
        self, files: Path, facts: Mapping[str, Any] | None = None, only: Collection[str] | None = None
    ) -> dict[str, Any]:
        """Make a folder of files (a model), or `only` those of it, the content of this one and write `_SUCCESS`, with `facts` in
        it. Raises `FolderError` where a store holds another file under one of the names."""
        digests = {}
        with explained(f"writing {self.path}"):
            for file in sorted(p for p in files.rglob("*") if p.is_file()):
                name = file.relative_to(files).as_posix()
                if only is not None and name not in only:
                    continue
                digests[name] = sha256_file(file)
                target = self.path / name
                if isinstance(target, StorePath):
                    _upload_once(file, target, digests[name])
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                file.chmod(0o644)  # libraries that write through a temporary file leave 0600
                sync(file)
                os.replace(file, target)
        return self._succeed({"files": digests, "fingerprint": fingerprint(digests), "facts": dict(facts or {})})

    def _part_facts(self, name: str) -> dict[str, Any]:
        path = self.path / name
        footer = read_footer(path)
        if (footer["stage"], footer["input"]) != (self.stage, self.input_fingerprint):
            raise _stranger(path, footer)
        return {"sha256": sha256_file(path), **{key: footer[key] for key in _COUNTS}, **footer.get("counts", {})}

    def _succeed(self, success: dict[str, Any]) -> dict[str, Any]:
        self._create("_SUCCESS", json.dumps({"stage": self.stage, **success}, indent=1, default=float).encode())
        if not isinstance(self.path, StorePath):
            remove_folder(self.tmp)
        remove_folder(self.path / "_attempts")
        return self.success()

    def _create(self, name: str, content: bytes) -> None:
        """Make a small file appear whole, once."""
        with explained(f"writing {self.path / name}"), self._try(name) as try_path:
            with try_path.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            appear_once(try_path, self.path / name)

    @contextmanager
    def _try(self, name: str) -> Iterator[Path]:
        """A local file to write; it is gone afterwards."""
        if isinstance(self.path, StorePath):
            with tempfile.TemporaryDirectory(prefix="readqg-") as folder:
                yield Path(folder) / name
            return
        self.tmp.mkdir(parents=True, exist_ok=True)
        try_path = self.tmp / f"{name}.{uuid.uuid4().hex[:8]}"
        try:
            yield try_path
        finally:
            try_path.unlink(missing_ok=True)

    def _check_same(self, path: Place, footer: Mapping[str, Any]) -> None:
        """What another has made first must be the same shard of the same input."""
        there = read_footer(path)
        if any(there.get(key) != footer[key] for key in _IDENTITY):
            raise _stranger(path, there)

    def _reopen(self) -> None:
        """A finished folder that has lost parts is unfinished again: only they are made anew."""
        if not self.done:
            return
        there = {part.name for part in self.path.glob("part-*.parquet")}
        absent = [name for name in self.success().get("parts", {}) if name not in there]
        if absent:
            log.warning("%s: %d parts are gone, first %s; they are made again", self.path, len(absent), absent[0])
            (self.path / "_SUCCESS").unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove tries that nobody can still be writing."""
        if isinstance(self.path, StorePath):
            return
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


def _stranger(path: Place, footer: Mapping[str, Any]) -> FolderError:
    return FolderError(f"{path} was made by {footer['stage']} from another input. Delete it and give the same command again.")


def _upload_once(file: Path, target: StorePath, digest: str) -> None:
    if not target.create(file) and sha256_file(target) != digest:
        raise FolderError(f"{target} is there already, from a try that was not finished or from another driver's, and differs. If no "
                          "other driver is at work there, delete it and give the same command again.")


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
