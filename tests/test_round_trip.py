"""Generated queries asked back of the corpus, and what training makes of it."""

import pytest
import torch

from readqg import api
from readqg.config import RoundTripConfig, RunConfig, make
from readqg.errors import ConfigError, InputError
from readqg.reranker.sampling import ROUND_TRIP_COLUMNS
from readqg.reranker.training import RerankerTraining, open_queries
from readqg.shards import open_input
from tests.reranker.corpus import DOCUMENTS, query_row, reranker_config


def round_trip(config, tmp_path, **settings):
    """The config with its queries asked back."""
    out = tmp_path / "round-trip"
    api.round_trip(RoundTripConfig(queries=config.queries, documents=config.documents, out=str(out), **settings))
    return config.model_copy(update={"queries": str(out)})


def test_ranks_and_what_else_is_found(tmp_path):
    rows = [query_row("d3", 1.0, "number 3"), query_row("d4", 1.0, "3"),
            query_row("d5", 0.0, None, error="too long"), query_row("d6", 0.0, " ")]
    config = round_trip(reranker_config(tmp_path, rows), tmp_path, top_k=5)
    found = open_input(config.queries, ROUND_TRIP_COLUMNS).read().to_pylist()
    assert [row["rank"] for row in found] == [1, None, None, None]
    assert len(found[0]["found"]) == 4 and "d3" not in found[0]["found"]
    assert found[1]["found"] == ["d3"] and found[2]["found"] is None and found[3]["found"] is None
    assert [row["error"] for row in found] == [None, None, "too long", None]


def test_positives_that_do_not_come_back_and_negatives_that_do_are_left_out_and_counted(tmp_path):
    positives = {doc_id: f"number {doc_id[1:]}" for doc_id in DOCUMENTS} | {"d0": "number 7"}  # d0's finds d7
    negatives = dict.fromkeys(DOCUMENTS, "nothing of the kind") | {"d1": "number 1"}  # d1's finds d1
    rows = [query_row(doc_id, r, side[doc_id]) for doc_id in DOCUMENTS for r, side in ((1.0, positives), (0.0, negatives))]
    config = round_trip(reranker_config(tmp_path, rows, w_mr=1.0), tmp_path)
    stage = RerankerTraining(config.model_copy(update={"round_trip": 1, "negative_round_trip": 1}))
    assert (stage.counts["positives_not_found"], stage.counts["negatives_found"]) == (1, 1)
    assert (stage.counts["documents_without_positive"], stage.counts["documents_without_negative"]) == (1, 1)
    assert stage.counts["documents_usable"] == len(DOCUMENTS) - 2


def test_queries_that_were_not_asked_back_are_refused(tmp_path):
    with pytest.raises(InputError, match="readqg round-trip --queries"):
        RerankerTraining(reranker_config(tmp_path, round_trip=10))


@pytest.mark.parametrize("settings", [{"round_trip": 6}, {"negative_round_trip": 6}, {"mined": 3}])
def test_a_round_trip_that_did_not_go_as_deep_is_refused(tmp_path, settings):
    config = round_trip(reranker_config(tmp_path), tmp_path, top_k=5)
    with pytest.raises(InputError, match=r"looked at the first 5 documents.*--top-k 6"):
        open_queries(config.model_copy(update=settings))
    with pytest.raises(ValueError, match=r"asks for 6 places, and round_trip\.top_k looks at 5: raise it to 6"):
        RunConfig(reranker=settings, round_trip={"top_k": 5})
    open_queries(config.model_copy(update=dict.fromkeys(settings, 2)))
    RunConfig(reranker=settings, round_trip={"top_k": 6})


def test_where_filters_leave_too_few_the_error_says_which(tmp_path):
    rows = [query_row(doc_id, r, f"zzz {r}") for doc_id in DOCUMENTS for r in (1.0, 0.0)]
    config = round_trip(reranker_config(tmp_path, rows), tmp_path)
    with pytest.raises(InputError, match=r"^0 documents .* Left out: positives not found 12 \(round_trip\), .* Loosen the settings"):
        RerankerTraining(config.model_copy(update={"round_trip": 1}))


@pytest.mark.parametrize("mined", [1, 3])
def test_mined_documents_take_the_place_of_the_search(tmp_path, mined):
    config = round_trip(reranker_config(tmp_path), tmp_path)
    stage = RerankerTraining(config.model_copy(update={"mined": mined, "mined_from": 2, "w_mr": 0.0}))
    batch, triples = stage.batch(0), stage.batches.triples(0)
    assert batch.columns == 1 + mined and len(batch.encoded.input_ids) == len(triples) * (1 + mined)
    assert stage.batch(0).encoded.input_ids[1].tolist() == batch.encoded.input_ids[1].tolist()
    for triple in triples:
        drawn = stage._maker.mined(triple, triples, 0)
        assert triple.doc_id not in drawn and set(drawn) <= set(triple.found[1:]) and len(set(drawn)) == mined
    model = stage.build()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    loss, metrics = stage.loss(model, batch)
    logits = torch.from_numpy(stage._scorer.without_gradient(model, batch.encoded, range(len(batch.encoded.input_ids)))).view(-1, 1 + mined)
    softplus = torch.nn.functional.softplus
    assert loss.item() == pytest.approx(0.5 * (softplus(-logits[:, 0]).mean() + softplus(logits[:, 1:]).mean()).item(), abs=1e-5)
    assert metrics["accuracy"] == pytest.approx((logits[:, :1] > logits[:, 1:]).all(1).float().mean().item())


def test_mined_documents_may_be_those_of_the_negative_query(tmp_path):
    config = round_trip(reranker_config(tmp_path), tmp_path)
    stage = RerankerTraining(config.model_copy(update={"mined": 2, "mined_from": 1, "mined_by": "negative", "w_mr": 0.0}))
    found = {(row["doc_id"], row["relevance"]): row["found"] for row in open_input(config.queries).read().to_pylist()}
    triples = stage.batches.triples(0)
    assert [list(triple.found) for triple in triples] == [found[triple.doc_id, 0.0] for triple in triples]
    assert any(found[triple.doc_id, 0.0] != found[triple.doc_id, 1.0] for triple in triples)
    assert stage.batch(0).negatives == [], "without Eq. 6 nothing else is done with them"


def test_mining_by_negatives_without_them_is_refused():
    for settings in ({}, {"mined": 2, "negative": "other_document"}):
        with pytest.raises(ConfigError, match="mined_by: negative needs mined"):
            make(RunConfig, {"reranker": {"mined_by": "negative", **settings}})


def test_mined_documents_may_be_random_ones(tmp_path):
    stage = RerankerTraining(reranker_config(tmp_path, mined=3, mined_by="random", w_mr=0.0, held_out_share=0.3))
    held_out = {doc_id for _, doc_id in stage._held_out_examples.doc_ids()}
    drawn = set()
    for number in range(2 * stage.batches.per_epoch):
        triples = stage.batches.triples(number)
        for triple in triples:
            mined = stage._maker.mined(triple, triples, number)
            assert len(set(mined)) == 3 and triple.doc_id not in mined and not held_out & set(mined)
            assert mined == stage._maker.mined(triple, triples, number)
            drawn |= set(mined)
    assert drawn == set(DOCUMENTS) - held_out
    with pytest.raises(ConfigError, match="mined_by: random needs mined"):
        make(RunConfig, {"reranker": {"mined_by": "random"}})


def test_no_mined_document_is_held_out(tmp_path):
    rows = [query_row(doc_id, 1.0, f"number {doc_id[1:]}") for doc_id in DOCUMENTS]  # each finds every document
    config = round_trip(reranker_config(tmp_path, rows, held_out_share=0.5), tmp_path)
    stage = RerankerTraining(config.model_copy(update={"mined": 4, "mined_from": 1, "w_mr": 0.0}))
    triples = stage.batches.triples(0)
    held_out = {doc_id for _, doc_id in stage._held_out_examples.doc_ids()}
    assert len(held_out) == 6 and all(held_out <= set(triple.found) for triple in triples)
    assert not held_out & {doc_id for number in range(20) for triple in triples for doc_id in stage._maker.mined(triple, triples, number)}


def test_the_batch_stands_in_where_too_few_documents_are_found(tmp_path):
    rows = [query_row(doc_id, 1.0, doc_id[1:]) for doc_id in DOCUMENTS]  # a query that finds its own document alone
    config = round_trip(reranker_config(tmp_path, rows), tmp_path)
    stage = RerankerTraining(config.model_copy(update={"mined": 2, "w_mr": 0.0}))
    triples = stage.batches.triples(0)
    for triple in triples:
        drawn = stage._maker.mined(triple, triples, 0)
        assert len(drawn) == 2 and set(drawn) <= {t.doc_id for t in triples} - {triple.doc_id}
