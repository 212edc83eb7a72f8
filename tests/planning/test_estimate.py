"""Sizes, hours and the cost of failures: pure arithmetic, checked against counting and against a simulation."""

import json
import math
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertForSequenceClassification

from readqg.config import PlanConfig, RunConfig, make
from readqg.errors import InputError
from readqg.planning.calibrate import Calibration, _kept_bytes
from readqg.planning.machine import ACCELERATORS, Machine, Rates, assumed_rates, estimate
from readqg.planning.plan import _larger_shards, _memory
from readqg.planning.work import Corpus, Work, not_counted, work_of

RATES = Rates(1000.0, 250.0, 2000.0, 500.0, 1e4, 100.0, 0.0, 10.0, "a test")


def corpus(documents=1000, queries=50, lengths=(100, 300)):
    return Corpus(documents, tuple(lengths), 1000.0, queries, query_tokens=8.0, written_tokens=12.0, prompt_tokens=15)


def stage(name, facts=None, config=None, **kwargs):
    found = {work.stage: work for work in work_of(facts or corpus(), config or RunConfig(), 1e8, **kwargs)}
    return found[name]


def test_generation_reads_every_document_once_a_relevance():
    config = make(RunConfig, {"generate": {"document_tokens": 200, "relevances": (1.0, 0.0), "samples": 3}})
    work = stage("generate", config=config)
    assert work.units == 1000 * 2 * 3
    assert work.generated == pytest.approx(2000 * (15 + (100 + 200) / 2)), "the samples share a reading"
    assert work.written == 6000 * 12


def test_flops_are_two_a_parameter_and_token_forward_and_six_forward_and_back():
    work = Work("any", 1, "unit", "units", generated=10, scored=20, trained=30)
    assert work.flops(generator_parameters=100, scorer_parameters=7) == 2 * (10 * 100 + 20 * 7) + 6 * 30 * 7


def test_with_mined_documents_there_is_no_search_and_a_gradient_through_each():
    facts = corpus(documents=80, lengths=(50,))
    searched, mined = (stage("train", facts, make(RunConfig, {"reranker": {"w_mr": 0, "mined": n, "round_trip": 10 if n else None}}))
                       for n in (0, 4))
    assert mined.trained / searched.trained == pytest.approx(5 / 2)
    assert searched.scored - mined.scored == pytest.approx(searched.units * (8 * 8 - 8) * (50 + 12 + 3))


@pytest.mark.parametrize(("settings", "scored", "trained"), [({"search": "cached"}, -0.5, 0), ({"w_anchor": 1.0}, 16 / 56, 0)])
def test_a_cached_search_is_one_epoch_s_and_an_anchor_scores_the_chosen_pairs_once_more(settings, scored, trained):
    plain, other = (stage("train", corpus(documents=80), make(RunConfig, {"reranker": {"epochs": 2, **own}})) for own in ({}, settings))
    searched = plain.units * 56 * corpus().pair_tokens(RunConfig().reranker.max_length, 12)
    assert other.scored - plain.scored == pytest.approx(scored * searched)
    assert other.trained - plain.trained == trained


def test_graded_training_runs_a_gradient_through_as_many_queries_as_there_are():
    grid = {"generate": {"relevances": (1.0, 0.5, 0.0)}}
    plain, two, many = (stage("train", corpus(documents=80), make(RunConfig, {**grid, "reranker": {"w_mr": 0, "graded": n}}))
                        for n in (0, 2, 9))
    assert two.trained == many.trained == pytest.approx(2 * plain.trained), "two more queries beside the own and the hardest document's"


def test_replayed_pairs_take_places_in_the_batch_and_are_trained_without_a_search():
    facts = corpus(documents=100)
    settings = {"batch": 8, "epochs": 1, "w_mr": 0, "replay": "pairs", "replay_share": 0.25, "held_out_max": 4}
    work = stage("train", facts, make(RunConfig, {"reranker": settings}))
    pair = facts.pair_tokens(RunConfig().reranker.max_length, 12)
    assert work.units == 96 / 6
    assert work.trained == pytest.approx(work.units * 8 * 2 * pair)
    assert work.scored == pytest.approx(work.units * 6 * 5 * pair + 2 * 4 * 21 * pair)


def test_a_subset_of_the_documents_bounds_generation_and_training_but_not_the_import():
    config = make(RunConfig, {"max_documents": 100})
    assert stage("generate", config=config).units == 200
    assert stage("import", config=config).units == 1000
    assert stage("train", config=config).units == math.ceil(90 / 8) * 2


def test_a_step_scores_all_other_pairs_and_trains_on_the_chosen_ones():
    settings = {"batch": 8, "epochs": 1, "held_out_max": 1, "max_length": 512}
    work = stage("train", corpus(documents=9), make(RunConfig, {"reranker": settings}))
    pair = corpus().pair_tokens(512, 12)
    assert work.units == 1
    assert work.trained == pytest.approx(8 * (2 * pair + 2 * 12 + 3))
    assert work.scored == pytest.approx(56 * pair + 2 * 1 * 21 * pair)


def test_workers_share_a_batch_and_no_more_than_it_has_documents():
    work = stage("train", corpus(documents=8000))
    one, eight, many = (estimate(work, 8000, Machine("m", RATES, workers=n), 100) for n in (1, 8, 64))
    assert (one.workers, eight.workers, many.workers) == (1, 8, 8)
    fixed = RATES.seconds(work, 8000)[1] / 3600
    assert eight.hours - fixed == pytest.approx((one.hours - fixed) / 8) and many.hours == eight.hours
    alone, apart = (estimate(work, 8000, Machine("m", RATES, workers=8, per_node=n, failures_per_node_hour=0.01), 100) for n in (8, 1))
    assert apart.lost_hours > 7 * alone.lost_hours > 0, "any of eight nodes ends the step"


def test_the_validation_after_the_last_step_counts_too():
    settings = {"batch": 8, "epochs": 1, "held_out_max": 1}
    config = make(RunConfig, {"reranker": settings, "train": {"validate_steps": 3}})
    seldom = make(RunConfig, {"reranker": settings, "train": {"validate_steps": 4}})
    more = stage("train", corpus(documents=57), config).scored - stage("train", corpus(documents=57), seldom).scored
    assert stage("train", corpus(documents=57), config).units == 7
    assert more == pytest.approx(21 * corpus().pair_tokens(RunConfig().reranker.max_length, 12)), "at 0, 3, 6, 7 and at 0, 4, 7"


def test_ranking_reads_the_pairs_of_the_start_and_of_the_tuned_model():
    config = make(RunConfig, {"retrieve": {"top_k": 20}, "max_queries": 10})
    assert stage("rank", config=config).units == 2 * 10 * 20
    assert "rank" not in {work.stage for work in work_of(corpus(queries=0), RunConfig(), 1e8)}


def test_labelling_stands_first_where_it_is_asked_for():
    assert work_of(corpus(), RunConfig(), 1e8, label_pairs=10)[0].stage == "label"


def test_what_training_asks_of_the_queries_is_counted_and_what_is_not_is_named():
    config = make(RunConfig, {"reranker": {"round_trip": 10, "ratio_min": 0.0}, "quality": {}})
    assert [work.stage for work in work_of(corpus(), config, 1e8)] == [
        "import", "retrieve", "generate", "round-trip", "ratio", "train", "rank"]
    assert not_counted(config) == ["quality", "the report's grid"] and not_counted(RunConfig(grid_documents=0)) == []
    large = corpus(documents=8_800_000)
    hours = estimate(stage("round-trip", large, config), large.documents, Machine("m", RATES, workers=8), 100).hours
    assert hours > 17_600_000 * large.documents / 1e8 / 3600, "one process asks every query of every document"
    assert stage("ratio", config=config).generated == pytest.approx(2 * (1000 * (15 + 200) + 2000 * 12))


@given(st.integers(1, 64), st.floats(0, 0.5), st.integers(1, 1_000_000), st.sampled_from([1e4, 1e6, 1e9]))
def test_more_workers_never_take_longer_and_failures_never_help(workers, failures, shards, tokens):
    work = Work("generate", 1000, "queries", "documents", generated=tokens, shards=shards)
    one = estimate(work, 1000, Machine("here", RATES), 20)
    more = estimate(work, 1000, Machine("here", RATES, workers=workers), 20)
    failing = estimate(work, 1000, Machine("here", RATES, workers=workers, failures_per_node_hour=failures), 20)
    assert more.hours <= one.hours * (1 + 1e-9)
    assert failing.expected_hours >= more.hours * (1 - 1e-9)
    assert more.workers <= shards


@given(st.integers(1, 1024), st.integers(1, 1_000_000), st.floats(1e3, 1e10))
def test_larger_shards_where_they_are_advised_are_quicker_and_never_fewer_than_workers(workers, shards, tokens):
    def asked(count):
        work = Work("generate", 1, "queries", "documents", generated=tokens, shards=count)
        return estimate(work, 1, Machine("m", RATES, workers=workers), 20)

    now = asked(shards)
    if now.fewer_shards > 1:
        advised = asked(math.ceil(shards / now.fewer_shards))
        assert advised.hours < now.hours and advised.workers == now.workers


def test_where_the_driver_bounds_a_stage_the_flag_that_frees_it_is_named():
    work = stage("generate", corpus(documents=2_000_000), make(RunConfig, {"generate": {"shard_rows": 2}}))
    rates = Rates(**{**RATES.__dict__, "generate_tokens_per_s": 1e7, "write_tokens_per_s": 1e7})
    bound = estimate(work, 1, Machine("m", rates, workers=64), 20)
    assert bound.hours * 3600 > 1_000_000 * 0.02
    flag, rows = _larger_shards(bound).split()
    assert flag == "--generate.shard-rows" and int(rows) == 2 * bound.fewer_shards > 16


def test_expected_hours_are_those_of_a_simulated_worker_that_is_killed_at_random():
    shard_s, shards, failures, restart_s = 60.0, 500, 2.0, 30.0
    work = Work("generate", 1, "queries", "documents", generated=shard_s * shards * RATES.generate_tokens_per_s, shards=shards)
    rates = Rates(**{**RATES.__dict__, "start_s": 1e-9})
    machine = Machine("here", rates, failures_per_node_hour=failures, restart_s=restart_s)
    rng, runs = random.Random(0), []
    for _ in range(40):
        clock = done = 0.0
        next_kill = rng.expovariate(failures / 3600)
        while done < shards:
            if next_kill < clock + shard_s:
                clock = max(clock, next_kill) + restart_s
                next_kill = clock + rng.expovariate(failures / 3600)
                continue
            clock, done = clock + shard_s, done + 1
        runs.append(clock / 3600)
    assert estimate(work, 1, machine, 20).expected_hours == pytest.approx(sum(runs) / len(runs), rel=0.02)


def test_where_nodes_are_lost_faster_than_a_shard_is_done_it_never_ends():
    work = Work("generate", 1, "queries", "documents", generated=1e9, shards=1)
    assert estimate(work, 1, Machine("here", RATES, failures_per_node_hour=10.0), 20).expected_hours == math.inf


def test_a_gpu_that_was_not_measured_says_so_and_a_faster_one_is_faster():
    h100, l4 = (assumed_rates(kind, 1e8, 2e7) for kind in ("h100", "l4"))
    assert "not measured" in h100.source
    assert h100.score_tokens_per_s > l4.score_tokens_per_s
    assert h100.score_tokens_per_s * 2 * 2e7 < 1e12 * ACCELERATORS["h100"].peak_tflops


def test_rates_come_back_from_their_file_and_others_are_refused(tmp_path):
    RATES.write(tmp_path / "rates.json")
    assert Rates.read(tmp_path / "rates.json") == RATES
    (tmp_path / "rates.json").write_text(json.dumps({**RATES.__dict__, "start_s": -1}))
    with pytest.raises(InputError, match=r"above 0.*--save-rates"):
        Rates.read(tmp_path / "rates.json")


def test_what_a_forward_pass_is_said_to_keep_is_what_autograd_saves():
    """Embeddings and head, which the count leaves out, are small beside eight layers."""
    config = BertConfig(vocab_size=50, hidden_size=48, num_hidden_layers=8, num_attention_heads=4, intermediate_size=192, num_labels=1,
                        max_position_embeddings=96, attn_implementation="eager")
    model = BertForSequenceClassification(config).train()
    own, saved = {parameter.data_ptr() for parameter in model.parameters()}, {}

    def keep(tensor):
        if tensor.data_ptr() not in own:
            saved[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(torch.randint(50, (5, 96))).logits
    token, other = _kept_bytes(config)
    assert sum(saved.values()) / (5 * 96) == pytest.approx(token + 96 * other, rel=0.2)
    del logits


def test_the_memory_of_training_grows_with_what_one_worker_reads_in_a_step_and_not_with_their_number():
    def kept(workers=1, machine="here", lengths=(100, 300), **settings):
        config = make(PlanConfig, {"reranker": settings, "machine": machine})
        facts = corpus(lengths=lengths)
        found = Calibration(facts, RATES, 10**8, 10**7, 10**8, (1e6, 1e3))
        nothing = replace(found, kept_bytes=(0.0, 0.0))
        there = Machine("m", RATES, workers=workers)
        taken = estimate(stage("train", facts, config), facts.documents, there, 100)
        return _memory(taken, facts, config, found) - _memory(taken, facts, config, nothing)

    assert kept(batch=16) == pytest.approx(2 * kept(batch=8))
    assert kept(workers=2) == pytest.approx(kept() / 2)
    assert kept(epochs=6) == pytest.approx(kept(epochs=2))
    assert kept(machine="h100") < kept()
    assert kept(lengths=(200, 300)) > kept(lengths=(100, 300))
