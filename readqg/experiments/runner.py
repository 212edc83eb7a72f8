"""The cells of an experiment, one after the other."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from readqg.config import ExperimentConfig, Matrix
from readqg.engine import cluster
from readqg.errors import ConfigError
from readqg.experiments import results
from readqg.experiments.cells import CellRun, folder_of, is_done
from readqg.experiments.matrix import Cell, cells_of, read_matrix
from readqg.places import Place, is_store, place_of
from readqg.progress import Progress

log = logging.getLogger("readqg")


def experiment(config: ExperimentConfig) -> dict[str, Any]:
    """Do the cells that are not there yet, then make the tables of those that are; returns counts and the tables' places.

    Stopped at any time, the same call goes on. A cell whose settings have changed since is done again."""
    if is_store(config.out):
        raise ConfigError(f"--out {config.out}: an experiment works in a folder of a file system; copy it to the store when it is done.")
    out, matrix = Path(config.out), read_matrix(config.file)
    cells = list(cells_of(matrix))
    if not config.tables_only:
        _do(place_of(str(out)), matrix, cells, config)
    done = [cell for cell in cells if is_done(place_of(str(out)), cell)]
    written = results.write(place_of(str(out)), matrix, done)
    return {"cells": len(cells), "done": len(done), **written}


def _do(out: Place, matrix: Matrix, cells: list[Cell], config: ExperimentConfig) -> None:
    missing = [cell for cell in cells if not is_done(out, cell)][:config.cells]
    if not missing:
        return
    compute = missing[0].config.compute
    if config.ray_address is not None:
        compute = compute.model_copy(update={"ray_address": config.ray_address})
    with cluster.connect(compute), Progress("experiment", len(cells), "cells", len(cells) - len(missing)) as progress:
        for cell in missing:
            log.info("cell %s", cell.name)
            folder_of(out, cell).write(*CellRun(out, cell).run())
            results.write(out, matrix, [c for c in cells if is_done(out, c)])
            progress.advance(1)
