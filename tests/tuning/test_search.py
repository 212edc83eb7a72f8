"""Trials, their folders and what a search makes of them; no Ray here."""

import json
import math

import pyarrow.parquet as pq
import pytest
import yaml

from readqg import config as c
from readqg.errors import ConfigError
from readqg.generator.ratio import log_ratios
from readqg.shards import open_input
from readqg.tuning import table
from readqg.tuning.generator import GeneratorSearch
from readqg.tuning.pipeline import PipelineSearch
from readqg.tuning.reranker import RerankerSearch
from readqg.tuning.search import Range, Trial, best, ranges, rung_steps, trials
from tests.builders import tiny_llama, write_folder
from tests.generator.pairs import pair_row, write_pairs
from tests.reranker.corpus import reranker_config

HERE = {"device": "cpu", "precision": "fp32", "threads": 1}
SMALL = {"m": 2, "documents_per_step": 2, "steps": 4, "held_out_documents": 3, "document_tokens": 32, "query_tokens": 12,
         "n_instruction": 3}


def generator_config(folder, **changes):
    given = {"pairs": str(write_pairs(folder / "pairs", [pair_row(i) for i in range(8)])), "out": str(folder / "out"),
             "backbone": str(tiny_llama(folder / "backbone")), "generator": SMALL, "rungs": 2, "probe_new_tokens": 4,
             "min_distinct": 0.0, "compute": HERE}
    return c.make(c.TuneGeneratorConfig, given, changes)


VALUES = {"n_relevance": 2, "learning_rate": 1e-3, "margin": 1.0, "temperature": 0.25, "w_sc": 0.1, "w_cal": 0.1}


def test_a_trial_of_the_generator_is_judged_at_its_rungs_and_leaves_prompts_that_run_takes(tmp_path):
    search = GeneratorSearch(generator_config(tmp_path))
    trial = Trial.begin(tmp_path / "trials", VALUES)
    rungs = list(search.trial(trial.values, trial.folder))
    assert [(r.metrics["step"], r.last) for r in rungs] == [(2.0, False), (4.0, True)]
    assert all(-1 <= r.metrics["spearman"] <= 1 and r.metrics["score"] == r.metrics["spearman"] for r in rungs)
    winner = search.winner(trial.values, trial.folder)
    from readqg.generator.model import Generator

    generator = Generator.load(winner["backbone"], winner["prompts"])
    assert generator.prompts.relevance.plus.shape[0] == 2
    assert c.make(c.RunConfig, winner).prompts == winner["prompts"]


def test_the_score_is_the_rank_correlation_of_the_likelihood_ratio_with_the_teacher(tmp_path):
    search = GeneratorSearch(generator_config(tmp_path))
    stage = search._stage
    model = stage.build().eval()
    row = stage.pairs.read(stage.pairs.held_out)[0]
    queries = [q["query"] for q in row["positives"] + row["negatives"]]
    found = log_ratios(model, [row["text"]], [queries], 32, 12)[0]
    one, zero = (
        model.log_likelihoods([row["text"]] * 4, [r] * 4, queries, document_tokens=32, query_tokens=12).tolist() for r in (1.0, 0.0))
    assert found == pytest.approx([a - b for a, b in zip(one, zero, strict=True)], abs=1e-3)


def test_a_collapsed_generator_ranks_behind_every_one_that_is_not(tmp_path):
    search = GeneratorSearch(generator_config(tmp_path, min_distinct=1.0))
    model = search._stage.build()
    model.document_ids = lambda text, tokens: model.backbone.token_ids("the same")
    found = search.judge(search._stage, model)
    assert found["distinct"] == pytest.approx(1 / 3)
    assert found["score"] == pytest.approx(-1 - 2 / 3) and found["spearman"] >= -1


def test_nothing_held_out_means_nothing_to_judge_by(tmp_path):
    with pytest.raises(ConfigError, match="held-out-documents"):
        GeneratorSearch(generator_config(tmp_path, generator={**SMALL, "held_out_documents": 0}))


def reranker_search(folder, **changes):
    made = reranker_config(folder)
    given = {"queries": made.queries, "documents": made.documents, "start": made.start, "out": str(folder / "out"), "compute": HERE,
             "reranker": {"batch": 4, "max_length": 48, "epochs": 1}, "rungs": 2}
    return RerankerSearch(c.make(c.TuneRerankerConfig, given, changes))


def test_trials_of_the_re_ranker_share_their_held_out_queries_and_the_winner_is_a_config(tmp_path):
    search = reranker_search(tmp_path)
    scores = []
    for values in ({"learning_rate": 1e-3, "margin": 0.1, "w_mr": 1.0}, {"learning_rate": 1e-3, "margin": 2.0, "w_mr": 0.01}):
        stage_rungs = list(search.trial(values, tmp_path))
        scores.append(stage_rungs[-1].metrics["score"])
        assert stage_rungs[-1].last and not stage_rungs[0].last
    assert all(0 <= score <= 1 for score in scores)
    run = c.make(c.RunConfig, search.winner(values, tmp_path))
    assert (run.reranker.margin, run.reranker.w_mr, run.reranker.batch) == (2.0, 0.01, 4)


def pipeline_search(folder):
    from readqg.config import TrainGeneratorConfig
    from readqg.generator.backbone import Backbone
    from readqg.generator.prompts import SoftPrompt

    made = reranker_config(folder)
    backbone = tiny_llama(folder / "backbone")
    prompts = SoftPrompt.initial(Backbone.load(backbone), TrainGeneratorConfig(pairs="", out="", backbone=str(backbone)), "none")
    (folder / "prompts").mkdir()
    prompts.save(folder / "prompts")
    given = {"documents": made.documents, "start": made.start, "out": str(folder / "out"), "compute": HERE, "rungs": 2,
             "prompts": str(folder / "prompts"), "backbone": str(backbone),
             "generate": {"document_tokens": 16, "max_new_tokens": 6, "shard_rows": 4},
             "reranker": {"batch": 4, "max_length": 48, "epochs": 1, "held_out_share": 0.2}}
    return PipelineSearch(c.make(c.TunePipelineConfig, given))


def test_what_needs_a_stage_between_the_two_is_refused_and_replay_is_an_input(tmp_path):
    search = pipeline_search(tmp_path)
    for settings in ({"round_trip": 10}, {"mined": 2}, {"ratio_min": 0.0}):
        with pytest.raises(ConfigError, match="have no place in it"):
            PipelineSearch(search.config.model_copy(update={"reranker": c.RerankerSettings(**settings)}))
    pairs = write_pairs(tmp_path / "replayed", [pair_row(i, 2, 3) for i in range(3)])
    replaying = PipelineSearch(search.config.model_copy(update={"reranker": c.RerankerSettings(replay=str(pairs))}))
    assert replaying.inputs() == {**search.inputs(), "replay": open_input(pairs).fingerprint}


def test_a_trial_of_the_pipeline_is_judged_on_queries_that_it_did_not_write(tmp_path):
    search = pipeline_search(tmp_path)
    search.prepare(tmp_path / "out")
    search.prepare(tmp_path / "out")
    held_out = set(pq.read_table(tmp_path / "out" / "_held_out" / "queries")["doc_id"].to_pylist())
    values = {"learning_rate": 1e-3, "margin": 0.1, "w_mr": 1.0, "sampling_temperature": 1.1, "top_k": 5}
    folder = tmp_path / "out" / "_trials" / "one"
    rungs = list(search.trial(values, folder))
    assert 0 <= rungs[-1].metrics["score"] <= 1 and rungs[-1].last
    written = set(pq.read_table(folder / "queries")["doc_id"].to_pylist())
    assert len(held_out) == 2 and len(written) == 10 and not held_out & written
    run = c.make(c.RunConfig, search.winner(values, folder))
    assert (run.generate.temperature, run.generate.top_k, run.reranker.learning_rate) == (1.1, 5, 1e-3) and run.reranker.judge_by_half


def trial(root, number, scores, status):
    made = Trial.begin(root, {"x": number, "y": 0.5})
    for rung, score in enumerate(scores, 1):
        made.add(rung, {"score": score, "step": 10.0 * rung}, 1.0 * rung)
    if status != "begun":
        made.end(status, "broken" if status == "failed" else None)
    return made


def test_a_result_stays_and_a_trial_without_one_begins_anew(tmp_path):
    trial(tmp_path, 1, [0.5, 0.7], "finished").end("failed", "too late")
    trial(tmp_path, 2, [0.9], "begun")
    again = [Trial.begin(tmp_path, {"x": n, "y": 0.5}) for n in (1, 2)]
    assert [(t.status, t.score) for t in again] == [("finished", 0.7), ("begun", None)]


def test_a_line_that_was_being_written_at_a_kill_is_left_out(tmp_path):
    made = trial(tmp_path, 1, [0.5, 0.7], "begun")
    with (made.folder / "curve.jsonl").open("a") as file:
        file.write('{"rung": 3, "sco')
    assert [t.score for t in trials(tmp_path)] == [0.7]


def test_the_winner_is_a_finished_trial_even_where_one_that_was_ended_had_more(tmp_path):
    trial(tmp_path, 1, [0.5, 0.7], "finished")
    trial(tmp_path, 2, [0.9], "stopped")
    trial(tmp_path, 3, [], "failed")
    found = trials(tmp_path)
    assert best(found).values["x"] == 1
    rows = table.table(found, {"x": Range(0, 9, False, True), "y": Range(0, 1, False, False)}).to_pylist()
    assert [(r["x"], r["status"], r["score"], r["error"]) for r in rows] == [
        (2, "stopped", 0.9, None), (1, "finished", 0.7, None), (3, "failed", None, "broken")]


def test_the_page_shows_every_trial_and_runs_nothing(tmp_path):
    search = reranker_search(tmp_path)
    for number, score in enumerate([0.2, 0.4, 0.3]):
        made = Trial.begin(tmp_path / "t", {"learning_rate": 1e-5 * (number + 1), "margin": 0.1, "w_mr": 1.0})
        made.add(1, {"score": score, "step": 3.0, "spread": 1.0}, 1.0)
        made.end("failed" if number == 2 else "finished", "<script>alert(1)</script>" if number == 2 else None)
    page = table.html(search, trials(tmp_path / "t"))
    assert page.count('class="trial ') == 3 and page.count('class="trial best"') == 1
    assert "<script" not in page and "&lt;script&gt;" in page
    winner = table.write_winner(tmp_path / "best.yaml", search, trials(tmp_path / "t"))
    assert winner.score == 0.4
    assert yaml.safe_load((tmp_path / "best.yaml").read_text())["reranker"]["learning_rate"] == pytest.approx(2e-5)


def test_a_winner_is_a_file_that_run_takes(tmp_path, capsys):
    from readqg import cli

    search = reranker_search(tmp_path)
    made = Trial.begin(tmp_path / "t", {"learning_rate": 1e-5, "margin": 0.1, "w_mr": 1.0})
    made.add(1, {"score": 0.5, "step": 3.0}, 1.0)
    made.end("finished")
    table.write_winner(tmp_path / "best.yaml", search, trials(tmp_path / "t"))
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--config", str(tmp_path / "best.yaml"), "--corpus", str(tmp_path), "--dry-run"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and yaml.safe_load(out)["reranker"]["margin"] == 0.1


def test_ranges_are_by_ratio_where_they_span_some_and_hold_no_zero():
    found = ranges(c.PipelineSpace(margin=(0.0, 2.0), top_k=(2, 50)))
    assert found["margin"] == Range(0.0, 2.0, False, False)
    assert found["top_k"] == Range(2, 50, True, True)
    assert not found["sampling_temperature"].log and found["learning_rate"].log
    with pytest.raises(ConfigError, match=r"space\.margin: the lowest value, 3"):
        ranges(c.RerankerSpace(margin=(3.0, 1.0)))


def test_rungs_lie_at_equal_distances_and_the_last_step_is_one():
    assert rung_steps(90, 9) == list(range(10, 91, 10))
    assert rung_steps(4, 9) == [1, 2, 3, 4]
    assert rung_steps(10, 3)[-1] == 10 and all(math.isfinite(s) for s in rung_steps(10, 3))


def test_trials_are_named_by_their_values(tmp_path):
    a, b = Trial.named(tmp_path, {"x": 1, "y": 0.1}), Trial.named(tmp_path, {"y": 0.1, "x": 1})
    assert a.folder == b.folder != Trial.named(tmp_path, {"x": 2, "y": 0.1}).folder
    assert json.loads((Trial.begin(tmp_path, a.values).folder / "values.json").read_text()) == a.values


def test_a_pipeline_with_too_few_documents_is_refused(tmp_path):
    from readqg.corpus.rows import SCHEMAS
    from readqg.errors import InputError

    few = write_folder(tmp_path / "few", [{"doc_id": f"d{i}", "title": "", "text": "x"} for i in range(3)], SCHEMAS["documents"])
    with pytest.raises(InputError, match="fewer than 3 to train on"):
        PipelineSearch(c.TunePipelineConfig(documents=str(few), out=str(tmp_path / "o")))
