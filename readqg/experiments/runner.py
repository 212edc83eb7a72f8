"""The cells of an experiment, one after the other."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path
from typing import Any

from readqg import models
from readqg.config import ExperimentConfig, Matrix
from readqg.corpus.sources import locate
from readqg.engine import cluster
from readqg.errors import ConfigError, InputError, ReadQGError, first_line
from readqg.experiments import results
from readqg.experiments.cells import CellRun, folder_of, is_done
from readqg.experiments.matrix import Cell, cells_of, read_matrix
from readqg.places import Place, is_store, place_of
from readqg.progress import Progress

log = logging.getLogger("readqg")


def experiment(config: ExperimentConfig) -> dict[str, Any]:
    """Do the cells that are not there yet, then make the tables of those that are; returns counts, the tables' places, and of cells that
    failed (too few queries were left, training collapsed) why: the others are done all the same, and the same call tries them again.

    Stopped at any time, the same call goes on. A cell whose settings have changed since is done again. Raises `ConfigError` for what the
    file asks for, `InputError` and `ModelError` for a collection or a model that is not there, before anything is done."""
    if is_store(config.out):
        raise ConfigError(f"--out {config.out}: an experiment works in a folder of a file system; copy it to the store when it is done.")
    out, matrix = Path(config.out), read_matrix(config.file)
    cells = list(cells_of(matrix))
    failed = {} if config.tables_only else _do(place_of(str(out)), matrix, cells, config)
    done = [cell for cell in cells if is_done(place_of(str(out)), cell)]
    written = results.write(place_of(str(out)), matrix, done)
    return {"cells": len(cells), "done": len(done), "failed": failed, "exit_code": int(bool(failed)), **written}


def _do(out: Place, matrix: Matrix, cells: list[Cell], config: ExperimentConfig) -> dict[str, str]:
    """Returns cell -> why it failed."""
    failed: dict[str, str] = {}
    missing = [cell for cell in cells if not is_done(out, cell)]
    there = len(cells) - len(missing)
    missing = sorted(missing, key=lambda cell: folder_of(out, cell).has_failed)[:config.cells]  # those come last that failed before
    if not missing:
        return failed
    _check_there(missing)
    compute = missing[0].config.compute
    if config.ray_address is not None:
        compute = compute.model_copy(update={"ray_address": config.ray_address})
    with cluster.connect(compute), Progress("experiment", len(cells), "cells", there) as progress:
        for cell in missing:
            log.info("cell %s", cell.name)
            try:
                folder_of(out, cell).write(*CellRun(out, cell).run())
            except Exception as error:  # also what another trainer raises
                known = isinstance(error, ReadQGError)
                log.error("cell %s failed, and the next one is begun: %s", cell.name, error, exc_info=None if known else error)
                failed[cell.name] = first_line(error) if known else f"{type(error).__name__}: {first_line(error)}"
                folder_of(out, cell).fail(str(error) if known else traceback.format_exc())
            else:
                results.write(out, matrix, [c for c in cells if is_done(out, c)])
            progress.advance(1)
    return failed


def _check_there(cells: list[Cell]) -> None:
    """A model that is missing would else be found out after hours."""
    for source, split, of in dict.fromkeys((cell.source.source, cell.source.split, cell.config.documents.dataset_split) for cell in cells):
        if source != "sample":
            locate(source, "documents", split, of)
    for queries in dict.fromkeys(cell.config.queries_like for cell in cells):
        if queries is not None:
            locate(queries, "queries")
    for file in dict.fromkeys(file for cell in cells for file in cell.files):
        if not place_of(file).exists():
            raise InputError(f"{file}: no such file or folder. The experiment's file names it.")
    for model in dict.fromkeys(model for cell in cells for model in cell.models):
        models.resolve(model)
