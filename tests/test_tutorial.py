"""The commands of docs/tutorial.md run as they stand, in order, in one shell; with tiny models, since real ones take minutes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from readqg.config import TrainGeneratorConfig
from readqg.generator.backbone import Backbone
from readqg.generator.prompts import SoftPrompt
from tests import pages
from tests.builders import tiny_cross_encoder, tiny_llama

PAGE = pages.ROOT / "docs" / "tutorial.md"
TINY = ["--prompts", "prompts", "--backbone", "backbone", "--start", "start", "--max-documents", "24", "--max-queries", "6",
        "--generate.max-new-tokens", "6", "--generate.document-tokens", "32", "--reranker.max-length", "48", "--rank.max-length", "48",
        "--retrieve.top-k", "5", "--compute.precision", "fp32", "--compute.max-error-share", "0.5"]
# `readqg` as on any PATH, but a run takes the tiny models.
COMMAND = f"""#!/bin/bash
export PYTHONPATH={pages.ROOT}
[ "$1" = run ] && set -- "$@" {" ".join(TINY)}
exec {sys.executable} -m readqg.cli "$@"
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_command_of_the_tutorial_runs(tmp_path: Path):
    backbone = tiny_llama(tmp_path / "backbone")
    tiny_cross_encoder(tmp_path / "start")
    prompts = SoftPrompt.initial(Backbone.load(backbone), TrainGeneratorConfig(pairs="", out="", backbone=str(backbone)), "none")
    (tmp_path / "prompts").mkdir()
    prompts.save(tmp_path / "prompts")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "readqg").write_text(COMMAND)
    (programs / "readqg").chmod(0o755)
    (programs / "python").write_text(f'#!/bin/bash\nexec {sys.executable} "$@"\n')
    (programs / "python").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(pages.ROOT), "HF_HUB_OFFLINE": "1"}
    script = "set -e\n" + "\n".join(f"echo '== {i}'\n{block}" for i, block in enumerate(pages.blocks(PAGE, "bash")))
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert re.search(r'"document": [01], "score"', done.stdout), done.stdout[-2000:]
    assert (tmp_path / "adapted" / "report.html").exists()
