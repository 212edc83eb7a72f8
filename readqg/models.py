"""Where a model's files are and what they are. (On what device they run: `readqg.devices`.)

Only safetensors weights are read: a pickle can run code as it is loaded, so a folder that holds nothing else is refused.
Code that comes with a model is never run.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from readqg import hub, shards
from readqg.config import MINILM_L6, MINILM_L12
from readqg.errors import ModelError
from readqg.fetching import local_folder
from readqg.places import is_store
from readqg.sample import weights

_RENAMED = {
    "cross-encoder/ms-marco-MiniLM-L-12-v2": MINILM_L12,
    "cross-encoder/ms-marco-MiniLM-L-6-v2": MINILM_L6,
}
OWN_FILE = "readqg.json"
"""What ReadQG says of a re-ranker, in its folder."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_VOLATILE_CONFIG_KEYS = ("transformers_version", "_name_or_path", "_model_name_or_path", "dtype", "torch_dtype")


def resolve(name: str) -> str:
    """The folder (config.json, safetensors weights, tokenizer files) of a model.

    `name` is a folder, one in a store (fetched once), or a model's name on the Hugging Face hub. The sample's two models are taken
    from the packages that carry them where those are installed; any other is taken from the hub's cache, or downloaded.
    Raises `ModelError` where there is no such model, it cannot be had, or its folder cannot be used."""
    if is_store(name):
        return str(_checked(local_folder(name)))
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(_checked(folder.resolve()))
    if name.startswith(("/", "./", "../", "~")) or name.count("/") > 1:
        raise ModelError(f"{name}: there is no such model folder. Give a folder that is there, or a model's name on the hub.")
    name = _RENAMED.get(name, name)
    found = weights.folder(name) or hub.cached(name)
    return str(_checked(found or hub.download(name)))


def fingerprint(name: str) -> str:
    """32 hex digits that change when what a model gives for a text may: its weights, its architecture or its tokenizer.
    Raises `ModelError` as `resolve` does."""
    tokenizer = Path(resolve(name)) / "tokenizer.json"
    words = _digest(tokenizer, *_stamp(tokenizer)) if tokenizer.exists() else ""
    return shards.fingerprint({"weights": weights_fingerprint(name), "tokenizer": words})


def weights_fingerprint(name: str) -> str:
    """32 hex digits that change when a model's weights or architecture do: a hash over the safetensors files and over
    config.json less what does not bear on the model (library version, path). Raises `ModelError` as `resolve` does."""
    folder = Path(resolve(name))
    files = sorted(folder.glob("*.safetensors"))
    config = {k: v for k, v in _read_json(folder / "config.json").items() if k not in _VOLATILE_CONFIG_KEYS}
    return shards.fingerprint({"config": config, "files": {f.name: _digest(f, *_stamp(f)) for f in files}})


def revision(name: str) -> str | None:
    """The hub's commit that `resolve(name)` holds; None for a folder of one's own or the sample's weights."""
    folder = Path(resolve(name))
    return folder.name if folder.parent.name == "snapshots" else None


def _checked(folder: Path) -> Path:
    """`folder`, if a model can be read from it."""
    if (folder / "_config.json").exists() and not (folder / "_SUCCESS").exists():
        raise ModelError(f"{folder}: its training is not finished (no _SUCCESS). Give the command that began it again.")
    held = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
    if not (folder / "config.json").exists():
        raise ModelError(
            f"{folder}: no config.json, so no model folder; it holds {held}. Give a folder as `save_pretrained` writes it."
        )
    files = sorted(folder.glob("*.safetensors"))
    if not files and any(next(folder.glob(pattern), None) for pattern in _PICKLES):
        raise ModelError(hub.pickled(str(folder), held))
    if not files:
        raise ModelError(f"{folder}: no *.safetensors weights; it holds {held}. Copy or download the model again.")
    for index in folder.glob("*.safetensors.index.json"):
        missing = sorted({f for f in _read_json(index)["weight_map"].values() if not (folder / f).exists()})
        if missing:
            raise ModelError(f"{folder}: {index.name} names missing files: {', '.join(missing)}. Copy the model again.")
    for file in files:
        _check_weights(file)
    return folder


def _check_weights(file: Path) -> None:
    try:
        with safe_open(file, framework="np"):
            pass
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{file} cannot be read ({error}): cut off, damaged, or a Git LFS pointer. Delete it and fetch it again."
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {error}. Copy or download the model again.") from error
    return content


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=256)
def _digest(file: Path, size: int, modified_ns: int) -> str:
    """sha256 of a file, computed once as long as its size and time do not change."""
    return shards.sha256_file(file)
