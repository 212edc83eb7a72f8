import json
import math
import pickle

import numpy as np
import pyarrow as pa
import pytest
import torch

from readqg.errors import ConfigError, InputError
from readqg.reranker.losses import in_batch_bce_loss, margin_ranking_loss
from readqg.reranker.scoring import Float32Linear
from readqg.reranker.training import RerankerTraining
from readqg.shards import open_input
from readqg.workers import ALONE
from tests.builders import write_folder
from tests.generator.pairs import pair_row, write_pairs
from tests.reranker.corpus import DOCUMENTS, both_queries, query_row, reranker_config
from tests.test_round_trip import round_trip


def _without_dropout(config):
    path = f"{config.start}/config.json"
    with open(path) as file:
        values = json.load(file)
    with open(path, "w") as file:
        json.dump({**values, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}, file)
    return config


def _gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _plain_logits(model, tokenizer, pairs):
    first, second = zip(*pairs, strict=True)
    inputs = tokenizer(list(first), list(second), padding=True, truncation=True, max_length=48, return_tensors="pt")
    return model(**inputs).logits[:, 0]


def _grids():
    """Two queries of each document, and of d0 to d5 three more at other r."""
    rows = [row for doc_id in DOCUMENTS for row in both_queries(doc_id)]
    return rows + [query_row(f"d{i}", r, f"the {r} of number {i}") for i in range(6) for r in (0.75, 0.5, 0.25)]


@pytest.mark.parametrize("batch_tokens", [8192, 60])
@pytest.mark.parametrize(
    "settings",
    [
        {"w_mr": 0.0},
        {"margin": 0.3, "w_mr": 2.0},
        {"negative_pair": "query_document", "sign": "authors", "activation": "sigmoid"},
        {"graded": 2, "w_graded": 0.5},
    ],
)
def test_value_and_gradient_are_those_of_the_losses_on_the_full_matrix(tmp_path, settings, batch_tokens):
    config = _without_dropout(reranker_config(tmp_path, _grids(), batch_tokens=batch_tokens, **settings))
    stage = RerankerTraining(config)
    model, batch, triples = stage.build(), stage.batch(2), stage.batches.triples(2)
    loss, metrics = stage.loss(model, batch)
    found = _gradients(model, loss)

    texts, tokenizer = [DOCUMENTS[t.doc_id] for t in triples], stage._scorer.tokenize.tokenizer
    scores = _plain_logits(model, tokenizer, [(t.positive, text) for t in triples for text in texts]).view(4, 4)
    expected = in_batch_bce_loss(scores)
    assert metrics["bce"] == pytest.approx(expected.item(), abs=1e-5)
    if config.w_mr:
        pairs = [
            (t.positive, t.negative) if config.negative_pair == "query_query" else (t.negative, text)
            for t, text in zip(triples, texts, strict=True)
        ]
        negative = _plain_logits(model, tokenizer, pairs)
        mr = margin_ranking_loss(scores.diagonal(), negative, config.margin, config.sign, config.activation)
        assert metrics["mr"] == pytest.approx(mr.item(), abs=1e-5)
        expected = expected + config.w_mr * mr
    if config.graded:
        drawn = [[(1.0, t.positive), *stage._maker.graded(t, 2)] for t in triples]
        assert sorted({len(queries) for queries in drawn}) == [2, 3], "the one document has a single query below, the other four"
        pairs = [(a, b, text) for queries, text in zip(drawn, texts, strict=True) for r, a in queries for s, b in queries if r > s]
        higher, lower = (_plain_logits(model, tokenizer, [(pair[side], pair[2]) for pair in pairs]) for side in (0, 1))
        graded = -torch.nn.functional.logsigmoid(higher - lower).mean()
        assert metrics["graded"] == pytest.approx(graded.item(), abs=1e-5)
        expected = expected + config.w_graded * graded
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    wanted = _gradients(model, expected)
    assert found.keys() == wanted.keys() == {name for name, _ in model.named_parameters()}
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, atol=2e-5, rtol=1e-4, msg=name)


def test_the_search_runs_with_dropout_off_and_puts_the_mode_back(tmp_path):
    stage = RerankerTraining(reranker_config(tmp_path))
    model, encoded = stage.build(), stage.batch(0).encoded
    rows = range(len(encoded.input_ids))
    first = stage._scorer.without_gradient(model, encoded, rows)
    assert np.array_equal(first, stage._scorer.without_gradient(model, encoded, rows))
    assert model.training
    model.eval()
    assert np.allclose(first, _plain_logits_of_encoded(model, encoded), atol=1e-5)


def _plain_logits_of_encoded(model, encoded):
    rows = zip(encoded.input_ids, encoded.type_ids, strict=True)
    with torch.no_grad():
        return [
            model(input_ids=torch.tensor(ids)[None].long(), token_type_ids=torch.tensor(types)[None].long()).logits.item()
            for ids, types in rows
        ]


def test_the_gradient_runs_with_dropout_on(tmp_path):
    stage = RerankerTraining(reranker_config(tmp_path))
    model, batch = stage.build(), stage.batch(0)
    torch.manual_seed(0)
    first = stage.loss(model, batch)[0].item()
    assert stage.loss(model, batch)[0].item() != first
    torch.manual_seed(0)
    assert stage.loss(model, batch)[0].item() == first
    assert model.config._attn_implementation == "sdpa"


def test_under_bfloat16_the_head_computes_in_float32_on_float32_weights(tmp_path):
    config = reranker_config(tmp_path, compute={"device": "cpu", "precision": "bf16"})
    stage = RerankerTraining(config)
    model = stage.build()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert isinstance(model.classifier, Float32Linear)
    assert isinstance(model.bert.pooler.dense, Float32Linear)
    logits = stage._scorer.without_gradient(model, stage.batch(0).encoded, range(16))
    assert not torch.equal(torch.tensor(logits), torch.tensor(logits).bfloat16().float())
    exact = RerankerTraining(config.model_copy(update={"compute": config.compute.model_copy(update={"precision": "fp32"})}))
    close = exact._scorer.without_gradient(model, stage.batch(0).encoded, range(16))
    assert not np.array_equal(logits, close)
    assert np.allclose(logits, close, atol=0.2)
    loss, _ = stage.loss(model, stage.batch(0))
    assert _gradients(model, loss).keys() == {name for name, _ in model.named_parameters()}


def test_a_document_whose_queries_are_the_same_is_left_out_of_eq_6_alone(tmp_path):
    rows = [row for doc_id in DOCUMENTS for row in both_queries(doc_id)]
    same = [query_row("d3", 1.0, "the same"), query_row("d3", 0.0, "The same")]
    rows = [row for row in rows if row["doc_id"] != "d3"] + same
    stage = RerankerTraining(_without_dropout(reranker_config(tmp_path, rows, batch=11, held_out_share=0.01, margin=100.0)))
    batch, triples = stage.batch(0), stage.batches.triples(0)
    without = [i for i, t in enumerate(triples) if t.doc_id == "d3"]
    assert len(without) == 1
    assert batch.negatives == [i for i in range(11) if i not in without]
    model = stage.build()
    own = stage._scorer.without_gradient(model, batch.encoded, [i * 11 + i for i in batch.negatives])
    negative = stage._scorer.without_gradient(model, batch.encoded, range(121, 131))
    assert stage.loss(model, batch)[1]["mr"] == pytest.approx((100 + negative - own).mean(), abs=1e-4)


def test_the_cached_search_keeps_a_query_with_its_own_hardest_document_and_joins_no_other_pairs(tmp_path):
    rows = [row for doc_id in DOCUMENTS for sample in range(2) for row in both_queries(doc_id, sample)]
    config = reranker_config(tmp_path, rows, search="cached", batch=4)
    stage, late = RerankerTraining(config), RerankerTraining(config)
    model, epoch = stage.build(), range(stage.batches.per_epoch)
    second = range(len(epoch), 2 * len(epoch))
    searched = {stage.batches.place(number): stage.batch(number) for number in epoch}
    for batch in searched.values():
        stage.loss(model, batch)
    whole = {number: late.batch(number) for number in second}
    late.load_state(stage.state())

    def trained_on(batch):
        return [batch.encoded.input_ids[row].tolist() for row in batch.own_rows + stage._other_rows(model, batch, ALONE)]

    for number in second:
        before, again = searched[stage.batches.place(number)], stage.batch(number)
        assert (len(before.encoded.input_ids), len(again.encoded.input_ids)) == (4 * 4 + 4, 4 * 2 + 4)
        assert trained_on(before) == trained_on(again)
        torch.manual_seed(0)
        loss = stage.loss(model, again)
        torch.manual_seed(0)
        assert late.loss(model, whole[number]) == loss, "as with all pairs joined"


def test_duplicates_in_a_batch_are_counted(tmp_path):
    rows = [row for doc_id in DOCUMENTS for row in both_queries(doc_id)]
    rows = [{**row, "query": "what is it"} if row["relevance"] and row["doc_id"] in ("d1", "d2") else row for row in rows]
    stage = RerankerTraining(reranker_config(tmp_path, rows, batch=11, held_out_share=0.01))
    shared = [t for t in stage.batches.triples(0) if t.positive == "what is it"]
    assert stage.batch(0).duplicates == (2 if len(shared) == 2 else 0)
    assert stage.loss(stage.build(), stage.batch(0))[1]["duplicates"] == stage.batch(0).duplicates
    assert stage.counts["repeated_positives"] == 1


def test_a_step_is_the_same_in_another_process_and_directory(tmp_path, monkeypatch):
    paths = {name: name for name in ("queries", "documents", "start", "out")}
    monkeypatch.chdir(tmp_path)
    stage = RerankerTraining(reranker_config(tmp_path, **paths))
    here, pickled = stage.batch(5), pickle.dumps(stage)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    worker = pickle.loads(pickled)
    there = worker.batch(5)
    assert worker.validate(worker.build())["score"] >= 0
    assert [ids.tolist() for ids in here.encoded.input_ids] == [ids.tolist() for ids in there.encoded.input_ids]


def test_a_prepared_stage_brings_what_bm25_found_to_its_workers(tmp_path):
    stage = RerankerTraining(reranker_config(tmp_path, held_out_share=0.25))
    unprepared = pickle.loads(pickle.dumps(stage))
    stage.prepare()
    worker = pickle.loads(pickle.dumps(stage))
    assert vars(worker)["_held_out"].candidates == stage._held_out.candidates and "_held_out" not in vars(unprepared)
    model = stage.build()
    assert worker.validate(model) == unprepared.validate(model) == stage.validate(model)
    assert (worker.inputs(), worker.models()) == (unprepared.inputs(), unprepared.models())


def test_the_learning_rate_rises_over_the_warm_up_and_falls_to_0(tmp_path):
    stage = RerankerTraining(reranker_config(tmp_path, epochs=4, warmup_epochs=1.0, batch=2))
    rates = [stage.learning_rate(step) for step in range(stage.steps + 1)]
    per_epoch = stage.batches.per_epoch
    assert stage.steps == 4 * per_epoch
    assert rates[:per_epoch] == pytest.approx([(i + 1) / per_epoch for i in range(per_epoch)])
    assert rates[per_epoch:] == sorted(rates[per_epoch:], reverse=True)
    assert rates[stage.steps - 1] == pytest.approx(1 / (3 * per_epoch))
    assert rates[stage.steps] == 0


@pytest.mark.parametrize("warmup", [0.0, 0.1, 10.0])
def test_no_step_is_wasted_whatever_the_warm_up(tmp_path, warmup):
    stage = RerankerTraining(reranker_config(tmp_path, warmup_epochs=warmup))
    assert all(0 < stage.learning_rate(step) <= 1 for step in range(stage.steps))


def test_queries_of_another_corpus_are_refused(tmp_path):
    rows = [row for doc_id in [*DOCUMENTS, "x1", "x2"] for row in both_queries(doc_id)]
    with pytest.raises(InputError, match=r"lacks 2 of the 14 documents .* first 'x1'"):
        RerankerTraining(reranker_config(tmp_path, rows))


def test_what_is_left_out_is_said(tmp_path, caplog):
    rows = [row for doc_id in DOCUMENTS for row in both_queries(doc_id)]
    rows[0] = {**rows[0], "query": None, "error": "NaN"}
    RerankerTraining(reranker_config(tmp_path, rows))
    assert "11 of 12 documents can be trained on; rows with error 1, documents without positive 1" in caplog.text


def test_a_corpus_whose_queries_find_their_own_document_alone_does_not_look_collapsed(tmp_path):
    rows = [query_row(doc_id, r, f"zz{r:.0f}{doc_id}") for doc_id in DOCUMENTS for r in (1.0, 0.0)]
    stage = RerankerTraining(reranker_config(tmp_path, rows))
    model = stage.build()
    start = stage.validate(model)
    assert (start["spread"], start["score"]) == (0.0, 1.0)
    assert stage.collapsed(start, stage.validate(model)) is None


@pytest.mark.parametrize("settings", [{}, {"search": "cached", "w_mr": 0.0}, {"mined": 2, "mined_from": 1}])
def test_the_rows_of_a_batch_are_the_pairs_they_are_said_to_be(tmp_path, settings):
    pairs = write_pairs(tmp_path / "pairs", [pair_row(i, 2, 3) for i in range(5)])
    config = reranker_config(tmp_path, _grids(), graded=2, replay=str(pairs), replay_share=0.34, batch=6)
    if "mined" in settings:
        config = round_trip(config, tmp_path)
    stage = RerankerTraining(config.model_copy(update=settings))
    for number in range(2 * stage.batches.per_epoch):
        batch, triples = stage.batch(number), stage.batches.triples(number)
        of = stage._scorer.tokenize
        same = [of([pair]).input_ids[0].tolist() for pair in [(t.positive, DOCUMENTS[t.doc_id]) for t in triples]]
        assert [batch.encoded.input_ids[row].tolist() for row in batch.own_rows] == same
        further = [(query, DOCUMENTS[t.doc_id]) for t in triples for _, query in stage._maker.graded(t, number)]
        assert [batch.encoded.input_ids[row].tolist() for row in batch.below_rows] == [of([pair]).input_ids[0].tolist() for pair in further]
        replayed, others = batch.replayed_rows()
        drawn = stage.replay.batch(number)
        assert [batch.encoded.input_ids[row].tolist() for row in replayed] == [of([p[0]]).input_ids[0].tolist() for p in drawn]
        assert [batch.encoded.input_ids[row].tolist() for row in others] == [of([p]).input_ids[0].tolist() for q in drawn for p in q[1:]]
        loss, _ = stage.loss(stage.build(), batch)
        assert torch.isfinite(loss)


def test_graded_queries_of_the_same_words_are_drawn_once(tmp_path):
    rows = [query_row(doc_id, r, query) for doc_id in DOCUMENTS for r, query in
            ((1.0, "What is  it"), (0.75, "what is it "), (0.5, "a wing"), (0.25, "A  wing"), (0.0, "else"))]
    stage = RerankerTraining(reranker_config(tmp_path, rows, graded=4, w_mr=0.0))
    for triple in stage.batches.triples(0):
        assert sorted(" ".join(query.lower().split()) for _, query in stage._maker.graded(triple, 0)) == ["a wing", "else"]


def test_a_negative_that_is_used_as_a_positive_stands_at_the_r_it_was_asked_at(tmp_path):
    rows = [query_row(doc_id, r, f"{r} of {doc_id}") for doc_id in DOCUMENTS for r in (0.5, 0.0)]  # every positive is one at r = 0
    config = round_trip(reranker_config(tmp_path, [*rows, *both_queries("d0"), *both_queries("d1"), *both_queries("d2")]), tmp_path)
    queries = write_folder(tmp_path / "rated", [{**row, "ratio": 1.0} for row in open_input(config.queries).read().to_pylist()],
                           open_input(config.queries).schema.append(pa.field("ratio", pa.float32())))
    settings = {"queries": str(queries), "negative_round_trip": 1, "unverified": "positive", "ratio_min": 0.0, "graded": 2, "w_mr": 0.0}
    stage = RerankerTraining(config.model_copy(update=settings))
    for number in range(stage.batches.per_epoch):
        batch, triples = stage.batch(number), stage.batches.triples(number)
        asked = [*(t.relevance for t in triples), *(r for t in triples for r, _ in stage._maker.graded(t, number))]
        assert batch.graded and all(asked[higher] > asked[lower] for higher, lower in batch.graded)


def test_graded_training_without_queries_at_other_r_is_refused(tmp_path):
    rows = [query_row(doc_id, 1.0, f"what is number {doc_id[1:]}") for doc_id in DOCUMENTS]
    with pytest.raises(InputError, match=r"no query at r under 1.*--relevances 1 0.75"):
        RerankerTraining(reranker_config(tmp_path, rows, w_mr=0.0, graded=2))


def test_training_lowers_the_loss(tmp_path):
    stage = RerankerTraining(_without_dropout(reranker_config(tmp_path, epochs=60, learning_rate=1e-3, held_out_share=0.25)))
    torch.manual_seed(0)
    model = stage.build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.config.learning_rate)
    losses = []
    for step in range(stage.steps):
        for group in optimizer.param_groups:
            group["lr"] = stage.config.learning_rate * stage.learning_rate(step)
        loss, metrics = stage.loss(model, stage.batch(step))
        assert all(math.isfinite(value) for value in metrics.values())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])


def test_a_step_of_more_batches_than_the_epochs_have_is_refused(tmp_path):
    config = reranker_config(tmp_path)
    there = RerankerTraining(config).batches.per_epoch * config.epochs
    more = config.model_copy(update={"train": config.train.model_copy(update={"accumulation": there + 1})})
    with pytest.raises(ConfigError, match=f"train.accumulation: {there + 1} batches make a step, .* Give {there} or fewer"):
        RerankerTraining(more)
