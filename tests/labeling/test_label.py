"""Labels: raw logits of a real (tiny) cross-encoder for every candidate pair, or why there is none."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder

from readqg.config import Compute, LabelConfig, identity
from readqg.corpus.rows import SCHEMAS
from readqg.errors import FolderError, InputError, ModelError
from readqg.labeling.label import LabelStage
from readqg.labeling.pairs import make_pairs
from readqg.local import run_here
from readqg.shards import OutputFolder, open_input
from readqg.stage import ShardResult, compute_shard
from tests.builders import tiny_cross_encoder
from tests.labeling.collection import pairs_config

PASSAGES = {"d1": "wing flow", "d2": "boundary layer heat", "d3": "the shock " * 40, "d4": ""}
QUERIES = {"q1": "what is flow", "q2": "heat of the layer", "q3": " "}
LISTS = {"q2": ["d3", "d1", "d2"], "q1": ["d1", "d3"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Its logits lie on both sides of 0 and beyond [0, 1]."""
    folder = tiny_cross_encoder(tmp_path_factory.mktemp("model"))
    set_head(folder, weight=30.0, bias=-20.0)
    return folder


def set_head(folder, weight, bias):
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] *= weight
    weights["classifier.bias"][:] = bias
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def label_config(folder, model, lists=LISTS, **kwargs):
    pairs_config(folder, passages=PASSAGES, queries=QUERIES, scores="")
    (folder / "candidates.jsonl").write_text("".join(json.dumps({"query_id": q, "doc_ids": d}) + "\n" for q, d in lists.items()))
    return LabelConfig(**{
        "candidates": str(folder / "candidates.jsonl"), "queries": str(folder / "queries.jsonl"),
        "documents": str(folder / "corpus.jsonl"), "out": str(folder / "scores"), "model": str(model), "max_length": 60,
        "shard_rows": 2, "compute": Compute(precision="fp32", threads=1), **kwargs})


def run_label(config):
    stage = LabelStage(config)
    folder = OutputFolder.begin(config.out, stage.name, identity(config), stage.inputs(), stage.models())
    success = run_here(pickle.loads(pickle.dumps(stage)), folder)
    return success, open_input(config.out).read().to_pylist()


def test_every_candidate_has_the_logit_that_sentence_transformers_gives(tmp_path, model):
    _, rows = run_label(label_config(tmp_path, model))
    assert [(row["query_id"], row["doc_id"]) for row in rows] == [(q, d) for q, ids in LISTS.items() for d in ids]
    texts = {**PASSAGES, "d1": "On wing flow", "d3": PASSAGES["d3"].strip()}
    reference = CrossEncoder(str(model), max_length=60, device="cpu")
    expected = reference.predict([(QUERIES[row["query_id"]], texts[row["doc_id"]]) for row in rows], activation_fn=lambda x: x)
    assert np.allclose([row["score"] for row in rows], expected, atol=1e-4)
    assert min(row["score"] for row in rows) < 0, "logits, not what a sigmoid makes of them"
    assert len({row["score"] for row in rows}) == len(rows)
    assert {row["error"] for row in rows} == {None}


def test_how_rows_are_cut_into_shards_changes_no_score(tmp_path, model):
    _, expected = run_label(label_config(tmp_path, model))
    _, rows = run_label(label_config(tmp_path, model, shard_rows=100, out=str(tmp_path / "again")))
    assert [(r["query_id"], r["doc_id"]) for r in rows] == [(r["query_id"], r["doc_id"]) for r in expected]
    assert np.allclose([r["score"] for r in rows], [r["score"] for r in expected], atol=1e-4)


def test_a_pair_that_cannot_be_scored_says_why_and_costs_no_other(tmp_path, model):
    lists = {"q1": ["d1", "d4", "ghost"], "q9": ["d1"], "q3": ["d1"], "q2": ["d2"]}
    success, rows = run_label(label_config(tmp_path, model, lists, shard_rows=3))
    assert [row["error"] for row in rows] == [
        None, "passage 'd4' has no text", "passage 'ghost' is not among the documents",
        "query 'q9' is not among the queries, or has no text", "query 'q3' is not among the queries, or has no text", None]
    assert [row["score"] is None for row in rows] == [False, True, True, True, True, False]
    assert (success["counts"]["inputs"], success["counts"]["errors"], success["counts"]["nothing"]) == (6, 4, 0)


def test_a_shard_of_nothing_but_unknown_pairs_is_done(tmp_path, model):
    _, rows = run_label(label_config(tmp_path, model, {"q9": ["d1", "d2"]}))
    assert all(row["score"] is None and row["error"] for row in rows) and len(rows) == 2


def test_a_nan_logit_is_the_rows_error_and_the_run_goes_on(tmp_path, model):
    broken = tiny_cross_encoder(tmp_path / "broken")
    set_head(broken, weight=1.0, bias=float("nan"))
    _, rows = run_label(label_config(tmp_path, broken))
    assert {(row["score"], row["error"]) for row in rows} == {(None, "the model's score is nan")}


def test_an_exception_in_one_pair_costs_that_pair(tmp_path, model):
    stage = LabelStage(label_config(tmp_path, model, shard_rows=10))
    stage.load()
    table = stage.prepare(stage.read(0))
    tokens = table["_input_ids"].to_pylist()
    tokens[2][1] = 10**6  # no such token: the embedding raises
    column = table.schema.get_field_index("_input_ids")
    result = compute_shard(stage, table.set_column(column, "_input_ids", pa.array(tokens, pa.list_(pa.int32()))))
    assert [error is None for error in result.table["error"].to_pylist()] == [True, True, False, True, True]
    assert (result.inputs, result.errors, result.nothing) == (5, 1, 0)


def test_a_damaged_input_ends_the_run_and_once_it_is_mended_no_row_has_an_error(tmp_path, model):
    documents = OutputFolder.begin(tmp_path / "documents", "documents", {})
    for index, ids in enumerate((["d1", "d3"], ["d2", "d4"])):
        part = pa.table({"doc_id": ids, "title": [""] * 2, "text": [PASSAGES[i] for i in ids]}).cast(SCHEMAS["documents"])
        documents.commit(index, 2, ShardResult(part, 2, 0, 0))
    documents.finish(2)
    damaged = tmp_path / "documents" / "part-00001-of-00002.parquet"
    sound, text = damaged.read_bytes(), pq.read_metadata(damaged).row_group(0).column(2)
    spoiled = bytearray(sound)
    spoiled[(text.dictionary_page_offset or text.data_page_offset) + text.total_compressed_size - 1] ^= 0x10
    damaged.write_bytes(spoiled)

    config = label_config(tmp_path, model, documents=str(tmp_path / "documents"))
    with pytest.raises(FolderError, match=f"{damaged.name} cannot be read"):
        run_label(config)
    assert [p.name for p in (tmp_path / "scores").glob("part-*")] == ["part-00000-of-00003.parquet"], "what is done stays"
    damaged.write_bytes(sound)
    success, rows = run_label(config)
    assert (success["counts"]["errors"], len(rows)) == (0, 5)


def test_tokens_are_counted_beside_the_part(tmp_path, model):
    run_label(label_config(tmp_path, model))
    metrics = json.loads((tmp_path / "scores" / "_metrics" / "00000.json").read_text())
    assert metrics["tokens"] > 20
    assert metrics["halvings"] == 0


def test_labels_become_pairs(tmp_path, model):
    config = label_config(tmp_path, model, {q: ["d1", "d2", "d3", "ghost"] for q in ("q1", "q2")})
    success, _ = run_label(config)
    assert success["counts"]["errors"] == 2
    pairs = pairs_config(tmp_path, passages=PASSAGES, queries=QUERIES, scores=config.out, out=str(tmp_path / "pairs"))
    summary = make_pairs(pairs, run_here)
    assert (summary["scored_pairs"], summary["unscored"], summary["passages"]) == (6, 2, 3)


def test_a_model_of_pickled_weights_is_refused_before_any_work(tmp_path, model):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("{}")
    (tmp_path / "bad" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="pickles only"):
        LabelStage(label_config(tmp_path, tmp_path / "bad")).models()


def test_absent_inputs_are_refused_before_any_work(tmp_path, model):
    config = label_config(tmp_path, model)
    for field in ("candidates", "queries", "documents"):
        with pytest.raises(InputError, match="no such file or folder"):
            LabelStage(config.model_copy(update={field: str(tmp_path / "absent")}))
