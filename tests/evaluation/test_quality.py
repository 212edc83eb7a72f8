"""Quality of generated queries: each measure equals its definition, and every document has its row."""

import json
import pickle
import warnings

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.torch import load_file, save_file
from scipy import stats
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer

from readqg.config import QualityConfig, RetrieveSettings, make
from readqg.corpus import Documents
from readqg.errors import InputError, ModelError
from readqg.evaluation.encoder import BiEncoder
from readqg.evaluation.judge import Judge
from readqg.evaluation.quality import QualityStage, angular_diversity, measure_quality, summarise_quality
from readqg.generator.generate import QUERIES
from readqg.local import run_here
from readqg.retrieval import Bm25
from readqg.shards import open_input, verify
from tests.builders import tiny_bi_encoder, tiny_cross_encoder, write_folder

DOCUMENTS = [
    {"doc_id": "d0", "title": "Heat", "text": "the flow of heat in the boundary layer"},
    {"doc_id": "d1", "title": "", "text": "the wing in a flow"},
    {"doc_id": "d2", "title": "Shock", "text": "what is a shock wave"},
    {"doc_id": "d3", "title": "", "text": ""},
    {"doc_id": "d4", "title": "Layer", "text": ""},
]


def query(doc_id, relevance, text, sample=0, error=None):
    return {"doc_id": doc_id, "relevance": relevance, "sample": sample, "query": text, "error": error}


WORDS = {1.0: "flow", 0.75: "layer", 0.5: "of the", 0.25: "wing", 0.0: "flow"}
GRID = [query("d0", r, f"heat {word}") for r, word in WORDS.items()]


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    return tiny_cross_encoder(tmp_path_factory.mktemp("judge"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_bi_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def documents(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in DOCUMENTS))
    return path


@pytest.fixture
def measure(tmp_path, documents, judge, encoder):
    """Rows of `queries` measured: doc_id -> row. The folder is `tmp_path / "quality"`."""

    def measured(queries, **changes):
        folder = write_folder(tmp_path / "queries", queries, QUERIES)
        settings = {
            "queries": str(folder), "documents": str(documents), "out": str(tmp_path / "quality"), "judge": str(judge),
            "encoder": str(encoder), "shard_documents": 2, "start": str(judge), "teacher": "./not-here",
            "compute": {"device": "cpu", "precision": "fp32", "threads": 1},
        }
        config = make(QualityConfig, settings, changes)
        measured.summary = measure_quality(config, run_here)
        return {row["doc_id"]: row for row in open_input(config.out).read().to_pylist()}

    return measured


def test_angular_diversity_equals_the_reference(losses):
    reference = losses
    embeddings, expected = reference["inputs"]["embeddings (11,H)"], reference["expected"]["angular_diversity"]
    assert angular_diversity(torch.tensor(embeddings, dtype=torch.float64)) == pytest.approx(expected, abs=1e-6)
    assert angular_diversity(np.asarray(embeddings)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("embeddings", "expected"), [
    ([[1, 0], [0, 2]], 0.5), ([[1, 0], [3, 0]], 0.0), ([[1, 0], [-2, 0]], 1.0), ([[1, 0], [0, 1], [0, -1]], (0.5 + 0.5 + 1) / 3),
])
def test_angular_diversity_is_the_mean_angle_in_half_turns(embeddings, expected):
    assert angular_diversity(np.asarray(embeddings)) == pytest.approx(expected, abs=1e-7)


def test_one_query_has_no_diversity():
    assert np.isnan(angular_diversity(np.ones((1, 3))))


@given(arrays.arrays(np.float64, (4, 3), elements=st.floats(0.1, 10)), st.permutations(range(4)), st.floats(0.1, 100))
def test_angular_diversity_hangs_on_directions_alone(embeddings, order, scale):
    found = angular_diversity(embeddings)
    assert 0 <= found <= 1
    assert angular_diversity(embeddings[order] * scale) == pytest.approx(found, abs=1e-6)


def encode(folder, **changes):
    settings = {"pooling": "mean", "max_length": 512, "batch_tokens": 4096, "device": "cpu", "dtype": torch.float32, **changes}
    return BiEncoder(str(folder), **settings)


TEXTS = ["heat", "the flow of heat in a layer", "wing", "what is the boundary layer of the wing", "heat"]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_pooled_states_of_unit_length(encoder, pooling):
    vectors = encode(encoder, pooling=pooling).encode(TEXTS)
    tokenizer, body = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.inference_mode():
            states = body(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        pooled = states.mean(axis=0) if pooling == "mean" else states[0]
        np.testing.assert_allclose(vector, pooled / np.linalg.norm(pooled), atol=1e-5)


def test_vectors_equal_those_of_sentence_transformers(encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = SentenceTransformer(str(encoder)).encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(encode(encoder).encode(TEXTS), expected, atol=1e-6)


def test_batches_change_no_vector_and_equal_texts_get_equal_vectors(encoder):
    vectors = encode(encoder).encode(TEXTS)
    np.testing.assert_allclose(encode(encoder, batch_tokens=1).encode(TEXTS), vectors, atol=1e-6)
    assert (vectors[0] == vectors[4]).all() and vectors.dtype == np.float32
    assert encode(encoder).encode([]).shape == (0, 32)


def test_texts_longer_than_the_model_are_cut(encoder):
    whole, cut = encode(encoder).encode(["heat " * 500, "heat " * 62])
    np.testing.assert_allclose(whole, cut, atol=1e-6)
    short = encode(encoder, max_length=4)
    np.testing.assert_allclose(*short.encode(["heat heat wing", "heat heat flow"]), atol=1e-6)


def test_a_folder_without_an_encoder_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="no bi-encoder can be loaded"):
        encode(tmp_path)


def test_a_bm25_rank_is_the_place_in_the_whole_ranking(documents):
    index = Bm25(Documents.open(documents), RetrieveSettings())
    ranking = [doc_id for doc_id, _ in index.search("q", "what flow of heat wing")]
    assert [index.rank_of(doc_id, "what flow of heat wing") for doc_id in ranking] == [1, 2, 3]
    assert index.rank_of("d4", "what flow of heat wing") == index.rank_of("d3", "") == len(DOCUMENTS)
    with pytest.raises(InputError, match="'x' is not in the index"):
        index.rank_of("x", "heat")


def test_the_measures_of_a_grid_equal_their_definitions(measure, judge, encoder, documents):
    row = measure(GRID)["d0"]
    texts, relevances = [q["query"] for q in GRID], [q["relevance"] for q in GRID]
    text = Documents.open(documents).texts(["d0"])[0]
    judged = Judge.open(str(judge), 512, 8192).probabilities([(t, text) for t in texts])
    bi_encoder = encode(encoder)
    vectors = bi_encoder.encode(texts)
    assert row["error"] is None and row["n_queries"] == 5
    assert row["distinct"] == pytest.approx(4 / 5)
    assert row["diversity"] == pytest.approx(angular_diversity(vectors), abs=1e-6)
    assert (row["rel_plus"], row["rel_minus"]) == pytest.approx((judged[0], judged[4]), abs=1e-6)
    assert row["delta"] == pytest.approx(judged[0] - judged[4], abs=1e-6)
    assert row["control"] == pytest.approx(stats.spearmanr(relevances, judged).statistic, abs=1e-6)
    assert [point["relevance"] for point in row["judged"]] == relevances
    assert [point["probability"] for point in row["judged"]] == pytest.approx(judged, abs=1e-6)
    assert (row["query_plus"], row["query_minus"]) == ("heat flow", "heat flow")
    cosines = bi_encoder.encode([t for t in Documents.open(documents).texts(["d0", "d1", "d2", "d4"])]) @ vectors[0]
    assert row["encoder_rank_plus"] == row["encoder_rank_minus"] == 1 + (cosines > cosines[0]).sum()
    assert row["bm25_rank_plus"] == 1


def test_samples_are_averaged(measure, judge, documents):
    queries = [query("d1", r, t, s) for r, s, t in ((1.0, 0, "wing"), (1.0, 1, "shock"), (0.0, 0, "heat"), (0.0, 1, "wing"))]
    row = measure(queries)["d1"]
    judged = Judge.open(str(judge), 512, 8192).probabilities([(q["query"], "the wing in a flow") for q in queries])
    assert row["rel_plus"] == pytest.approx(judged[:2].mean(), abs=1e-6)
    assert [point["probability"] for point in row["judged"]] == pytest.approx([judged[:2].mean(), judged[2:].mean()], abs=1e-6)
    assert row["bm25_rank_plus"] == (1 + len(DOCUMENTS)) / 2
    assert row["n_queries"] == 4 and row["control"] is None and row["query_plus"] == "wing"


def test_what_cannot_be_had_is_null_without_error(measure):
    row = measure([query("d1", 1.0, "wing"), query("d1", 0.0, None, error="no end token")], encoder="none")["d1"]
    absent = {"rel_minus", "delta", "bm25_rank_minus", "query_minus", "control", "diversity", "encoder_rank_plus",
              "encoder_rank_minus", "error"}
    assert {name for name, value in row.items() if value is None} == absent


def test_every_document_has_its_row_and_the_reason_where_it_failed(measure, tmp_path):
    rows = measure([
        *GRID, query("d3", 1.0, None, error="the document has no text"), query("d3", 0.0, None, error="the document has no text"),
        query("gone", 1.0, "wing"), query("d2", 1.0, "shock"), query("d4", 1.0, ""),
    ])
    assert {doc_id: row["error"] for doc_id, row in rows.items()} == {
        "d0": None, "d3": "no query: the document has no text", "gone": "document 'gone' is not among the documents",
        "d2": None, "d4": "no query: every query is empty",
    }
    assert all(value is None for name, value in rows["d3"].items() if name not in ("doc_id", "error"))
    assert open_input(tmp_path / "quality").success["counts"] == {"inputs": 5, "rows": 5, "errors": 3, "nothing": 0}


def test_queries_of_a_document_need_not_lie_together(measure):
    rows = measure([query("d2", 1.0, "shock"), query("d0", 1.0, "heat"), query("d1", 1.0, "wing"), query("d2", 0.0, "flow")])
    assert list(rows) == ["d2", "d0", "d1"]
    assert (rows["d2"]["n_queries"], rows["d2"]["query_minus"], rows["d0"]["n_queries"]) == (2, "flow", 1)


def test_a_judge_that_gives_no_number_costs_the_row_not_the_run(measure, judge, tmp_path):
    broken = tmp_path / "broken"
    tiny_cross_encoder(broken)
    weights = load_file(broken / "model.safetensors")
    weights["classifier.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    row = measure(GRID, judge=str(broken))["d0"]
    assert row["error"] == "the judge's probability is nan for 5 of 5 queries" and row["diversity"] is None


def test_an_encoder_that_gives_no_number_costs_the_row_not_the_run(measure, tmp_path):
    broken = tiny_bi_encoder(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["encoder.layer.1.output.dense.bias"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    row = measure(GRID, encoder=str(broken))["d0"]
    assert row["error"] == "the encoder's vector is not finite for 5 of 5 queries" and row["encoder_rank_plus"] is None


def test_a_judge_that_says_the_same_of_all_relevances_means_no_control(measure):
    assert measure([query("d1", r, "wing") for r in (1.0, 0.5, 0.0)])["d1"]["control"] == 0


def test_the_summary_gives_means_with_counts_and_names_a_judge_that_judges_itself(measure, tmp_path):
    rows = measure([*GRID, query("d1", 1.0, "heat flow"), query("d2", 1.0, "shock"), query("d3", 1.0, None, error="no text")])
    summary = measure.summary
    assert (summary["documents"], summary["errors"]) == (4, 1)
    assert summary["rel_plus"]["count"] == 3 and summary["delta"]["count"] == summary["control"]["count"] == 1
    assert summary["rel_plus"]["mean"] == pytest.approx(np.mean([rows[d]["rel_plus"] for d in ("d0", "d1", "d2")]))
    ranks = np.asarray([rows[d]["bm25_rank_plus"] for d in ("d0", "d1", "d2")])
    assert summary["bm25_rank_plus"] == pytest.approx(
        {"mean_reciprocal": np.mean(1 / ranks), "top_1": np.mean(ranks == 1), "top_10": 1.0, "count": 3})
    assert summary["query_plus"] == {"distinct": pytest.approx(2 / 3), "count": 3}
    assert (summary["label"], summary["self_judged"]) == ("self-judged", ["start"])
    assert summarise_quality(tmp_path / "quality")["label"] is None
    packaged = summarise_quality(tmp_path / "quality", {"teacher": "a/MiniLM-L12-v2", "start": "a/MiniLM-L6"}, "/b/MiniLM-L-12-v2")
    assert packaged["self_judged"] == ["teacher"]
    json.dumps(summary)


def test_the_same_call_does_nothing_again_and_the_corpus_is_embedded_once(measure, tmp_path, monkeypatch):
    first = measure(GRID)
    assert verify(tmp_path / "quality") == verify(tmp_path / "quality" / "_embeddings") == []
    vectors = open_input(tmp_path / "quality" / "_embeddings").read()
    assert vectors["doc_id"].to_pylist() == [d["doc_id"] for d in DOCUMENTS]
    assert [v is None for v in vectors["embedding"].to_pylist()] == [False, False, False, True, False]
    (tmp_path / "quality" / "_SUCCESS").unlink()
    next((tmp_path / "quality").glob("part-*")).unlink()
    monkeypatch.setattr("readqg.evaluation.encoder.EmbedStage.compute", None)
    assert measure(GRID) == first


def test_the_stage_travels_light(tmp_path, documents, judge):
    folder = write_folder(tmp_path / "queries", GRID * 200, QUERIES)
    config = make(QualityConfig, {
        "queries": str(folder), "documents": str(documents), "out": str(tmp_path / "q"), "judge": str(judge), "encoder": "none"})
    stage = QualityStage(config)
    assert stage.total == 1 and len(pickle.dumps(stage)) < 5000
    assert isinstance(pickle.loads(pickle.dumps(stage)).read(0), pa.Table)
