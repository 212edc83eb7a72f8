"""Re-ranking a run: every candidate has its outcome, the order is trec_eval's, the scores are the cross-encoder's."""

import gzip
import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder

from readqg import devices, runs
from readqg.config import Compute, RankConfig, RetrieveConfig, identity
from readqg.corpus import Documents, read_judgments, read_texts
from readqg.errors import InputError
from readqg.evaluation.metrics import evaluate
from readqg.local import run_here
from readqg.ranking import RankStage
from readqg.retrieval import RetrieveStage
from readqg.shards import OutputFolder, open_input
from readqg.stage import compute_shard
from readqg.tokenizing import load_tokenizer
from tests.builders import tiny_cross_encoder

DOCUMENTS = {"d1": "wing flow", "d2": "boundary layer heat", "d3": "shock", "d4": "wing flow", "d5": "", "d6": "heat of the wing"}
QUERIES = {"q1": "what is flow", "q2": "heat of the layer", "q3": "shock", "q4": "zzz"}
CANDIDATES = {"q3": ["d3", "d1"], "q1": ["d1", "d2", "d4", "d5"], "q2": ["d6", "d2", "d3"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_cross_encoder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "corpus.jsonl").write_text("".join(
        json.dumps({"_id": i, "title": "the", "text": text}) + "\n" for i, text in DOCUMENTS.items()))
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps({"_id": i, "text": text}) + "\n" for i, text in QUERIES.items()))
    return tmp_path


def stage_of(corpus, model, candidates=CANDIDATES, **kwargs):
    lines = [f"{q} Q0 {d} {n} {-n} bm25\n" for q, ids in candidates.items() for n, d in enumerate(ids, 1)]
    (corpus / "bm25.trec.gz").write_bytes(gzip.compress("".join(lines).encode()))
    config = RankConfig(**{
        "run": str(corpus / "bm25.trec.gz"), "queries": str(corpus / "queries.jsonl"), "documents": str(corpus / "corpus.jsonl"),
        "out": str(corpus / "out"), "model": str(model), "max_length": 60, "shard_queries": 2,
        "compute": Compute(precision="fp32", threads=1), **kwargs})
    return RankStage(config)


def run(stage):
    folder = OutputFolder.begin(stage.config.out, stage.name, identity(stage.config), stage.inputs(), stage.models())
    return run_here(stage, folder)


def rows_of(stage):
    return open_input(stage.config.out).read().to_pylist()


def test_every_candidate_is_scored_as_sentence_transformers_does_and_ranked(corpus, model):
    stage = stage_of(corpus, model)
    counts = run(stage)["counts"]
    assert counts == {"inputs": 3, "rows": 9, "errors": 0, "nothing": 0}
    judge = CrossEncoder(str(model), max_length=60, device="cpu")
    expected = []
    for query_id, doc_ids in CANDIDATES.items():
        pairs = [(QUERIES[query_id], f"the {DOCUMENTS[d]}".strip()) for d in doc_ids]
        scores = judge.predict(pairs, activation_fn=torch.nn.Identity())
        order = runs.ranked(dict(zip(doc_ids, scores.round(4).tolist(), strict=True)))
        expected += [(query_id, doc_id, rank, score) for rank, (doc_id, score) in enumerate(order, 1)]
    found = rows_of(stage)
    assert [(r["query_id"], r["doc_id"], r["rank"]) for r in found] == [e[:3] for e in expected]
    np.testing.assert_allclose([r["score"] for r in found], [e[3] for e in expected], atol=2e-4)
    assert all(r["error"] is None for r in found)


def test_equal_scores_are_ranked_by_the_higher_doc_id(corpus, model):
    stage = stage_of(corpus, model, {"q1": ["d1", "d4"]})
    run(stage)
    first, second = rows_of(stage)
    assert first["score"] == second["score"]
    assert (first["doc_id"], first["rank"], second["doc_id"], second["rank"]) == ("d4", 1, "d1", 2)


def test_shards_are_queries_in_the_order_of_the_run(corpus, model):
    stage = stage_of(corpus, model)
    assert stage.total == 2
    assert [stage.read(i)["query_id"].to_pylist() for i in range(2)] == [["q3", "q1"], ["q2"]]


def test_shard_size_changes_no_row(corpus, model):
    small, large = stage_of(corpus, model, shard_queries=1), stage_of(corpus, model, shard_queries=64, out=str(corpus / "large"))
    run(small), run(large)
    for a, b in zip(rows_of(small), rows_of(large), strict=True):
        assert (a["query_id"], a["doc_id"], a["rank"]) == (b["query_id"], b["doc_id"], b["rank"])
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)


def test_a_score_that_is_not_a_number_is_an_error_and_goes_to_the_end(corpus, tmp_path):
    broken = tiny_cross_encoder(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    shock = load_tokenizer(str(broken)).convert_tokens_to_ids("shock")
    weights["bert.embeddings.word_embeddings.weight"][shock] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    stage = stage_of(corpus, broken, {"q2": ["d3", "d6", "d2"], "q1": ["d1"]})
    assert run(stage)["counts"] == {"inputs": 2, "rows": 4, "errors": 1, "nothing": 0}
    *ranked, last, other = rows_of(stage)
    assert [r["rank"] for r in ranked] == [1, 2] and other["rank"] == 1
    assert (last["doc_id"], last["rank"], last["score"], last["error"]) == ("d3", None, None, "the model's score is nan")


def test_unknown_documents_and_queries_have_rows_that_say_so(corpus, model):
    stage = stage_of(corpus, model, {"q1": ["ghost", "d1"], "nobody": ["d1", "d2"], "q3": ["d3"]})
    assert run(stage)["counts"] == {"inputs": 3, "rows": 5, "errors": 2, "nothing": 0}
    found = {(r["query_id"], r["doc_id"]): (r["rank"], r["score"], r["error"]) for r in rows_of(stage)}
    assert found["q1", "ghost"] == (None, None, "document 'ghost' is not among the documents")
    assert found["nobody", "d1"] == found["nobody", "d2"] == (None, None, "query 'nobody' is not among the queries")
    assert found["q1", "d1"][0] == found["q3", "d3"][0] == 1


def test_by_passages_a_document_has_the_score_of_its_best_one(corpus, model):
    long = "the heat of the wing is what the query of the document is of the shock of the boundary layer flow of the wing"
    with open(corpus / "corpus.jsonl", "a") as file:
        file.write(json.dumps({"_id": "long", "title": "shock", "text": long}) + "\n")
    candidates = {"q2": ["long", "d2", "ghost"], "nobody": ["d1"], "q3": ["d3", "long"]}
    stage = stage_of(corpus, model, candidates, passages="max", passage_tokens=8, passage_stride=4)
    run(stage)
    found = {(r["query_id"], r["doc_id"]): r["score"] for r in rows_of(stage)}
    words = long.split()
    passages = [f"shock {' '.join(words[i:i + 7])}" for i in range(0, len(words), 4) if i < len(words) - 7 + 4]
    judge = CrossEncoder(str(model), max_length=60, device="cpu")
    for query_id in ("q2", "q3"):
        best = judge.predict([(QUERIES[query_id], text) for text in passages], activation_fn=torch.nn.Identity()).max()
        assert found[query_id, "long"] == pytest.approx(best, abs=2e-4)
    assert found["q2", "ghost"] is None and found["nobody", "d1"] is None

    whole = stage_of(corpus, model, {"q1": CANDIDATES["q1"]}, out=str(corpus / "first"))
    cut = stage_of(corpus, model, {"q1": CANDIDATES["q1"]}, out=str(corpus / "max"), passages="max", passage_tokens=40,
                   passage_stride=20)
    run(whole), run(cut)
    assert rows_of(whole) == rows_of(cut), "documents that fit a passage have the scores that they had"


def test_passages_that_leave_tokens_out_are_refused(corpus, model):
    with pytest.raises(ValueError, match="passage_stride 9 would leave tokens out"):
        stage_of(corpus, model, passages="max", passage_tokens=8, passage_stride=9)


def test_a_trec_file_of_the_ranked_documents_is_written_beside(corpus, model):
    stage = stage_of(corpus, model, {"q1": ["ghost", "d1", "d2"]})
    run(stage)
    runs.write_trec_beside(stage.config.out, "readqg")
    rows = [r for r in rows_of(stage) if r["rank"]]
    assert runs.read_trec(corpus / "out" / "_run.trec") == {"q1": {r["doc_id"]: r["score"] for r in rows}}


def test_a_query_that_cannot_be_done_costs_no_other(corpus, model):
    stage = stage_of(corpus, model, shard_queries=3)
    table = stage.prepare(stage.read(0))
    stage.load()
    score = stage._scorer.score_encoded

    def fails_on_four_pairs(encoded):
        if len(encoded.lengths) in (4, 9):
            raise RuntimeError("broken")
        return score(encoded)

    stage._scorer.score_encoded = fails_on_four_pairs
    result = compute_shard(stage, table)
    rows = result.table.to_pylist()
    assert (result.errors, result.nothing) == (1, 0)
    assert [(r["query_id"], r["error"]) for r in rows if r["error"]] == [("q1", "RuntimeError: broken")]
    assert [(r["query_id"], r["rank"]) for r in rows if r["rank"]] == [("q3", 1), ("q3", 2), ("q2", 1), ("q2", 2), ("q2", 3)]


def test_a_stage_is_small_to_send_and_works_where_it_arrives(corpus, model):
    sent = pickle.dumps(stage_of(corpus, model))
    assert len(sent) < 4000
    arrived = pickle.loads(sent)
    arrived.load()
    assert arrived.compute(arrived.prepare(arrived.read(0))).num_rows == 6
    assert arrived.metrics()["halvings"] == 0 and arrived.metrics()["tokens"] > 6


def test_a_retrieved_run_without_any_result_makes_an_empty_folder(corpus, model):
    queries = corpus / "none.jsonl"
    retrieve = RetrieveConfig(documents=str(corpus / "corpus.jsonl"), queries=str(queries), out=str(corpus / "bm25"))
    queries.write_text('{"_id": "q4", "text": "zzz"}\n')
    stage = RetrieveStage(retrieve)
    run_here(stage, OutputFolder.begin(retrieve.out, stage.name, identity(retrieve), stage.inputs(), stage.models()))
    stage = stage_of(corpus, model, run=str(corpus / "bm25"))
    assert run(stage)["counts"]["rows"] == 0
    assert rows_of(stage) == []


def test_what_the_inputs_hold_is_in_their_fingerprints(corpus, model):
    before = stage_of(corpus, model)
    assert stage_of(corpus, model).inputs() == before.inputs()
    after = stage_of(corpus, model, {"q1": ["d1"]})
    assert {k for k in before.inputs() if before.inputs()[k] != after.inputs()[k]} == {"run"}
    assert after.total == 1, "the changed run was read anew"
    (corpus / "queries.jsonl").write_text('{"_id": "q1", "text": "another"}\n')
    assert stage_of(corpus, model).read(0)["query"].to_pylist() == [None, "another"]


def test_a_run_that_is_not_there_is_refused(corpus, model):
    with pytest.raises(InputError, match=r"absent.*no such file"):
        stage_of(corpus, model, run=str(corpus / "absent.trec"))


def cranfield(shared, out, **kwargs):
    """A stage over BM25's ranking of Cranfield."""
    data = str(shared / "data/cranfield")
    chosen = {key: kwargs.pop(key) for key in ("top_k", "max_queries") if key in kwargs}
    retrieve = RetrieveConfig(documents=data, queries=data, out=str(out / "bm25"), **chosen)
    stage = RetrieveStage(retrieve)
    run_here(stage, OutputFolder.begin(retrieve.out, stage.name, identity(retrieve), stage.inputs(), stage.models()))
    model = str(shared / "models/ms-marco-MiniLM-L-12-v2")
    return RankStage(RankConfig(run=retrieve.out, queries=data, documents=data, out=str(out / "ranked"), model=model, **kwargs))


@pytest.mark.real
def test_real_documents_are_scored_as_sentence_transformers_does(shared, tmp_path):
    stage = cranfield(shared, tmp_path, top_k=5, max_queries=6, compute=Compute(precision="fp32"))
    run(stage)
    rows = rows_of(stage)
    queries, documents = read_texts(stage.queries), Documents.open(stage.config.documents)
    texts = documents.texts([r["doc_id"] for r in rows])
    pairs = [(queries[r["query_id"]], text) for r, text in zip(rows, texts, strict=True)]
    expected = CrossEncoder(stage.config.model, max_length=512, device="cpu").predict(pairs, activation_fn=torch.nn.Identity())
    assert len(rows) == 30
    np.testing.assert_allclose([r["score"] for r in rows], expected, atol=1e-4)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not devices.cpu_has_fast_bf16(), reason="no fast bf16 here: 22,500 pairs in float32 take over an hour on two cores")
def test_zero_shot_l12_has_its_known_ndcg_on_cranfield(shared, tmp_path):
    stage = cranfield(shared, tmp_path, compute=Compute(precision="bf16"))
    assert run(stage)["counts"] == {"inputs": 225, "rows": 22_500, "errors": 0, "nothing": 0}
    judgments = read_judgments(shared / "data/cranfield")
    assert 100 * evaluate(judgments, runs.read_run(stage.config.run), ["nDCG@10"])["nDCG@10"] == pytest.approx(38.3, abs=0.2)
    assert 100 * evaluate(judgments, runs.read_run(stage.config.out), ["nDCG@10"])["nDCG@10"] == pytest.approx(38.9, abs=0.3)
