"""`readqg push` sends what others need to load a folder, and nothing else. To a hub on this machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from readqg import api
from readqg.config import PushConfig
from readqg.errors import FolderError, ReadQGError
from readqg.reranker.training import RerankerTraining
from readqg.shards import OutputFolder
from tests import hub_server
from tests.reranker.corpus import reranker_config


def _push(folder: Path, to: str, url: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, for the hub's client reads its environment once."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    own = {"HF_HOME": str(folder.parent / "home"), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_tried"}
    return subprocess.run([sys.executable, "-m", "readqg.cli", "push", str(folder), to, *flags, "--json"],
                          capture_output=True, text=True, env={**kept, **own, **environment}, timeout=120)


def _names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A re-ranker as training leaves it, but for its size."""
    stage = RerankerTraining(reranker_config(tmp_path_factory.mktemp("trained")))
    model = stage.build()
    log = [{"step": step, "validation": stage.validate(model)} for step in (0, 1)]
    folder = OutputFolder.begin(stage.config.out, stage.name, {}, stage.inputs(), stage.models())
    made = folder.tmp / "model"
    made.mkdir(parents=True)
    stage.save(model, made, log)
    folder.commit_files(made, {"steps": 1})
    return folder.local


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "reranker"))


def test_a_model_arrives_private_as_others_load_it_and_says_nothing_of_this_machine(model: Path, trained: Path, tmp_path: Path) -> None:
    with hub_server.serve(tmp_path / "hub") as hub:
        got = _push(model, "someone/adapted", hub.url)
        assert got.returncode == 0, got.stderr
        said = json.loads(got.stdout)
        assert (said["kind"], said["private"], hub.made["someone/adapted"]["visibility"]) == ("model", True, "private")
        assert hub.tokens == {"Bearer hf_tried"}
    sent = tmp_path / "hub/someone/adapted"
    names = _names(sent)
    assert names == set(said["files"]) >= {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert all((sent / name).read_bytes() == (model / name).read_bytes() for name in names)
    assert not any(str(trained.parent).encode() in (sent / name).read_bytes() for name in names)
    assert "MB" in got.stderr and hub.url in got.stderr and "hf_tried" not in got.stderr + got.stdout


def test_what_an_earlier_push_sent_and_the_folder_no_longer_has_goes(model: Path, tmp_path: Path) -> None:
    (model / "vocab.txt").write_text("the")
    with hub_server.serve(tmp_path / "hub") as hub:
        assert _push(model, "someone/adapted", hub.url).returncode == 0
        (tmp_path / "hub/someone/adapted/notes.md").write_text("by hand")
        (model / "vocab.txt").unlink()
        assert _push(model, "someone/adapted", hub.url).returncode == 0
    names = _names(tmp_path / "hub/someone/adapted")
    assert "vocab.txt" not in names and {"notes.md", "model.safetensors"} <= names


def test_a_public_repository_is_not_written_to_unasked(model: Path, tmp_path: Path) -> None:
    with hub_server.serve(tmp_path / "hub") as hub:
        (tmp_path / "hub/someone/seen").mkdir(parents=True)
        got = _push(model, "someone/seen", hub.url)
        assert got.returncode == 1 and "everybody can see it" in got.stderr and not _names(tmp_path / "hub/someone/seen")
        assert _push(model, "someone/seen", hub.url, "--public").returncode == 0


@pytest.mark.parametrize(("status", "advised"), [(403, True), (402, False)])
def test_what_the_hub_says_when_it_refuses_is_told(model: Path, tmp_path: Path, status: int, advised: bool) -> None:
    with hub_server.serve(tmp_path / "hub") as hub:
        hub.refuses = status
        got = _push(model, "someone/adapted", hub.url)
    assert got.returncode == 1 and "the plan of someone is used up" in got.stderr and "Traceback" not in got.stderr
    assert ("hf auth login" in got.stderr) == advised


def test_a_dataset_is_sent_as_one_and_public_where_asked(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    (folder / "queries").mkdir(parents=True)
    (folder / "queries/train-00000-of-00001.parquet").write_bytes(b"PAR1")
    (folder / "README.md").write_text("---\nlicense: other\n---\n")
    with hub_server.serve(tmp_path / "hub") as hub:
        got = _push(folder, "someone/queries", hub.url, "--public")
        assert got.returncode == 0, got.stderr
        assert hub.made["someone/queries"]["type"] == "dataset" and json.loads(got.stdout)["private"] is False
    assert (tmp_path / "hub/someone/queries/queries/train-00000-of-00001.parquet").read_bytes() == b"PAR1"


def test_what_is_unfinished_or_something_else_is_refused_before_the_hub_is_asked(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder, to, error in ((tmp_path / "empty", "a/b", "neither a model"), (tmp_path / "absent", "a/b", "no such folder"),
                              (model, "adapted", "OWNER/NAME"), (model, "some one/adapted", "--to some one/adapted")):
        with pytest.raises(ReadQGError, match=error):
            api.push(PushConfig(folder=str(folder), to=to))
    with (model / "model.safetensors").open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(FolderError, match="its bytes have changed"):
        api.push(PushConfig(folder=str(model), to="a/b"))
    (model / "_SUCCESS").unlink()
    with pytest.raises(FolderError, match="is not finished"):
        api.push(PushConfig(folder=str(model), to="a/b"))


def test_a_hub_that_does_not_answer_is_told_in_one_line(model: Path) -> None:
    got = _push(model, "someone/adapted", "http://127.0.0.1:9", HF_HUB_DISABLE_PROGRESS_BARS="1")
    assert got.returncode == 1 and "someone/adapted: the hub cannot be reached" in got.stderr and "Traceback" not in got.stderr
