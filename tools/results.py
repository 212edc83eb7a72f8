"""RESULTS.md, made from the cells of experiments that are kept in the repository: python -m tools.results [--check]

A cell's figures lie in jobs/experiments/results/NAME/cells, as `readqg experiment jobs/experiments/NAME.yaml` wrote them; copy them there.
One that the file no longer asks for, as it is, stops it: do it again, or delete it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from readqg import api
from readqg.config import ExperimentConfig

ROOT = Path(__file__).parents[1]
FILE = ROOT / "RESULTS.md"
KEPT = ROOT / "jobs" / "experiments" / "results"
RENEW = "python -m tools.results"


def results() -> dict[Path, str]:
    """The page and its pictures: file -> content."""
    files: dict[Path, str] = {}
    sections = []
    for folder in sorted(path.parent for path in KEPT.glob("*/cells")):
        kept = sum(1 for _ in folder.glob("cells/*/*/*/facts.json"))
        with tempfile.TemporaryDirectory() as made:
            shutil.copytree(folder / "cells", Path(made) / "cells")
            asked = ROOT / "jobs" / "experiments" / f"{folder.name}.yaml"
            found = api.experiment(ExperimentConfig(file=str(asked), out=made, tables_only=True))
            if found["done"] != kept:
                raise SystemExit(f"{folder}: {kept} cells are kept, and {asked.name} asks for {found['done']} of them as they are")
            files |= {folder / chart.name: chart.read_text() for chart in Path(made).glob("*.svg")}
            tables = (Path(made) / "tables.md").read_text()
        placed = re.sub(r"\]\((\S+\.svg)\)", rf"]({folder.relative_to(ROOT).as_posix()}/\1)", tables)
        sections.append({"name": folder.name, "tables": re.sub(r"^#", "##", placed, flags=re.MULTILINE)})
    env = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return {FILE: env.get_template("results.md.j2").render(sections=sections, renew=RENEW), **files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file is not what the cells say")
    check, files = parser.parse_args().check, results()
    if check:
        stale = [path for path, content in files.items() if not path.exists() or path.read_text() != content]
        sys.exit(f"{', '.join(str(path.relative_to(ROOT)) for path in stale)}: not what the cells say; {RENEW}" if stale else 0)
    for path, content in files.items():
        path.write_text(content)


if __name__ == "__main__":
    main()
