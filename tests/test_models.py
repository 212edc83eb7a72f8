"""Where models come from and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from readqg import models
from readqg.errors import ModelError
from tests.builders import tiny_cross_encoder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cross_encoder(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "model"))


def test_a_folder_is_its_own_place(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert models.resolve(str(model)) == str(model)
    monkeypatch.setenv("HOME", str(model.parent))
    assert models.resolve("~/model") == str(model)
    monkeypatch.chdir(model.parent)
    assert models.resolve("model") == str(model)
    assert models.revision("model") is None


@pytest.mark.parametrize("name", ["/no/such/model", "./no-such-model", "~/no-such-model", "some/where/deep"])
def test_what_can_only_be_a_folder_is_not_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match="there is no such model folder"):
        models.resolve(name)


def test_pickled_weights_are_refused_with_the_way_to_convert(model: Path) -> None:
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pickles only.*pytorch_model\.bin.*save_pretrained"):
        models.resolve(str(model))


def test_safetensors_beside_a_pickle_are_used(model: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    assert models.resolve(str(model)) == str(model)


def test_a_folder_without_config_says_what_it_holds(model: Path) -> None:
    (model / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json.*model\.safetensors"):
        models.resolve(str(model))


def test_a_folder_without_weights_is_refused(model: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors weights"):
        models.resolve(str(model))


def test_a_missing_file_of_sharded_weights_is_named(model: Path) -> None:
    index = {"metadata": {}, "weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"missing files: model-00002-of-00002\.safetensors"):
        models.resolve(str(model))


@pytest.mark.parametrize("spoil", ["cut", "pointer"])
def test_damaged_weights_are_named(model: Path, spoil: str) -> None:
    weights = model / "model.safetensors"
    content = weights.read_bytes()[:-10] if spoil == "cut" else b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors cannot be read"):
        models.resolve(str(model))


def test_an_unfinished_training_folder_is_refused(model: Path) -> None:
    (model / "_config.json").write_text("{}")
    with pytest.raises(ModelError, match="training is not finished"):
        models.resolve(str(model))
    (model / "_SUCCESS").write_text("{}")
    assert models.resolve(str(model)) == str(model)


def test_fingerprint_follows_the_weights_and_not_the_place(made: Path, model: Path) -> None:
    before = models.fingerprint(str(made))
    assert models.fingerprint(str(model)) == before
    weights = load_file(model / "model.safetensors")
    weights["classifier.bias"] += 1
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    assert models.fingerprint(str(model)) != before


def test_fingerprint_follows_the_architecture_and_not_the_library_version(made: Path, model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "transformers_version": "4.0.0"}))
    assert models.fingerprint(str(model)) == models.fingerprint(str(made))
    (model / "config.json").write_text(json.dumps({**config, "num_attention_heads": 8}))
    assert models.fingerprint(str(model)) != models.fingerprint(str(made))


def test_fingerprint_follows_the_tokenizer_and_that_of_the_weights_does_not(made: Path, model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps({**tokenizer, "normalizer": None}))
    assert models.weights_fingerprint(str(model)) == models.weights_fingerprint(str(made))
    assert models.fingerprint(str(model)) != models.fingerprint(str(made))
