"""What is released works without the checkout: the wheel, built from the source distribution, in an environment of its own."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests import pages
from tests.builders import tiny_models

IN_THE_WHEEL = [
    "readqg/py.typed", "readqg/evaluation/report/report.html.j2", "readqg/evaluation/report/report.css", "readqg/comparing/page.html.j2",
    "readqg/comparing/page.js", "readqg/comparing/page.css", "readqg/reranker/card.md.j2", "readqg/experiments/tables.html.j2",
    "readqg/exporting/dataset_card.md.j2", "readqg/sample/README.md", "readqg/sample/corpus/corpus.jsonl.gz",
    "readqg/sample/corpus/qrels/test.tsv", "readqg/sample/prompts/prompts.json", "readqg/sample/prompts/prompts.safetensors",
]
NOT_SOURCE = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "__pycache__", ".*_cache", "build", "dist", "readqg-out")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that sees this one's packages, less this checkout, with a copy of the source beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    packages = next((folder / "venv" / "lib").glob("python*/site-packages"))
    # Set-up tools for the build; in an environment of its own they hide nothing of what the others need.
    subprocess.run([folder / "venv" / "bin" / "pip", "install", "--quiet", "setuptools>=77"], check=True)
    # A path in a .pth file is searched, but .pth files there are not read: the checkout's own is not among them.
    (packages / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    shutil.copytree(pages.ROOT, folder / "source", ignore=NOT_SOURCE)
    return folder


def run(place: Path, *words: str | Path, cwd: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = [place / "venv" / "bin" / words[0], *words[1:]]
    done = subprocess.run(command, cwd=cwd or place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(place: Path) -> Path:
    made = run(place, "python", "-c", "from setuptools import build_meta; print(build_meta.build_sdist('..'))", cwd=place / "source")
    sdist = place / made.split()[-1]
    run(place, "python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", place, sdist)
    (found,) = place.glob("readqg-*.whl")
    return found


@pytest.mark.slow
def test_the_wheel_holds_templates_sample_prompts_and_the_mark_of_types(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert [name for name in IN_THE_WHEEL if name not in names] == []
    assert {name.split("/")[0].split("-")[0] for name in names} == {"readqg"}, "nothing but the package"
    assert any(name.endswith("licenses/LICENSE") for name in names) and any(name.endswith("licenses/NOTICE") for name in names)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_installed_wheel_runs_from_corpus_to_report(place: Path, wheel: Path, tmp_path: Path):
    run(place, "python", "-m", "pip", "install", "--quiet", "--no-deps", wheel)
    where = run(place, "python", "-c", "import readqg; print(readqg.__file__)").strip()
    assert Path(where).is_relative_to(place / "venv"), "this must not be the checkout"
    assert "train-reranker" in run(place, "readqg", "--help")
    run(place, "readqg", "run", "--out", "out", *tiny_models(tmp_path), cwd=tmp_path)
    assert (tmp_path / "out" / "report.html").exists()
