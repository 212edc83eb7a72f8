"""`readqg push` sends what others need to load a folder, and nothing else. To a hub on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import hub_server
from tests.builders import tiny_cross_encoder


def _push(folder: Path, to: str, url: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, for the hub's client reads its environment once."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    own = {"HF_HOME": str(folder.parent / "home"), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": "hf_tried"}
    return subprocess.run([sys.executable, "-m", "readqg.cli", "push", str(folder), to, *flags, "--json"],
                          capture_output=True, text=True, env={**kept, **own, **environment}, timeout=120)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """As training leaves it."""
    folder = tiny_cross_encoder(tmp_path / "reranker")
    for name in ("_config.json", "_SUCCESS", "README.md", "training_log.jsonl", "_tmp/events.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("---\nlibrary_name: sentence-transformers\n---\n" if name == "README.md" else '{"corpus": "/home/me"}')
    return folder


def test_a_model_arrives_whole_private_and_without_the_run_s_own_files(model: Path, tmp_path: Path) -> None:
    with hub_server.serve(tmp_path / "hub") as hub:
        got = _push(model, "someone/adapted", hub.url)
        assert got.returncode == 0, got.stderr
        said = json.loads(got.stdout)
        assert (said["kind"], said["private"], hub.made["someone/adapted"]["visibility"]) == ("model", True, "private")
    sent = tmp_path / "hub/someone/adapted"
    names = {p.relative_to(sent).as_posix() for p in sent.rglob("*") if p.is_file()}
    assert names == set(said["files"]) >= {"README.md", "config.json", "model.safetensors", "tokenizer.json"}
    assert not any(name.startswith("_") or name.endswith(".jsonl") for name in names)
    assert all((sent / name).read_bytes() == (model / name).read_bytes() for name in names)
    assert "MB" in got.stderr and hub.url in got.stderr and "hf_tried" not in got.stderr + got.stdout


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


def test_what_is_unfinished_or_something_else_is_refused_before_anything_is_sent(model: Path, tmp_path: Path) -> None:
    (model / "_SUCCESS").unlink()
    (tmp_path / "empty").mkdir()
    with hub_server.serve(tmp_path / "hub") as hub:
        for folder, words in ((model, "is not finished"), (tmp_path / "empty", "neither a model"), (tmp_path / "absent", "no such folder")):
            got = _push(folder, "someone/adapted", hub.url)
            assert got.returncode == 1 and words in got.stderr, got.stderr
        (model / "_SUCCESS").touch()
        got = _push(model, "some one/adapted", hub.url)
        assert got.returncode == 1 and "--to some one/adapted" in got.stderr and "OWNER/NAME" in got.stderr
        assert not hub.made


def test_a_hub_that_does_not_answer_is_told_in_one_line(model: Path) -> None:
    got = _push(model, "someone/adapted", "http://127.0.0.1:9", HF_HUB_DISABLE_PROGRESS_BARS="1")
    assert got.returncode == 1 and "someone/adapted: the hub cannot be reached" in got.stderr and "Traceback" not in got.stderr
