"""Where a model's files are, what they are, and on what device and in what precision they run.

Only safetensors weights are read: a pickle can run code as it is loaded, so a folder that holds nothing else is refused.
Code that comes with a model is never run.
"""

from __future__ import annotations

import json
import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from readqg import hub, shards
from readqg.config import MINILM_L6, MINILM_L12, Compute
from readqg.errors import ConfigError, ModelError
from readqg.fetching import local_folder
from readqg.places import is_store
from readqg.sample import weights

transformers_logging.disable_progress_bar()  # of loading weights: a second's work, and noise in a job's log
logger = logging.getLogger("readqg")

_RENAMED = {
    "cross-encoder/ms-marco-MiniLM-L-12-v2": MINILM_L12,
    "cross-encoder/ms-marco-MiniLM-L-6-v2": MINILM_L6,
}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_VOLATILE_CONFIG_KEYS = ("transformers_version", "_name_or_path", "_model_name_or_path", "dtype", "torch_dtype")
_NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "bf16")


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


def device_and_dtype(compute: Compute) -> tuple[torch.device, torch.dtype]:
    """The device and the precision of a model in this process. `auto`: a GPU where torch sees one; bf16 where the device
    computes it natively, else fp32 (emulated, bf16 is several times slower than fp32).

    Raises `ConfigError` where a GPU is asked for and none is seen."""
    if compute.device == "cuda" and not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise ConfigError(
            f"device is cuda, but torch {torch.__version__} sees no GPU here (CUDA_VISIBLE_DEVICES={visible!r}). "
            "Use --compute.device auto or cpu, or install a torch built for your GPU."
        )
    on_gpu = compute.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    if compute.precision == "fp32":
        return device, torch.float32
    native = _gpu_has_bf16() if on_gpu else cpu_has_bf16()
    if compute.precision == "bf16" and not native:
        logger.warning("precision is bf16, which this %s does not compute natively: slower than fp32", device.type)
    return device, torch.bfloat16 if native or compute.precision == "bf16" else torch.float32


def set_threads(compute: Compute) -> int:
    """Set torch's threads in this process to `compute.threads`, or to this machine's cores (as far as this process may
    use them) shared among the workers; the number set. Ray sets its own before, from the CPUs that it counts for a worker."""
    threads = compute.threads or max(1, cpu_count() // compute.workers)
    torch.set_num_threads(threads)
    return threads


def _gpu_has_bf16() -> bool:
    # `is_bf16_supported` alone counts emulation in.
    return torch.cuda.is_bf16_supported() and torch.cuda.get_device_capability() >= (8, 0)


def cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(capabilities.get(key, False) for key in _NATIVE_BF16)


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
        with safe_open(file, framework="pt"):
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
