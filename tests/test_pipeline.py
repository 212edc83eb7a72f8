"""`readqg run` from a corpus to a report, with tiny models on a real local Ray."""

import json
import shutil

import numpy as np
import pytest

from readqg import cli, pipeline
from readqg.config import RerankerSettings, RetrieveSettings, RunConfig, TrainGeneratorConfig, make, preset
from readqg.corpus import Documents, read_texts
from readqg.errors import ConfigError
from readqg.fusion import write_weights
from readqg.generator.backbone import Backbone
from readqg.generator.prompts import SoftPrompt
from readqg.places import place_of
from readqg.progress import digits
from readqg.runs import read_run
from readqg.shards import open_input
from readqg.steps import Steps
from tests.builders import tiny_bi_encoder, tiny_cross_encoder, tiny_llama

TOPICS = ["wing", "flow", "boundary", "layer", "shock", "heat"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    backbone = tiny_llama(folder / "backbone")
    tiny_cross_encoder(folder / "start")
    prompts = SoftPrompt.initial(Backbone.load(backbone), TrainGeneratorConfig(pairs="", out="", backbone=str(backbone)), "none")
    (folder / "prompts").mkdir()
    prompts.save(folder / "prompts")
    corpus = folder / "corpus"
    (corpus / "qrels").mkdir(parents=True)
    words = [f"{TOPICS[i % 6]} {TOPICS[(i * 5 + 1) % 6]} {TOPICS[(i // 6) % 6]}" for i in range(36)]
    documents = [{"_id": f"d{i}", "title": "", "text": f"the {w} of <script>alert({i})</script>"} for i, w in enumerate(words)]
    (corpus / "corpus.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    queries = [{"_id": f"q{i}", "text": f"what is {t}"} for i, t in enumerate(TOPICS)] + [{"_id": "q9", "text": "zzz"}]
    (corpus / "queries.jsonl").write_text("".join(json.dumps(q) + "\n" for q in queries))
    judged = "".join(f"q{i}\td{i}\t1\n" for i in range(6)) + "q9\td1\t1\n"
    (corpus / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


def run(place, out, *more, grid=0):
    flags = ["run", "--corpus", str(place / "corpus"), "--out", str(out), "--prompts", str(place / "prompts"),
             "--backbone", str(place / "backbone"), "--start", str(place / "start"), "--generate.max-new-tokens", "6",
             "--generate.document-tokens", "16", "--reranker.epochs", "1", "--reranker.max-length", "48", "--rank.max-length", "48",
             "--retrieve.top-k", "10", "--compute.max-error-share", "0.5",
             "--compute.precision", "fp32", "--grid-documents", str(grid), "--json", *more]
    with pytest.raises(SystemExit) as stop:
        cli.main(flags)
    return stop.value.code


@pytest.fixture(scope="module")
def out(place, ray_here):
    assert run(place, place / "out") == 0
    return place / "out"


def verified(out, capsys):
    """How many folders `readqg verify` found in order."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", str(out), "--json"])
    assert stop.value.code == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])["folders"]


@pytest.mark.slow
def test_a_bi_encoder_joins_in_finding_candidates(place, tmp_path, ray_here):
    encoder = str(tiny_bi_encoder(tmp_path / "encoder"))
    assert run(place, tmp_path / "out", "--candidates", "both", "--dense.encoder", encoder, "--dense.max-length", "48") == 0
    bm25, dense, first, tuned = (read_run(tmp_path / "out" / name) for name in ("bm25", "dense", "first", "tuned"))
    assert "q9" not in bm25 and len(first["q9"]) == 10, "its word stands in no document"
    assert all(first[query].keys() <= bm25.get(query, {}).keys() | dense[query].keys() for query in dense)
    assert {query: found.keys() for query, found in tuned.items()} == {query: found.keys() for query, found in first.items()}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["evaluation"]["runs"].keys() == {"bm25", "first", "start", "tuned", "start-fused", "tuned-fused"}
    assert "BM25 + bi-encoder" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_queries_made_elsewhere_take_the_place_of_generated_ones(place, tmp_path, ray_here):
    rows = [{"doc_id": f"d{i}", "query": f"about {TOPICS[i % 6]} {i}"} for i in range(20)]
    (tmp_path / "made.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(place, tmp_path / "out", "--queries", str(tmp_path / "made.jsonl"), "--reranker.w-mr", "0") == 0
    found = open_input(tmp_path / "out" / "queries").read().to_pylist()
    assert {(row["doc_id"], row["query"]) for row in found} == {(row["doc_id"], row["query"]) for row in rows}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "queries written elsewhere" in summary["cut"] and summary["evaluation"]["runs"].keys() >= {"start", "tuned"}
    assert (tmp_path / "out" / "report.html").exists()


def test_every_stage_leaves_its_folder_and_verifies(out, capsys):
    for name in ("corpus/documents", "corpus/queries", "corpus/judgments", "bm25", "queries", "reranker", "start", "tuned", "tuned-fused"):
        assert (out / name / "_SUCCESS").exists(), name
    assert verified(out, capsys) == 10


def searched(capsys, *args):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        cli.main(["search", *map(str, args), "--json"])
    told = capsys.readouterr()
    return stop.value.code, told.err, json.loads(told.out.splitlines()[-1])


def test_a_search_ranks_as_the_run_did(out, capsys):
    """Wherever the folder lies by then."""
    moved = shutil.copytree(out, out.parent / "moved")
    named = "tuned" if json.loads((out / "summary.json").read_text())["guard"]["use"] == "tuned" else "start"
    fused, texts = read_run(out / f"{named}-fused"), read_texts(out / "corpus")
    code, told, found = searched(capsys, moved, texts["q0"], texts["q9"], texts["q3"], "--shown", "4")
    assert code == 0 and found["weight"] == 0.5
    for query in ("q0", "q3"):
        rows = [row for row in found["rows"] if row["query"] == texts[query]]
        best = sorted(fused[query].values(), reverse=True)[:4]
        assert [row["score"] for row in rows] == pytest.approx(best, abs=1e-4) and [row["rank"] for row in rows] == [1, 2, 3, 4]
        assert all(fused[query][row["doc_id"]] == pytest.approx(row["score"], abs=1e-4) for row in rows)
    assert "zzz" in told and "no document shares a word with it" in told and rows[0]["doc_id"] in told
    own = found["rows"][0]["text"]
    assert own in " ".join(told.split())


def test_a_search_with_another_model_and_without_bm25(out, capsys):
    text = read_texts(out / "corpus")["q1"]
    _, _, found = searched(capsys, out, text, "--model", out / "reranker", "--weight", "0", "--shown", "99")
    tuned = read_run(out / "tuned")["q1"]
    standing = {row["doc_id"]: row["score"] for row in found["rows"]}
    assert found["model"] == str(out / "reranker") and standing.keys() == tuned.keys()
    mean, spread = np.mean(list(tuned.values())), np.std(list(tuned.values()))
    assert all(standing[doc] == pytest.approx((score - mean) / spread, abs=1e-2) for doc, score in tuned.items())


def test_a_search_adds_the_weight_that_was_learned_for_its_model(place, out, tmp_path, capsys):
    whole = shutil.copytree(out, tmp_path / "out")
    summary = json.loads((whole / "summary.json").read_text())
    summary["config"]["fusion"]["weight"] = "learned"
    (whole / "summary.json").write_text(json.dumps(summary))
    write_weights(whole / "reranker", 1.7, 0.3, 9)
    for model, weight in ((place / "start", 0.3), (whole / "reranker", 1.7)):
        assert searched(capsys, whole, "wing", "--model", model)[2]["weight"] == weight
    summary["guard"]["use"] = "maybe"
    (whole / "summary.json").write_text(json.dumps(summary))
    code, told, _ = searched(capsys, whole, "wing")
    assert code == 1 and "guard.use is 'maybe'" in " ".join(told.split())


def test_a_search_of_what_is_no_run_says_so(out, tmp_path, capsys):
    code, told, _ = searched(capsys, tmp_path, "wing")
    assert code == 1 and "is not what a finished `readqg run` made" in told
    code, told, _ = searched(capsys, out, " ")
    assert code == 2 and "a query is empty" in told
    code, told, _ = searched(capsys, out)
    assert code == 1 and "What for?" in told


@pytest.mark.slow
def test_a_grid_may_be_asked_for_afterwards(place, out, tmp_path, capsys):
    whole = shutil.copytree(out, tmp_path / "out")
    assert run(place, whole, grid=2) == 0
    for name in ("grid/2/queries", "grid/2/start", "grid/2/tuned"):
        assert (whole / name / "_SUCCESS").exists(), name
    assert verified(whole, capsys) == 13
    assert json.loads((whole / "summary.json").read_text())["grid"] == "grid/2"


@pytest.mark.slow
def test_a_grid_with_a_bad_document_is_shown_all_the_same(place, tmp_path, ray_here):
    """With the usual share of errors, which is a tenth."""
    texts = ["the wing of a plane", "", "heat in a layer"]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"_id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    config = make(RunConfig, {
        "corpus": str(tmp_path / "corpus.jsonl"), "prompts": str(place / "prompts"), "backbone": str(place / "backbone"),
        "start": str(place / "start"), "grid_documents": 3, "rank": {"max_length": 48},
        "generate": {"max_new_tokens": 6, "document_tokens": 16}, "compute": {"precision": "fp32"}})
    steps = Steps(config, place_of(str(tmp_path / "corpus")))
    steps.import_corpus()
    steps.grid(place_of(str(tmp_path / "grid")), place_of(str(place / "start")))
    rows = open_input(tmp_path / "grid" / "tuned").read().to_pylist()
    assert all((row["error"] is None) == (row["start_score"] is not None) for row in rows)
    assert {row["error"] is None for row in rows} == {True, False}


def test_what_was_not_done_was_not_cut():
    config = RunConfig(corpus="x", max_queries=20, retrieve=RetrieveSettings(top_k=20), max_documents=4)
    whole = pipeline._cuts(config, 9, searched=True)
    assert pipeline._cuts(config, 9, searched=False) == whole[:1] and len(whole) == 3
    small = make(RunConfig, {"corpus": "x", **preset("small", RunConfig)})
    said = "texts cut at 128 tokens to write queries, 192 tokens in training, 256 tokens in ranking"
    assert said in pipeline._cuts(small, 9, searched=True)


@pytest.mark.parametrize(("documents", "settings", "warned"), [
    (30, {"held_out_share": 0.15}, "by 4 held-out documents,"), (34, {"held_out_share": 0.15}, None), (40, {}, "by 4 held-out"),
    (1000, {}, None), (1000, {"held_out_max": 9}, "by 4 held-out documents (the others of 9 choose"), (1000, {"held_out_max": 10}, None),
    (50, {"held_out_max": 9, "held_out_share": 0.5}, None)])
def test_too_few_to_show_a_gain_are_told_of_beforehand(caplog, documents, settings, warned):
    config = RunConfig(corpus="x", reranker=RerankerSettings(**settings))
    with caplog.at_level("WARNING", logger="readqg"):
        pipeline._warn_of_few(config, documents)
    assert warned in caplog.text if warned else not caplog.text


@pytest.mark.parametrize(("size", "warned"), [(16, True), (36, True), (40, False)])
def test_too_few_for_a_growing_run_are_told_of_too(caplog, size, warned):
    with caplog.at_level("WARNING", logger="readqg"):
        pipeline._warn_of_few(RunConfig(corpus="x", until_no_gain=True, max_documents=size), 1000)
    assert ("raise --max-documents" in caplog.text) == warned


def test_queries_from_elsewhere_need_prompts_for_their_ratio_alone(tmp_path):
    settings = {"queries": "q.jsonl", "backbone": "google/flan-t5-base"}
    plain, judged = (make(RunConfig, {**settings, "reranker": {"w_mr": 0, **more}}) for more in ({}, {"ratio_min": 0.0}))
    assert Steps(plain, place_of(str(tmp_path))).passes() == []
    with pytest.raises(ConfigError, match="no prompts for google/flan-t5-base"):
        Steps(judged, place_of(str(tmp_path))).passes()


@pytest.mark.parametrize(("rate", "shown"), [(0.031, "0.031"), (0.55, "0.55"), (12.34, "12.3"), (291_000.0, "291000.0")])
def test_a_rate_has_digits_and_no_exponent(rate, shown):
    assert digits(rate) == shown


def test_few_shot_prompts_have_no_grid(place, tmp_path):
    facts = json.loads((place / "prompts" / "prompts.json").read_text())
    (tmp_path / "prompts.json").write_text(json.dumps({**facts, "lengths": {"instruction": 90, "plus": 0, "minus": 0}}))
    for prompts, documents, has_grid in ((place / "prompts", 2, True), (tmp_path, 2, False), (place / "prompts", 0, False)):
        config = RunConfig(prompts=str(prompts), grid_documents=documents)
        assert Steps(config, place_of(str(tmp_path))).has_grid == has_grid


def test_the_summary_counts_a_query_without_results(out):
    summary = json.loads((out / "summary.json").read_text())
    assert summary["evaluation"]["queries"] == 7
    names = {"bm25", "start", "tuned", "start-fused", "tuned-fused"}
    assert set(summary["evaluation"]["runs"]) == names
    assert summary["evaluation"]["per_query"]["q9"] == dict.fromkeys(names, 0.0)
    assert summary["guard"]["use"] in ("start", "tuned")
    assert summary["use_folder"] == str(out / "reranker" if summary["guard"]["use"] == "tuned" else out.parent / "start")


def test_the_report_escapes_what_comes_from_the_corpus(out):
    page = (out / "report.html").read_text()
    assert "&lt;script&gt;alert(" in page
    assert "<script" not in page
    assert "http://" not in page
    assert "https://" not in page.replace("https://www.w3.org", "")


def test_the_same_command_again_changes_nothing(place, out):
    before = {p: p.read_bytes() for p in out.rglob("*.parquet")} | {p: p.read_bytes() for p in out.rglob("_SUCCESS")}
    assert run(place, out) == 0
    assert {p: p.read_bytes() for p in before} == before


def test_another_setting_on_the_same_folder_is_refused(place, out, capsys):
    assert run(place, out, "--generate.seed", "5") == 1
    assert "config.seed: the folder has 0, this command 5" in capsys.readouterr().err


def test_a_backbone_without_prompts_says_how_to_train_them(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["run", "--corpus", str(tmp_path), "--out", str(tmp_path / "o"), "--preset", "paper"])
    assert stop.value.code == 1
    assert "readqg train-generator --pairs pairs --backbone google/flan-t5-base" in capsys.readouterr().err


def test_too_few_documents_are_said_before_anything_is_written_for_them(place, tmp_path, capsys):
    (tmp_path / "two.jsonl").write_text('{"_id": "a", "text": "wing"}\n{"_id": "b", "text": "flow"}\n')
    assert run(place, tmp_path / "out", "--corpus", str(tmp_path / "two.jsonl")) == 1
    assert "two.jsonl has 2 usable documents; training needs 3 or more" in capsys.readouterr().err
    assert not (tmp_path / "out" / "queries").exists()


def test_other_tools_open_a_folder_as_it_is(out):
    import duckdb
    import pandas
    import polars

    folder = out / "queries"
    mine = open_input(folder).read().to_pylist()
    assert pandas.read_parquet(folder)["query"].where(lambda q: q.notna(), None).tolist() == [row["query"] for row in mine]
    assert polars.read_parquet(folder / "*.parquet").to_dicts() == mine
    found = duckdb.sql(f"select doc_id, relevance, query from read_parquet('{folder}/*.parquet')").fetchall()
    assert sorted(found, key=str) == sorted(((r["doc_id"], r["relevance"], r["query"]) for r in mine), key=str)


def test_the_saved_reranker_loads_with_sentence_transformers_and_gives_the_scores_of_the_run(place, out):
    from sentence_transformers import CrossEncoder

    run = open_input(out / "tuned").read().to_pylist()
    queries = read_texts(place / "corpus")
    texts = dict(zip(run_ids := [row["doc_id"] for row in run], Documents.open(place / "corpus").texts(run_ids), strict=True))
    model = CrossEncoder(str(out / "reranker"), max_length=48, device="cpu")
    expected = model.predict([(queries[row["query_id"]], texts[row["doc_id"]]) for row in run])
    assert [row["score"] for row in run] == pytest.approx(expected.tolist(), abs=1e-4)
