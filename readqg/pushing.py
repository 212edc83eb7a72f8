"""`readqg push`: a folder that others can load, to the Hugging Face hub. Only what they need is sent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from readqg.config import PushConfig
from readqg.errors import ConfigError, FolderError, InputError, ModelError
from readqg.places import is_store

log = logging.getLogger("readqg")

_SENT = {
    "model": ("README.md", "*.safetensors", "[!_]*.json", "vocab.txt", "merges.txt", "*.model"),
    "dataset": ("README.md", "queries/*.parquet", "corpus/*.parquet"),
}


def push(config: PushConfig) -> dict[str, Any]:
    """Upload `config.folder` as one commit; returns `url`, `kind`, `files`, `bytes` and `private`.

    Sends the weights, tokenizer, configuration and card of a model, or the tables and card of a dataset. The token is the hub
    client's own (`hf auth login`, or HF_TOKEN). Raises `ConfigError` for a name that the hub cannot have, `InputError` for a folder
    that is neither, `FolderError` for one that is not finished, `ModelError` where the hub refuses or cannot be reached."""
    if is_store(config.folder):
        raise InputError(f"{config.folder}: push sends a folder of this machine. Copy it here first.")
    folder = Path(config.folder)
    kind = _kind(folder)
    files = sorted(str(path.relative_to(folder)) for pattern in _SENT[kind] for path in folder.glob(pattern))
    size = sum((folder / name).stat().st_size for name in files)
    log.info("pushing %d files (%.0f MB) of %s to %s at %s", len(files), size / 1e6, folder, config.to, constants.ENDPOINT)
    hub = HfApi()
    try:
        made = hub.create_repo(config.to, repo_type=kind, private=not config.public, exist_ok=True)
        private = bool(hub.repo_info(config.to, repo_type=kind).private)
        hub.upload_folder(repo_id=config.to, repo_type=kind, folder_path=folder, allow_patterns=files, commit_message="By readqg push")
    except HFValidationError as error:
        raise ConfigError(f"--to {config.to}: {_words(error)}. It is OWNER/NAME.") from None
    except (LocalTokenNotFoundError, HfHubHTTPError) as error:
        raise ModelError(f"{config.to}: the hub refuses ({_words(error)}). `hf auth login` with a token that may write there.") from error
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        raise ModelError(f"{config.to}: the hub cannot be reached ({_words(error)}). The same command tries again.") from error
    return {"url": str(made), "kind": kind, "private": private, "bytes": size, "files": files}


def _kind(folder: Path) -> str:
    """What a folder holds. One that a stage began has to be finished."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.")
    if (folder / "_config.json").exists() and not (folder / "_SUCCESS").exists():
        raise FolderError(f"{folder} is not finished. Give the command that makes it again.")
    if (folder / "config.json").exists() and _any(folder.glob("*.safetensors")):
        return "model"
    if (folder / "README.md").exists() and _any(folder.glob("queries/*.parquet")):
        return "dataset"
    raise InputError(f"{folder}: neither a model (config.json, *.safetensors) nor a dataset (README.md, queries/*.parquet), "
                     "as `readqg export --format hf-dataset` makes it.")


def _any(found: Iterator[Path]) -> bool:
    return next(found, None) is not None


def _words(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
