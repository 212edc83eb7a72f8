"""Training into a store: the state is this machine's, the model is uploaded when it is done. (The loop itself: tests/engine.)"""

from contextlib import nullcontext
from pathlib import Path

import pytest

from readqg import pipeline, sample
from readqg.config import RunConfig, identity
from readqg.engine import shared as nodes
from readqg.engine import stored, tune
from readqg.errors import ConfigError, RunError
from readqg.shards import OutputFolder, verify
from tests.engine.toys import Hill, HillConfig, Line, LineConfig


class Trained:
    """In place of the training loop: leaves a checkpoint, breaks as often as told, and then has a model."""

    def __init__(self, breaks: int = 0) -> None:
        self.breaks, self.found_checkpoint = breaks, []

    def __call__(self, stage, config):
        folder = OutputFolder.begin(config.out, stage.name, identity(config), stage.inputs(), stage.models())
        checkpoint = folder.path / "_train" / "checkpoint"
        self.found_checkpoint.append(checkpoint.exists())
        checkpoint.parent.mkdir(exist_ok=True)
        checkpoint.write_text("state")
        if len(self.found_checkpoint) <= self.breaks:
            raise RunError("broken")
        (folder.path / "_tensorboard").mkdir()
        (folder.path / "_tensorboard" / "events").write_text("events")
        made = folder.tmp / "model"
        made.mkdir(parents=True)
        (made / "line.safetensors").write_bytes(b"weights")
        return folder.commit_files(made, {"steps": 30})


@pytest.fixture
def trained(monkeypatch, cache):
    def prepare(breaks: int = 0) -> Trained:
        loop = Trained(breaks)
        monkeypatch.setattr(stored.train, "run", loop)
        monkeypatch.setattr(stored.cluster, "connect", lambda compute: nullcontext())
        monkeypatch.setattr(nodes, "check_shared", lambda folder: None)
        return loop

    return prepare


def test_the_model_is_uploaded_and_the_state_removed(out, trained, cache):
    trained()
    success = stored.run(Line(), LineConfig(out=str(out)))
    assert success["files"].keys() == {"line.safetensors"} and success["facts"] == {"steps": 30}
    assert verify(out) == []
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*")) == [
        "_SUCCESS", "_config.json", "_tensorboard/events", "line.safetensors"]
    assert not list((cache / "training").iterdir())


def test_the_same_command_goes_on_from_the_state_and_then_does_nothing(out, trained):
    loop = trained(breaks=1)
    with pytest.raises(RunError):
        stored.run(Line(), LineConfig(out=str(out)))
    assert not (out / "_SUCCESS").exists()
    stored.run(Line(), LineConfig(out=str(out)))
    stored.run(Line(), LineConfig(out=str(out)))
    assert loop.found_checkpoint == [False, True]


def test_an_upload_that_was_broken_off_goes_on(out, trained, monkeypatch):
    trained()
    real = stored._upload_trackers
    monkeypatch.setattr(stored, "_upload_trackers", lambda state, out: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        stored.run(Line(), LineConfig(out=str(out)))
    (out / "line.safetensors").write_bytes(b"weights")
    monkeypatch.setattr(stored, "_upload_trackers", real)
    monkeypatch.setattr(stored.train, "run", lambda stage, config: OutputFolder.begin(
        config.out, stage.name, identity(config), stage.inputs()).success())
    assert stored.run(Line(), LineConfig(out=str(out)))["files"].keys() == {"line.safetensors"}


def test_a_path_is_trained_into_as_ever(tmp_path, trained):
    trained()
    stored.run(Line(), LineConfig(out=str(tmp_path / "out")))
    assert (Path(tmp_path) / "out" / "line.safetensors").exists()


def test_nodes_that_do_not_share_the_state_are_refused_with_what_to_do(out, trained, monkeypatch):
    trained()

    def not_shared(folder: Path) -> None:
        raise ConfigError("is not the same folder on every node")

    monkeypatch.setattr(nodes, "check_shared", not_shared)
    with pytest.raises(ConfigError, match="Train on one node"):
        stored.run(Line(), LineConfig(out=str(out)))
    monkeypatch.setattr(pipeline.cluster, "connect", lambda compute: nullcontext())
    with pytest.raises(ConfigError, match="Train on one node"):
        pipeline.run(RunConfig(out=str(out / "run"), corpus=str(sample.corpus_folder())))
    assert not (out / "run" / "queries").exists(), "before anything is written for it"


def test_a_search_wants_a_path():
    with pytest.raises(ConfigError, match="needs a path"):
        tune.search(Hill(HillConfig(out="s3://bucket/search")), HillConfig(out="s3://bucket/search"))
