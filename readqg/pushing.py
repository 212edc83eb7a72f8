"""`readqg push`: a folder that others can load, to the Hugging Face hub. Only what they need is sent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import Any

from httpx2 import TransportError
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from readqg.config import PushConfig
from readqg.errors import ConfigError, FolderError, InputError, RunError, first_line
from readqg.places import is_store
from readqg.reranker.selection import GUARD_FILE, announce
from readqg.shards import verify

log = logging.getLogger("readqg")

_SENT = {
    "model": ("README.md", "*.safetensors", "[!_]*.json", "*.txt", "*.model", "*.jinja"),
    "dataset": ("README.md", "queries/*.parquet", "corpus/*.parquet"),
}
_KEPT = {GUARD_FILE}  # of a model: what it says is in the card, and it names this machine's folders
_NO_LEAVE = (401, 403, 404)


def push(config: PushConfig) -> dict[str, Any]:
    """Upload `config.folder`; returns `url`, `kind`, `files`, `bytes` and `private`.

    Sends the weights, tokenizer, configuration and card of a model, or the tables and card of a dataset, and removes there what an earlier
    push sent and this folder no longer has. The token is the hub client's own (`hf auth login`, or HF_TOKEN). Raises `ConfigError` for a
    name that the hub cannot have, and for a public repository where `public` is not set; `InputError` for a folder that is neither,
    `FolderError` for one that is not finished, `RunError` where the hub refuses or cannot be reached."""
    if is_store(config.folder):
        raise InputError(f"{config.folder}: push sends a folder of this machine. Copy it here first.")
    if config.to.count("/") != 1:
        raise ConfigError(f"--to {config.to}: a repository's name is OWNER/NAME.")
    folder = Path(config.folder)
    kind = _kind(folder)
    found = sorted(path for pattern in _SENT[kind] for path in folder.glob(pattern) if path.name not in _KEPT)
    files = [path.relative_to(folder).as_posix() for path in found]
    size = sum(path.stat().st_size for path in found)
    log.info("pushing %d files (%.0f MB) of %s to %s at %s", len(files), size / 1e6, folder, config.to, constants.ENDPOINT)
    if (folder / GUARD_FILE).exists():
        announce(folder)
    hub = HfApi()
    try:
        made = hub.create_repo(config.to, repo_type=kind, private=not config.public, exist_ok=True)
        private = bool(hub.repo_info(config.to, repo_type=kind).private)
        if not (private or config.public):
            raise ConfigError(f"--to {config.to}: this repository is there already, and everybody can see it. Say so with --public, or "
                              "give another name. Nothing was sent.")
        hub.upload_folder(
            repo_id=config.to, repo_type=kind, folder_path=folder, commit_message="By readqg push",
            allow_patterns=[escape(name) for name in files], delete_patterns=list(_SENT[kind]))
    except HFValidationError as error:
        raise ConfigError(f"--to {config.to}: {first_line(error)}") from None
    except HfHubHTTPError as error:
        advice = " `hf auth login`, with a token that may write there." if error.response.status_code in _NO_LEAVE else ""
        raise RunError(f"{config.to}: the hub refuses: {' '.join(str(error).split())}{advice}") from error
    except LocalTokenNotFoundError as error:
        raise RunError(f"{config.to}: there is no token to write to the hub with. `hf auth login`, or set HF_TOKEN.") from error
    except (TransportError, OfflineModeIsEnabled) as error:
        raise RunError(f"{config.to}: the hub cannot be reached ({first_line(error)}). The same command tries again.") from error
    return {"url": str(made), "kind": kind, "private": private, "bytes": size, "files": files}


def _kind(folder: Path) -> str:
    """What a folder holds. One that a stage began has to be finished."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.")
    if (folder / "_config.json").exists():
        if not (folder / "_SUCCESS").exists():
            raise FolderError(f"{folder} is not finished. Give the command that makes it again.")
        if damaged := verify(folder):
            raise FolderError("\n".join(damaged))
    if (folder / "config.json").exists() and _any(folder.glob("*.safetensors")):
        return "model"
    if (folder / "README.md").exists() and _any(folder.glob("queries/*.parquet")):
        return "dataset"
    raise InputError(f"{folder}: neither a model (config.json, *.safetensors) nor a dataset (README.md, queries/*.parquet), "
                     "as `readqg export --format hf-dataset` makes it.")


def _any(found: Iterator[Path]) -> bool:
    return next(found, None) is not None
