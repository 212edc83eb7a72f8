"""Hostile input is refused or inert. (Pickles of scores: tests/labeling; gzip bombs: test_corpus_import; addresses: tests/cluster.)"""

import ast
import io
import json
import zipfile
from pathlib import Path

import pytest
import torch

from readqg import api, models
from readqg.config import ImportConfig
from readqg.crossencoder import load_model
from readqg.errors import ModelError, ReadQGError
from readqg.evaluation.encoder import BiEncoder
from readqg.generator.backbone import Backbone
from tests.builders import tiny_bi_encoder, tiny_cross_encoder, tiny_llama

CPU = torch.device("cpu")
PACKAGE = Path(__file__).parents[1] / "readqg"
LOADERS = {
    "backbone": (tiny_llama, "AutoModelForCausalLM", lambda folder: Backbone.load(folder)),
    "backbone, looked at": (tiny_llama, "AutoModelForCausalLM", lambda folder: Backbone.load(folder, device="meta")),
    "cross-encoder": (tiny_cross_encoder, "AutoModelForSequenceClassification", lambda folder: load_model(str(folder), CPU)),
    "bi-encoder": (tiny_bi_encoder, "AutoModel", lambda folder: BiEncoder(str(folder), "mean", 32, 512, CPU, torch.float32)),
}


def with_code(folder, auto_class, mark, model_type=None):
    """The model says that code of its own is to be run; that code leaves a mark."""
    for name in ("evil", "tokenization_evil"):
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Evil", auto_class: "evil.Evil", "AutoTokenizer": ["tokenization_evil.Evil", None]}
    if model_type:
        config["model_type"] = model_type
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["tokenization_evil.Evil", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


@pytest.mark.parametrize("kind", LOADERS)
def test_code_that_comes_with_a_model_is_never_run(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers asks at a terminal
    build, auto_class, load = LOADERS[kind]
    with_code(build(tmp_path / "known"), auto_class, tmp_path / "mark")
    load(tmp_path / "known")
    assert not (tmp_path / "mark").exists()
    with_code(build(tmp_path / "unknown"), auto_class, tmp_path / "mark", model_type="evil")
    with pytest.raises(ModelError):
        load(tmp_path / "unknown")
    assert not (tmp_path / "mark").exists()


def test_the_mark_would_show(tmp_path):
    from transformers import AutoConfig

    folder = tiny_llama(tmp_path / "m")
    with_code(folder, "AutoModelForCausalLM", tmp_path / "mark", model_type="evil")
    with pytest.raises(AttributeError):
        AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (tmp_path / "mark").exists()


def test_pickled_weights_are_refused(tmp_path):
    folder = tiny_cross_encoder(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="A pickle can run code"):
        models.resolve(str(folder))


def zip_bytes(names, size=10):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            file.writestr(name, b"0" * size)
    return out.getvalue()


@pytest.mark.parametrize("content", [zip_bytes(["corpus.jsonl"], 50 << 20), zip_bytes(["../../escaped.jsonl", "/tmp/escaped.jsonl"])],
                         ids=["bomb", "path traversal"])
@pytest.mark.parametrize("name", ["corpus.zip", "corpus.jsonl", "corpus.jsonl.gz", "corpus.parquet", "corpus.csv"])
def test_an_archive_is_never_unpacked(name, content, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(content)
    with pytest.raises(ReadQGError) as error:
        api.import_corpus(ImportConfig(source=str(tmp_path / "in" / name), out=str(tmp_path / "out")))
    assert name in str(error.value)
    written = sum(p.stat().st_size for p in (tmp_path / "out").rglob("*") if p.is_file()) if (tmp_path / "out").exists() else 0
    assert written < 200_000
    assert not list(tmp_path.rglob("escaped*")) and not Path("/tmp/escaped.jsonl").exists()


def calls():
    """(file, name called, keyword arguments) of every call in the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                yield path.relative_to(PACKAGE).as_posix(), ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}


def test_nothing_in_the_package_unpickles_unpacks_or_evaluates():
    """DeepSpeed's checkpoints, loaded from the run's own folder, are the one exception, and no call here."""
    forbidden = {"pickle.load", "pickle.loads", "torch.load", "joblib.load", "np.load", "numpy.load", "yaml.load", "yaml.unsafe_load",
                 "eval", "exec", "os.system", "zipfile.ZipFile", "tarfile.open", "shutil.unpack_archive", "marshal.loads", "shelve.open"}
    assert [(file, name) for file, name, _ in calls() if name in forbidden or name.endswith(".extractall")] == []


def test_every_model_that_a_user_names_is_loaded_without_its_code():
    loaded = [(file, keywords) for file, name, keywords in calls() if name.endswith((".from_pretrained", ".from_config"))]
    # The sample's own weights are files that are pinned by their sha256.
    asked = [(file, keywords) for file, keywords in loaded if file != "sample/gguf_weights.py"]
    assert len(asked) >= 6
    assert all(keywords.get("trust_remote_code") == "False" for _, keywords in asked), asked
