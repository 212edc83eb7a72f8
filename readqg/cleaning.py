"""`readqg clean`: what output folders and this machine's cache hold that nobody needs any more.

Of a finished folder: notes of tries that were killed (`_attempts`) and the checkpoints of its training (`_train`); of any, tries
that have not moved for a day (`_tmp`), and what was killed while it was written (`.NAME.….partial`); of a run with `until_no_gain`
the sizes that were not chosen. Of the cache: copies of what
lies in stores and of documents for random access, both made again when needed, and trainings into stores, all untouched for a day. A
committed part, a model or a table that a command may still read is never one of these.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from stat import S_ISDIR
from typing import Any, NamedTuple

from platformdirs import user_cache_path
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from readqg.config import CleanConfig
from readqg.errors import ConfigError, InputError
from readqg.growing import ROUNDS_FILE, not_chosen
from readqg.places import is_store
from readqg.shards import is_stage_config

_DAY_S = 24 * 3600
_PARTIAL = ".*.partial"
_WITHIN = {"_tmp", "_train"}


class Leftover(NamedTuple):
    path: Path
    what: str
    size: int
    """Bytes, of all files in it."""


def clean(config: CleanConfig) -> dict[str, Any]:
    """List what may go, with its size, and, with `yes`, remove it; returns `found` and `bytes` of it, `removed`, and `files`.

    Raises `InputError` where the folder is absent or nothing in it is ReadQG's, `ConfigError` for one in a store."""
    if config.folder is None and not config.cache:
        raise ConfigError("clean what? Give a folder, or --cache for what this machine's cache holds.")
    found = [*(_of_folders(config.folder) if config.folder is not None else ()), *(_of_cache() if config.cache else ())]
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("may go" if not config.yes else "gone")
    table.add_column("size", justify="right")
    table.add_column("what")
    for leftover in found:
        if config.yes:
            _remove(leftover.path)
        table.add_row(escape(str(leftover.path)), _size(leftover.size), leftover.what)
    console = Console(stderr=True)
    if found:
        console.print(table)
        if not config.yes:
            console.print("Nothing was removed. The same command with --yes removes all of it.", highlight=False)
    return {"found": len(found), "bytes": sum(f.size for f in found), "removed": len(found) if config.yes else 0,
            "files": [{"path": str(f.path), "bytes": f.size, "what": f.what} for f in found]}


def _of_folders(root: str) -> Iterator[Leftover]:
    if is_store(root):
        raise ConfigError(f"{root}: nothing that takes room is left over in a store. `readqg clean --cache`: what was fetched from it.")
    if not Path(root).is_dir():
        raise InputError(f"{root}: no such folder.")
    found = (p for p in Path(root).rglob("_config.json") if not _WITHIN & set(p.relative_to(root).parts))
    folders = sorted(p.parent for p in found if is_stage_config(p))  # one that holds another comes before it
    if not folders:
        raise InputError(f"{root}: nothing in it was made by ReadQG (no _config.json of its own).")
    others = [size for rounds in sorted(Path(root).rglob(ROUNDS_FILE)) for size in not_chosen(rounds.parent)]
    for size in others:
        yield from _there(size, "what was made for a number of documents that was not chosen")
    partials: set[Path] = set()
    for folder in folders:
        if not set(others).isdisjoint(folder.parents):
            continue
        mine = set(folder.rglob(_PARTIAL)) - partials
        partials |= mine
        gone = {"_tmp", "_attempts", "_train"} if (folder / "_SUCCESS").exists() else {"_tmp"}
        for partial in sorted(mine):
            if not gone & set(partial.relative_to(root).parts) and _age_s(partial) > _DAY_S:
                yield from _there(partial, "a file that was not written to its end, older than a day")
        for tried in _entries(folder / "_tmp"):
            if _age_s(tried) > _DAY_S:
                yield from _there(tried, "a try older than a day")
        if (folder / "_SUCCESS").exists():
            yield from _there(folder / "_attempts", "notes of tries that were killed")
            yield from _there(folder / "_train", "checkpoints of a training that is done")


def _of_cache() -> Iterator[Leftover]:
    cache = user_cache_path("readqg")
    for copy in _entries(cache / "stores"):
        if _age_s(copy) > _DAY_S:
            yield from _there(copy, "a copy of what lies in a store, unused for a day; fetched again when needed")
    for copy in _entries(cache / "documents"):
        if _age_s(copy) > _DAY_S:
            yield from _there(copy, "documents laid out for random access, unused for a day; made again when needed")
    for state in _entries(cache / "training"):
        if _age_s(state) > _DAY_S:
            yield from _there(state, "a training into a store, untouched for a day; its command would begin anew")


def _there(path: Path, what: str) -> Iterator[Leftover]:
    """Nothing for what is absent, and for a link, which leads to what is not ours."""
    if path.exists() and not path.is_symlink():
        yield Leftover(path, what, sum(found.st_size for found in _stats(path) if not S_ISDIR(found.st_mode)))


def _entries(folder: Path) -> list[Path]:
    if folder.is_symlink():
        return []
    with suppress(FileNotFoundError, NotADirectoryError):
        return sorted(folder.iterdir())
    return []


def _stats(path: Path) -> Iterator[os.stat_result]:
    """Of it and of all files in it, less those that their driver takes away meanwhile."""
    inside = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    for file in chain([str(path)], inside):
        with suppress(FileNotFoundError):
            yield os.lstat(file)


def _age_s(path: Path) -> float:
    """Seconds since anything in it changed; 0 where it is gone."""
    now = time.time()
    return now - max((found.st_mtime for found in _stats(path)), default=now)


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    except FileNotFoundError:
        return  # its driver was quicker
    except OSError as error:
        raise InputError(f"{path} cannot be removed: {error.strerror}.") from None


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
