"""What is in a store and has to be in files, fetched once into this machine's cache: models and prompts, since what loads weights
reads files, and the parts that training reads in an order of its own.

The copy lies under the fingerprint of what was fetched, so another model under the same name is another copy. Of a model only
safetensors, configuration and tokenizer files are fetched; weights that are pickles never come here.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import _lru_cache_wrapper, lru_cache
from pathlib import Path, PurePosixPath

from platformdirs import user_cache_path

from readqg import shards
from readqg.errors import ModelError
from readqg.places import Place, StorePath, place_of

log = logging.getLogger("readqg")

_SUFFIXES = (".safetensors", ".json", ".txt", ".model")
_AT_ONCE = 4


def local_file(where: Place) -> Path:
    """The file itself where it is a path; of one in a store, the copy on this machine."""
    return _copy(_fetched_file, where) if isinstance(where, StorePath) else where


def local_folder(where: str | Path) -> Path:
    """The folder itself where it is a path; of one in a store, the copy on this machine.

    Raises `ModelError` where there is none in the store, it is not finished, or holds no safetensors."""
    found = place_of(where)
    return _copy(_fetched, found) if isinstance(found, StorePath) else found


def _copy(fetched: _lru_cache_wrapper[Path], source: StorePath) -> Path:
    """What `fetched` gives, marked as used now: `readqg clean` leaves it for a day, and what it took before is fetched again."""
    target = fetched(source)
    try:
        os.utime(target)
    except FileNotFoundError:
        fetched.cache_clear()
        target = fetched(source)
    return target


@lru_cache(maxsize=4096)
def _fetched_file(source: StorePath) -> Path:
    target = _cache() / f"{shards.fingerprint([source.url, source.version()])}-{source.name}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with shards.appearing(target) as partial:
            source.download(partial)
    return target


@lru_cache(maxsize=16)
def _fetched(folder: StorePath) -> Path:
    files = _files(folder)
    expected = _digests(folder)
    state = {name: expected.get(name) or files[name].version() for name in files}
    target = _cache() / shards.fingerprint([folder.url, state])
    if target.is_dir():
        return target
    log.info("%s is fetched once, to %s", folder, target)
    with shards.explained(f"fetching {folder}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".fetching-", dir=target.parent))
        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda name: _fetch(files[name], made / name, expected.get(name)), files))
            _put_in_place(made, target)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    return target


def _cache() -> Path:
    return user_cache_path("readqg") / "stores"


def _files(folder: StorePath) -> dict[str, StorePath]:
    """Name below the folder -> object, of what may be read."""
    held = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*")}
    if not held:
        raise ModelError(f"{folder}: nothing lies there. Give the folder of a model, as `save_pretrained` or a training wrote it.")
    if "_config.json" in held and "_SUCCESS" not in held:
        raise ModelError(f"{folder}: its training is not finished (no _SUCCESS). Give the command that began it again.")
    known = {name: file for name, file in held.items() if name.endswith(_SUFFIXES) and _is_of_a_model(name)}
    if not any(name.endswith(".safetensors") for name in known):
        raise ModelError(f"{folder}: no *.safetensors weights; it holds {', '.join(sorted(held)[:8])}. Only safetensors are read, for a "
                         "pickle can run code as it is loaded: save the model with `save_pretrained` and upload it again.")
    return known


def _is_of_a_model(name: str) -> bool:
    """Not our own files, nor hidden ones; and never a name that leads out of the folder, which a store may well hold."""
    return not any(part.startswith(("_", ".")) for part in PurePosixPath(name).parts)


def _digests(folder: StorePath) -> dict[str, str]:
    """sha256 by name, where a training of ours wrote the folder."""
    success = folder / "_SUCCESS"
    return dict(shards.read_json(success).get("files", {})) if success.exists() else {}


def _fetch(source: StorePath, target: Path, digest: str | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    source.download(target)
    if digest is not None and shards.sha256_file(target) != digest:
        raise ModelError(f"{source}: its bytes are not those that its training wrote (sha256). Make the model again, or copy it anew.")


def _put_in_place(made: Path, target: Path) -> None:
    try:
        os.rename(made, target)
    except OSError:
        if not target.is_dir():  # else another process was first
            raise
