"""`readqg export`: a queries folder into files of another tool's format."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from readqg.config import ExportConfig, identity
from readqg.corpus import Documents
from readqg.errors import ConfigError, InputError
from readqg.exporting.dataset import to_dataset
from readqg.exporting.formats import FORMATS, NEED_NEGATIVES, Export
from readqg.places import StorePath
from readqg.reranker.sampling import QUERY_COLUMNS
from readqg.shards import OutputFolder, explained, open_input

log = logging.getLogger("readqg")


def export(config: ExportConfig) -> dict[str, Any]:
    """Write `config.queries` to `config.out` in `config.format`; returns its `_SUCCESS`, whose `facts` count the rows written and those
    left out, by reason. The files appear together at the end.

    Raises `InputError` where an input cannot be read, a query's document is not there, or nothing is left to write; `ConfigError` for
    a format that lacks something; `FolderError` where `out` was begun with something else."""
    queries = open_input(config.queries, QUERY_COLUMNS)
    if config.negatives_from == "found" and "found" not in queries.schema.names:
        raise ConfigError(f"--negatives-from found needs what `readqg round-trip` makes of {config.queries}, which has no column found.")
    documents = Documents.open(config.documents) if config.documents is not None else None
    if documents is None and config.format != "hf-dataset":
        raise ConfigError(f"--format {config.format} holds the text of documents: name the corpus with --documents.")
    if config.format in NEED_NEGATIVES and config.negatives < 1:
        raise ConfigError(f"--format {config.format} puts other documents beside a query's own: --negatives must be 1 or more; found "
                          f"{config.negatives}.")
    inputs = {"queries": queries.fingerprint} | ({"documents": documents.fingerprint} if documents is not None else {})
    folder = OutputFolder.begin(config.out, "export", identity(config), inputs)
    if folder.done:
        return folder.success()
    counts: Counter[str] = Counter()
    with _scratch(folder) as scratch:
        if documents is None or config.format == "hf-dataset":
            to_dataset(queries, documents, counts, scratch)
        else:
            FORMATS[config.format](Export(config, queries, documents, counts), scratch)
        if not counts["rows"]:
            raise InputError(f"{config.queries} has nothing for --format {config.format}: {_said(counts)}.")
        success = folder.commit_files(scratch, {name: count for name, count in counts.items() if count})
    log.info("%s: %s", folder.path, _said(counts))
    return success


@contextmanager
def _scratch(folder: OutputFolder) -> Iterator[Path]:
    """An empty folder, on the file system of `folder` where that has one."""
    if isinstance(folder.path, StorePath):
        with tempfile.TemporaryDirectory(prefix="readqg-") as made:
            yield Path(made)
        return
    with explained(f"writing {folder.path}"):
        folder.tmp.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="export-", dir=folder.tmp, ignore_cleanup_errors=True) as made:
            yield Path(made)


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items()) or "it holds no query"
