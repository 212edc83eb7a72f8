"""`readqg compare`: opens what is compared, serves the page, and tells the result."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from readqg.comparing import results
from readqg.comparing.judgments import Judgments
from readqg.comparing.rankings import Rankings
from readqg.comparing.server import serve
from readqg.comparing.session import Session
from readqg.config import CompareConfig, identity
from readqg.errors import ConfigError
from readqg.places import is_store
from readqg.shards import OutputFolder, write_whole

log = logging.getLogger("readqg")

_FILES = ("judgments.jsonl", "qrels/test.tsv", "qrels.trec", "queries.jsonl", "preferences.tsv", "a.trec", "b.trec", "summary.json")


def compare(config: CompareConfig) -> dict[str, Any]:
    """Serve the page until the comparison ends or is stopped; the summary, as `results.summary` has it, with `exit_code`.

    The same call on the same folder goes on; on one whose comparison has ended it only tells the result again. Raises `FolderError`
    for a folder that was begun with another A, B, corpus or setting, and what `Rankings` raises."""
    if is_store(config.out):
        raise ConfigError(f"--out {config.out}: judgments are kept in a folder of a file system; copy it to the store when it is done.")
    rankings = Rankings(config)
    folder = OutputFolder.begin(config.out, "compare", identity(config), rankings.inputs(), rankings.models())
    stopped_by = 0
    with Judgments(folder.local) as judgments:
        if not judgments.ended:
            stopped_by = _serve(config, rankings, judgments)
        summary = results.summary(config, rankings, judgments)
        if not folder.done:
            results.write_judgments(folder.local, judgments)
            write_whole(folder.local / "summary.json", json.dumps(summary, indent=1))
    if summary["ended"] and not folder.done:
        _finish(folder)
    _tell(summary)
    return summary if not stopped_by else {**summary, "exit_code": stopped_by}


def _serve(config: CompareConfig, rankings: Rankings, judgments: Judgments) -> int:
    log.info("%s", results.beforehand(config))
    rankings.load()
    return serve(Session(config, rankings, judgments))


def _finish(folder: OutputFolder) -> None:
    """What is there becomes the content of a finished folder, which `readqg verify` looks over."""
    with tempfile.TemporaryDirectory(prefix="_final-", dir=folder.local) as made:
        for name in _FILES:
            (Path(made) / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(folder.local / name, Path(made) / name)
        folder.commit_files(Path(made))


def _tell(summary: dict[str, Any]) -> None:
    table = Table(title=f"{summary['judged']} queries judged")
    table.add_column("", no_wrap=True)
    table.add_column("ranking", overflow="fold")
    table.add_column("better", justify="right")
    if summary["ended"]:
        for side in ("a", "b"):
            table.add_row(side.upper(), escape(summary[side]), str(summary[f"wins_{side}"]))
    else:
        for one, wins in (("one of them", "more_wins"), ("the other", "fewer_wins")):
            table.add_row("", one, str(summary[wins]))
    table.add_row("", f"tie (left out); {summary['skipped']} skipped", str(summary["ties"]))
    console = Console(stderr=True)
    console.print(table)
    if not summary["ended"]:
        test = ("the test is made once as many are judged as planned" if summary["p"] is None
                else f"exact sign test of the first {summary['tested']}: p = {summary['p']:.3f}")
        console.print(f"  {test}; which is which is told when you end it on the page", highlight=False)
    elif summary["share_b"] is not None:
        console.print(f"  B is better in {summary['share_b']:.1%} of the first {summary['tested']} queries without a tie (95 % interval "
                      f"{summary['low']:.1%} to {summary['high']:.1%}; exact sign test p = {summary['p']:.3f})", highlight=False)
    console.print(f"  {summary['sentence']}", markup=False, highlight=False)
    console.print(f"  verdict: {summary['verdict']}", markup=False, highlight=False, style="bold")
