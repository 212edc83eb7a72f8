"""The generate stage: every document has its outcome, and the rows hang on the documents and the config alone."""

import json
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from readqg import models
from readqg.config import SMOLLM2, GenerateConfig, GeneratorSettings, ImportConfig, identity, make
from readqg.corpus import import_corpus
from readqg.errors import FolderError, InputError, ModelError
from readqg.generator.backbone import Backbone
from readqg.generator.generate import QUERIES, GenerateStage
from readqg.generator.prompts import SoftPrompt
from readqg.local import run_here
from readqg.shards import OutputFolder
from readqg.stage import compute_shard
from tests.builders import tiny_llama, tiny_t5

DOCUMENTS = [
    {"_id": f"d{i}", "title": title, "text": text}
    for i, (title, text) in enumerate([
        ("Heat", "the flow of heat"), ("", "the wing"), ("Shock", "what is a shock wave " * 20), ("", ""), ("Layer", ""),
        ("", "boundary layer"), ("Flow", "is relevant"), ("Query", "of the document"), ("", "x y z"), ("", "heat of the wing"),
    ])
]
EMPTY = "d3"


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported documents folder of several parts."""
    root = tmp_path_factory.mktemp("corpus")
    source = root / "corpus.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS))
    import_corpus(make(ImportConfig, {"source": str(source), "out": str(root / "in"), "kind": "documents", "shard_rows": 4}))
    return root / "in" / "documents"


@pytest.fixture(scope="module", params=["t5", "llama"])
def prompts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained prompts for a tiny backbone beside them."""
    root = tmp_path_factory.mktemp(request.param)
    return make_prompts((tiny_t5 if request.param == "t5" else tiny_llama)(root / "backbone", tied=False), root / "prompts")


def make_prompts(backbone: Path, folder: Path) -> Path:
    folder.mkdir()
    SoftPrompt.initial(Backbone.load(backbone), GeneratorSettings(n_relevance=2, n_instruction=3)).save(folder)
    return folder


def config(documents: Path, prompts: Path, **changes: Any) -> GenerateConfig:
    small = {"max_new_tokens": 6, "document_tokens": 20, "compute": {"device": "cpu", "precision": "fp32", "threads": 1}}
    return make(GenerateConfig, {"documents": str(documents), "prompts": str(prompts), "out": "unused", **small, **changes})


def rows(stage: GenerateStage) -> list[dict[str, Any]]:
    """All output rows, shard after shard, as the engine would have them."""
    stage.load()
    tables = [compute_shard(stage, stage.prepare(stage.read(i))).table for i in range(stage.total)]
    return pa.concat_tables(tables).to_pylist()


def test_one_row_for_every_document_relevance_and_sample_in_that_order(documents: Path, prompts: Path) -> None:
    stage = GenerateStage(config(documents, prompts, relevances=(1.0, 0.25), samples=2, shard_rows=3))
    assert stage.total == 4
    stage.load()
    result = compute_shard(stage, stage.prepare(stage.read(1)))
    assert result.table.schema == QUERIES
    assert (result.inputs, result.errors, result.nothing, result.first_id, result.last_id) == (3, 1, 0, "d3", "d5")
    found = [(row["doc_id"], row["relevance"], row["sample"]) for row in result.table.to_pylist()]
    assert found == [(f"d{i}", r, s) for i in (3, 4, 5) for r in (1.0, 0.25) for s in (0, 1)]
    assert result.metrics == {"tokens": sum(row["n_tokens"] or 0 for row in result.table.to_pylist()), "halvings": 0}


def test_a_document_without_text_has_an_error_and_one_with_a_title_alone_has_queries(documents: Path, prompts: Path) -> None:
    found = {row["doc_id"]: row for row in rows(GenerateStage(config(documents, prompts, decoding="greedy")))}
    assert {doc_id for doc_id, row in found.items() if row["error"]} == {EMPTY}
    assert found[EMPTY]["error"] == "the document has no text"
    assert (found[EMPTY]["query"], found[EMPTY]["log_likelihood"], found[EMPTY]["n_tokens"]) == (None, None, None)
    for doc_id in found.keys() - {EMPTY}:
        assert found[doc_id]["query"] and found[doc_id]["log_likelihood"] < 0 and 1 <= found[doc_id]["n_tokens"] <= 6


@pytest.mark.parametrize("decoding", ["greedy", "top_k"])
def test_rows_are_the_same_whatever_the_shards_and_batches(documents: Path, prompts: Path, decoding: str) -> None:
    one = rows(GenerateStage(config(documents, prompts, decoding=decoding, shard_rows=100)))
    many = rows(GenerateStage(config(documents, prompts, decoding=decoding, shard_rows=3, batch_tokens=64)))
    for first, second in zip(one, many, strict=True):
        assert first.pop("log_likelihood") == pytest.approx(second.pop("log_likelihood"), abs=1e-4)
        assert first == second


def test_the_same_command_writes_the_same_bytes(documents: Path, prompts: Path, tmp_path: Path) -> None:
    written = []
    for out in (tmp_path / "a", tmp_path / "b"):
        stage = pickle.loads(pickle.dumps(GenerateStage(config(documents, prompts, shard_rows=4))))  # as a worker gets it
        folder = OutputFolder.begin(out, stage.name, identity(stage.config), stage.inputs(), stage.models())
        success = run_here(stage, folder)
        written.append([path.read_bytes() for path in sorted(out.glob("part-*.parquet"))])
    assert (success["counts"]["inputs"], success["counts"]["rows"], success["counts"]["nothing"]) == (10, 20, 0)
    assert len(written[0]) == 3 and written[0] == written[1]
    assert pq.read_table(tmp_path / "a").schema.remove_metadata() == QUERIES


def test_a_grid_of_eleven_relevances(documents: Path, prompts: Path) -> None:
    grid = tuple(i / 10 for i in range(11))
    found = rows(GenerateStage(config(documents, prompts, relevances=grid, max_documents=2)))
    assert [row["relevance"] for row in found] == pytest.approx([*grid, *grid])


def test_samples_differ_and_the_seed_decides(documents: Path, prompts: Path) -> None:
    def queries(**changes: Any) -> list[str]:
        found = rows(GenerateStage(config(documents, prompts, samples=3, relevances=(1.0,), **changes)))
        return [row["query"] for row in found if row["doc_id"] == "d0"]

    assert len(set(queries())) == 3
    assert queries() == queries(seed=0) != queries(seed=1)


def test_a_subset_is_drawn_by_the_ids_and_its_queries_are_those_of_the_whole(documents: Path, prompts: Path) -> None:
    whole = rows(GenerateStage(config(documents, prompts)))
    few, more = (rows(GenerateStage(config(documents, prompts, max_documents=n, shard_rows=2))) for n in (3, 5))
    ids = [list(dict.fromkeys(row["doc_id"] for row in found)) for found in (few, more)]
    assert [len(i) for i in ids] == [3, 5] and set(ids[0]) < set(ids[1])
    assert ids[1] == sorted(ids[1])  # the order of the corpus
    queries = {(row["doc_id"], row["relevance"]): row["query"] for row in whole}
    assert all(row["query"] == queries[row["doc_id"], row["relevance"]] for row in more)


def test_a_document_is_title_and_text_cut_to_its_first_tokens(documents: Path, prompts: Path) -> None:
    stage = GenerateStage(config(documents, prompts))
    prepared = stage.prepare(stage.read(0)).to_pylist()
    tokenizer = Backbone.load(stage.backbone, device="meta").tokenizer
    for row in prepared[:3]:
        whole = tokenizer(f"{row['title']} {row['text']}".strip(), add_special_tokens=False)["input_ids"]
        assert row["_ids"] == whole[:20]
    assert len(prepared[2]["_ids"]) == 20


def test_a_document_whose_logits_are_nan_costs_its_own_rows_alone(documents: Path, prompts: Path) -> None:
    stage = GenerateStage(config(documents, prompts))
    before = rows(stage)
    stage.load()
    generator = stage._writer.generator
    broken = generator.document_ids("z", 4)[-1]  # in no other document than d8
    with torch.no_grad():
        generator.backbone.lm.get_input_embeddings().weight[broken] = torch.nan
    after = pa.concat_tables([compute_shard(stage, stage.prepare(stage.read(0))).table]).to_pylist()
    assert [row["error"] for row in after if row["doc_id"] == "d8"] == ["the model's logits are not finite"] * 2
    others = [(a, b) for a, b in zip(before, after, strict=True) if a["doc_id"] != "d8" and "z" not in (a["query"] or "")]
    assert len(others) >= 14
    for first, second in others:
        assert (first["query"], first["error"]) == (second["query"], second["error"])


def test_a_document_that_raises_costs_its_own_rows_alone(documents: Path, prompts: Path) -> None:
    stage = GenerateStage(config(documents, prompts, samples=2))
    table = stage.prepare(stage.read(0))
    spoiled = [[10**6] if row["doc_id"] == "d1" else row["_ids"] for row in table.to_pylist()]
    stage.load()
    result = compute_shard(stage, table.set_column(3, "_ids", pa.array(spoiled, pa.list_(pa.int32()))))
    bad = [row for row in result.table.to_pylist() if row["error"] and row["error"].startswith("IndexError: ")]
    assert [(row["doc_id"], row["relevance"], row["sample"]) for row in bad] == [("d1", r, s) for r in (1, 0) for s in (0, 1)]
    assert [row["doc_id"] for row in result.table.to_pylist()] == [f"d{i}" for i in range(10) for _ in range(4)]
    assert sum(row["query"] is not None for row in result.table.to_pylist()) > 25


def test_prompts_for_another_base_model_are_refused_before_any_work(documents: Path, prompts: Path, tmp_path: Path) -> None:
    other = (tiny_t5 if "llama" in str(prompts) else tiny_llama)(tmp_path / "other")
    with pytest.raises(ModelError) as refused:
        GenerateStage(config(documents, prompts, backbone=str(other)))
    assert str(other) in str(refused.value) and str(prompts.parent / "backbone") in str(refused.value)


def test_a_folder_without_prompts_is_refused(documents: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no prompts"):
        GenerateStage(config(documents, tmp_path))


def test_unfinished_documents_are_refused(prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no _SUCCESS"):
        GenerateStage(config(tmp_path, prompts))


def test_a_folder_begun_with_other_prompts_is_refused(documents: Path, prompts: Path, tmp_path: Path) -> None:
    first = GenerateStage(config(documents, prompts))
    OutputFolder.begin(tmp_path / "out", first.name, identity(first.config), first.inputs(), first.models())
    changed = tmp_path / "prompts"
    changed.mkdir()
    tensors = load_file(prompts / "prompts.safetensors")
    save_file({**tensors, "plus": tensors["plus"] + 1}, changed / "prompts.safetensors")
    (changed / "prompts.json").write_bytes((prompts / "prompts.json").read_bytes())
    second = GenerateStage(config(documents, changed))
    with pytest.raises(FolderError, match=r"models\.prompts"):
        OutputFolder.begin(tmp_path / "out", second.name, identity(second.config), second.inputs(), second.models())


@pytest.mark.real
def test_the_packages_own_prompts_write_readable_queries_twice_the_same(shared: Path, tmp_path: Path) -> None:
    try:
        models.resolve(SMOLLM2)
    except ModelError as error:
        pytest.skip(str(error))
    lines = (shared / "data" / "scifact" / "corpus.jsonl").read_text().splitlines()[:6]
    (tmp_path / "corpus.jsonl").write_text("\n".join(lines) + "\n")
    asked = {"source": str(tmp_path / "corpus.jsonl"), "out": str(tmp_path / "in"), "kind": "documents"}
    import_corpus(make(ImportConfig, asked))
    small = {"max_new_tokens": 24, "document_tokens": 128, "compute": {"device": "cpu"}}
    stage = GenerateStage(make(GenerateConfig, {"documents": str(tmp_path / "in" / "documents"), "out": "unused", **small}))
    assert stage.backbone == SMOLLM2
    first = rows(stage)
    assert rows(stage) == first
    written = [row["query"] for row in first if not row["error"]]
    assert len(written) >= 10 and all(query.isprintable() for query in written)
