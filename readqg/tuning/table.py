"""What a search found: a row a trial as a table and as a page, and the winner as config files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
import yaml

import readqg
from readqg.evaluation import charts
from readqg.shards import write_whole
from readqg.tuning.chart import parallel
from readqg.tuning.search import Range, Search, Trial, best

_MARKS = {"finished": "done", "stopped": "ended", "failed": "ended"}


def table(found: list[Trial], space: dict[str, Range]) -> pa.Table:
    """A row a trial, the best first: trial, status, score, rungs, seconds, then a column a value and one a metric; `error`."""
    metrics = sorted({name for t in found for line in t.curve for name in line} - {"rung", "score", "seconds"})
    rows = [_row(trial, space, metrics) for trial in ordered(found)]
    schema = pa.schema([
        ("trial", pa.string()), ("status", pa.string()), ("score", pa.float64()), ("rungs", pa.int32()), ("seconds", pa.float64()),
        *((name, pa.int64() if span.whole else pa.float64()) for name, span in space.items()),
        *((f"metric_{name}", pa.float64()) for name in metrics), ("error", pa.string()),
    ])
    return pa.Table.from_pylist(rows, schema)


def ordered(found: list[Trial]) -> list[Trial]:
    """By falling score; finished ones before others of the same."""
    return sorted(found, key=lambda t: (-math.inf if t.score is None else t.score, t.status == "finished"), reverse=True)


def _row(trial: Trial, space: dict[str, Range], metrics: list[str]) -> dict[str, Any]:
    last: dict[str, float] = trial.curve[-1] if trial.curve else {}
    facts = {"trial": trial.folder.name, "status": trial.status, "score": trial.score, "rungs": len(trial.curve), "seconds": trial.seconds}
    measured = {f"metric_{name}": last.get(name) for name in metrics}
    return {**facts, **{name: trial.values[name] for name in space}, **measured, "error": trial.result["error"]}


def write_winner(path: Path, search: Search, found: list[Trial]) -> Trial | None:
    """The winner as a config file for `readqg run --config`; None, and no file, where no trial finished."""
    winner = best(found)
    if winner is None:
        return None
    head = (
        f"# The winner of `readqg {search.name.replace('-', ' ', 1)}`, trial {winner.folder.name}, score {winner.score:.4f}.\n"
        "# readqg run --config THIS --corpus FOLDER --out OUT\n"
    )
    fields = yaml.safe_dump(search.winner(winner.values, winner.folder), sort_keys=False)
    write_whole(path, head + fields)
    return winner


def html(search: Search, found: list[Trial]) -> str:
    """The page: parallel coordinates, the curve of every trial, the table."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("readqg.tuning", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True)
    rows = table(found, search.space)
    winner = best(found)
    return environment.get_template("table.html.j2").render(
        name=search.name, version=readqg.__version__, names=rows.column_names, rows=[list(r.values()) for r in rows.to_pylist()],
        winner=winner and winner.folder.name, score=winner and winner.score,
        counts={status: sum(t.status == status for t in found) for status in ("finished", "stopped", "failed")},
        coordinates=_coordinates(search, found, winner), curves=_curves(found), objective=type(search.config).__doc__ or "",
    )


def _coordinates(search: Search, found: list[Trial], winner: Trial | None) -> str:
    scored = [(t, t.score) for t in reversed(ordered(found)) if t.score is not None]
    if not scored:
        return ""
    scores = [score for _, score in scored]
    axes = [*search.space.items(), ("score", Range(min(scores), max(scores), False, False))]
    lines = [
        ([*(t.values[name] for name in search.space), score], "best" if t == winner else _MARKS[t.status])
        for t, score in scored if t.status in _MARKS
    ]
    return parallel(axes, lines, f"{len(lines)} trials: every line is one, its values from left to right and its score at the right")


def _curves(found: list[Trial]) -> str:
    series = [
        (t.folder.name, [line["step"] for line in t.curve], [line["score"] for line in t.curve]) for t in ordered(found)[:3] if t.curve
    ]
    return charts.lines(series, "steps", "score", "Score by step of the three best trials") if series else ""
