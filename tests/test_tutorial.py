"""The commands of docs/tutorial.md run as they stand, in order, in one shell; with tiny models, since real ones take minutes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests import pages
from tests.builders import tiny_models

PAGE = pages.ROOT / "docs" / "tutorial.md"
# As on any PATH, but a run takes the tiny models.
PROGRAMS = {
    "readqg": '#!/bin/bash\n[ "$1" = run ] && set -- "$@" $TINY\nexec "$PYTHON" -m readqg.cli "$@"\n',
    "python": '#!/bin/bash\nexec "$PYTHON" "$@"\n',
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command_of_the_tutorial_runs(tmp_path: Path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, content in PROGRAMS.items():
        (programs / name).write_text(content)
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(pages.ROOT), "HF_HUB_OFFLINE": "1",
                   "PYTHON": sys.executable, "TINY": " ".join(tiny_models(tmp_path))}
    script = "set -e\n" + "\n".join(f"echo '== {i}'\n{block}" for i, block in enumerate(pages.blocks(PAGE, "bash")))
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert re.search(r'"document": [01], "score"', done.stdout), done.stdout[-2000:]
    assert (tmp_path / "adapted" / "report.html").exists()
