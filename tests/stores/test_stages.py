"""Every stage of rows, its inputs, models and output all in a bucket: the same bytes as on a file system. (Without Ray.)"""

import gzip
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from readqg import api, fetching, models
from readqg import config as c
from readqg.corpus import Documents, read_judgments
from readqg.errors import ModelError
from readqg.evaluation.quality import measure_quality
from readqg.generator.backbone import Backbone
from readqg.generator.generate import GenerateStage
from readqg.generator.prompts import SoftPrompt
from readqg.labeling.label import LabelStage
from readqg.labeling.pairs import make_pairs
from readqg.local import run_here
from readqg.places import Place, StorePath, place_of
from readqg.random_rows import RandomRows
from readqg.ranking import RankStage
from readqg.runs import read_run
from readqg.shards import OutputFolder, open_input, verify
from tests.builders import tiny_bi_encoder, tiny_cross_encoder, tiny_llama

WORDS = ["wing", "flow", "boundary", "layer", "shock", "heat"]
FOLDERS = ("corpus/documents", "corpus/queries", "corpus/judgments", "bm25", "queries", "tuned", "scores", "pairs", "pairs/_partitioned",
           "pairs/_partitioned-texts",
           "quality", "quality/_embeddings")
COMPUTE = c.Compute(precision="fp32", device="cpu", threads=1)


def write_inputs(folder: Path) -> Path:
    """A raw BEIR corpus, whose texts share letters and digits with what a tiny model writes, and tiny models."""
    backbone = tiny_llama(folder / "backbone")
    tiny_cross_encoder(folder / "reranker")
    tiny_bi_encoder(folder / "encoder")
    prompts = SoftPrompt.initial(Backbone.load(backbone), c.TrainGeneratorConfig(pairs="", out="", backbone=str(backbone)), "none")
    (folder / "prompts").mkdir()
    prompts.save(folder / "prompts")
    (folder / "raw" / "qrels").mkdir(parents=True)
    letters = " ".join("0123456789abcdef")
    texts = [f"the {WORDS[i % 6]} {WORDS[(i * 5 + 1) % 6]} of {WORDS[(i // 6) % 6]} {letters}" for i in range(24)]
    rows = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(texts)]
    (folder / "raw" / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "no JSON\n")
    queries = "".join(json.dumps({"_id": f"q{i}", "text": f"what is {word}"}) + "\n" for i, word in enumerate(WORDS))
    (folder / "raw" / "queries.jsonl.gz").write_bytes(gzip.compress(queries.encode()))
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(6))
    (folder / "raw" / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def upload(folder: Path, target: StorePath) -> None:
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        (target / file.relative_to(folder).as_posix()).upload(file)


def here(stage, config) -> None:
    run_here(stage, OutputFolder.begin(config.out, stage.name, c.identity(config), stage.inputs(), stage.models()))


def run_all(base: Place, out: Place) -> None:
    """The stages of rows, one after another."""
    documents, queries = str(out / "corpus" / "documents"), str(out / "corpus" / "queries")
    scoring = {"max_length": 48, "compute": COMPUTE}
    api.import_corpus(c.ImportConfig(source=str(base / "raw"), out=str(out / "corpus"), shard_rows=10, max_rejected_share=0.1))
    api.retrieve(c.RetrieveConfig(documents=documents, queries=queries, judgments=str(out / "corpus" / "judgments"),
                                  out=str(out / "bm25"), top_k=8, shard_queries=2))
    generate = c.GenerateConfig(documents=documents, out=str(out / "queries"), prompts=str(base / "prompts"), compute=COMPUTE,
                                backbone=str(base / "backbone"), document_tokens=16, max_new_tokens=5, shard_rows=10)
    here(GenerateStage(generate), generate)
    rank = c.RankConfig(run=str(out / "bm25"), queries=queries, documents=documents, out=str(out / "tuned"), model=str(base / "reranker"),
                        shard_queries=4, **scoring)
    here(RankStage(rank), rank)
    label = c.LabelConfig(candidates=str(out / "bm25"), queries=queries, documents=documents, out=str(out / "scores"),
                          model=str(base / "reranker"), shard_rows=20, **scoring)
    here(LabelStage(label), label)
    pairs = c.PairsConfig(scores=str(out / "scores"), queries=queries, documents=documents, out=str(out / "pairs"), partitions=3,
                          shard_rows=20, rule="spread", m=1)
    make_pairs(pairs, run_here)
    quality = c.QualityConfig(queries=str(out / "queries"), documents=documents, out=str(out / "quality"), judge=str(base / "reranker"),
                              encoder=str(base / "encoder"), start=str(base / "reranker"), shard_documents=10, **scoring)
    measure_quality(quality, run_here)


@dataclass
class Runs:
    inputs: StorePath
    stored: StorePath
    local: Path


@pytest.fixture(scope="module")
def runs(bucket, tmp_path_factory):
    folder = write_inputs(tmp_path_factory.mktemp("inputs"))
    upload(folder, bucket / "inputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        run_all(bucket / "inputs", bucket / "out")
        run_all(folder, folder / "out")
        yield Runs(bucket / "inputs", bucket / "out", folder / "out")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_in_a_bucket_has_the_bytes_of_one_on_disk(runs, name):
    local, stored = runs.local / name, runs.stored / name
    expected = {p.name: p.read_bytes() for p in local.glob("part-*.parquet")}
    assert expected and {p.name: p.read_bytes() for p in stored.glob("part-*.parquet")} == expected
    assert open_input(stored).fingerprint == open_input(local).fingerprint
    assert verify(stored) == []


def test_verify_looks_into_every_folder_of_a_run(runs):
    assert api.verify(c.VerifyConfig(folder=str(runs.stored))) == {"folders": len(FOLDERS), "problems": 0}


def test_what_lies_beside_the_parts_is_written_too(runs):
    for name in ("corpus/_rejected.jsonl", "corpus/_import.json", "bm25/_run.trec", "bm25/_queries.json"):
        assert (runs.stored / name).is_file(), name
    assert json.loads((runs.stored / "corpus/_rejected.jsonl").read_text())["file"] == str(runs.inputs / "raw" / "corpus.jsonl")
    assert read_run(str(runs.stored / "bm25" / "_run.trec")) == read_run(runs.stored / "bm25") == read_run(runs.local / "bm25")


def test_the_same_command_again_does_nothing(runs):
    before = {p: p.stat() for p in runs.stored.rglob("*")}
    run_all(runs.inputs, runs.stored)
    after = {p: p.stat() for p in runs.stored.rglob("*")}
    rewritten = {p.name for p in after if after[p] != before.get(p)}
    assert rewritten <= {"_queries.json"} and before.keys() == after.keys()


def test_runs_are_evaluated_where_they_lie(runs):
    found = [
        api.evaluate(c.EvaluateConfig(run=str(out / "tuned"), against=str(out / "bm25"), qrels=str(out / "corpus" / "judgments"),
                                      permutations=100))
        for out in (runs.stored, runs.local)
    ]
    assert found[0]["measures"] == found[1]["measures"] and found[0]["differences"] == found[1]["differences"]


def test_raw_files_are_read_where_they_lie(runs, tmp_path):
    assert Documents.open(str(runs.stored / "corpus")).texts(["d3"]) == Documents.open(runs.local / "corpus").texts(["d3"])
    assert read_judgments(str(runs.inputs / "raw")) == read_judgments(runs.local / "corpus")
    pq.write_table(open_input(runs.local / "scores").read(columns=["query_id", "doc_id", "score"]), tmp_path / "scores.parquet")
    (runs.inputs / "scores.parquet").upload(tmp_path / "scores.parquet")
    documents, queries = str(runs.stored / "corpus" / "documents"), str(runs.stored / "corpus" / "queries")
    config = c.PairsConfig(scores=str(runs.inputs / "scores.parquet"), queries=queries, documents=documents, partitions=3, rule="spread",
                           m=1, out=str(runs.stored / "pairs-of-a-file"))
    assert make_pairs(config, run_here)["passages"] == open_input(runs.stored / "pairs").success["counts"]["passages"]


def test_a_model_is_fetched_once_and_again_when_it_changes(out, cache, tmp_path):
    upload(tiny_cross_encoder(tmp_path / "one"), out / "model")
    (out / "model" / "pytorch_model.bin").write_bytes(b"a pickle")
    folder = Path(models.resolve(str(out / "model")))
    assert folder.is_relative_to(cache) and not (folder / "pytorch_model.bin").exists()
    assert models.fingerprint(str(out / "model")) == models.fingerprint(str(tmp_path / "one"))
    fetching._fetched.cache_clear()
    assert Path(models.resolve(str(out / "model"))) == folder, "another process finds it there"
    assert len(list(folder.parent.iterdir())) == 1, "nothing is left of the fetching"
    os.utime(folder, (0, 0))
    assert Path(models.resolve(str(out / "model"))) == folder and folder.stat().st_mtime > 0, "its use is marked"
    shutil.rmtree(folder)
    assert (Path(models.resolve(str(out / "model"))) / "model.safetensors").exists(), "in the same process, too"
    (out / "model" / "model.safetensors").upload(tiny_cross_encoder(tmp_path / "two", seed=1) / "model.safetensors")
    fetching._fetched.cache_clear()
    assert models.fingerprint(str(out / "model")) == models.fingerprint(str(tmp_path / "two"))


def test_what_training_reads_in_an_order_of_its_own_is_fetched_once(runs, cache, monkeypatch):
    rows = RandomRows(open_input(runs.stored / "queries"), ("doc_id", "query"))
    assert rows.read([30, 3, 30]) == RandomRows(open_input(runs.local / "queries"), ("doc_id", "query")).read([30, 3, 30])
    assert len(list((cache / "stores").iterdir())) == 3, "its three parts"
    monkeypatch.setattr(StorePath, "download", None)
    assert rows.read([31, 4])


def test_a_folder_of_pickles_in_a_store_is_refused(out, cache):
    (out / "config.json").write_bytes(b"{}")
    (out / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelError, match="Only safetensors are read"):
        models.resolve(str(out))
    assert not cache.exists()


@pytest.mark.parametrize("name", ["../evil.json", "sub/../../evil.json", ".hidden.json", "_config.json"])
def test_a_name_that_leads_out_of_the_folder_is_never_fetched(name):
    assert not fetching._is_of_a_model(name)
    assert fetching._is_of_a_model("1_Pooling/config.json")


def test_a_model_that_is_not_there_is_said(out, cache):
    with pytest.raises(ModelError, match="nothing lies there"):
        models.resolve(str(place_of(out)))


def test_a_model_that_is_not_finished_or_has_changed_is_refused(out, cache, tmp_path):
    folder = OutputFolder.begin(out, "test", {})
    with pytest.raises(ModelError, match="training is not finished"):
        models.resolve(str(out))
    folder.commit_files(tiny_cross_encoder(tmp_path / "model"))
    (out / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match="not those that its training wrote"):
        models.resolve(str(out))
