"""Likelihood ratios of generated queries, and what training makes of them."""

import json
import shutil

import pyarrow as pa
import pytest

from readqg.config import GeneratorSettings, RatioConfig, RatioSettings, RunConfig, identity, make
from readqg.corpus.generated import QUERIES
from readqg.errors import InputError, ModelError
from readqg.generator.backbone import Backbone
from readqg.generator.model import Generator
from readqg.generator.prompts import SoftPrompt
from readqg.generator.ratio import RatioStage
from readqg.local import run_here
from readqg.places import place_of
from readqg.reranker.sampling import Filters, read_examples
from readqg.reranker.training import RerankerTraining
from readqg.shards import OutputFolder, open_input
from readqg.stage import compute_shard
from readqg.steps import Steps
from tests.builders import tiny_llama, tiny_t5, write_folder
from tests.reranker.corpus import DOCUMENTS, query_row, reranker_config, write_documents, write_queries

ROWS = [query_row("d1", 1.0, "what is number 1"), query_row("d1", 0.0, "heat"), query_row("d2", 1.0, "the wing of the flow"),
        query_row("d2", 0.0, " "), query_row("d3", 1.0, None, error="too long")]


@pytest.fixture(scope="module", params=["t5", "llama"])
def place(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    backbone = (tiny_t5 if request.param == "t5" else tiny_llama)(folder / "backbone")
    for name, number in (("prompts", 2), ("few-shot", 0)):
        (folder / name).mkdir()
        SoftPrompt.initial(Backbone.load(backbone), GeneratorSettings(n_relevance=number, n_instruction=3)).save(folder / name)
    write_queries(folder / "queries", ROWS)
    write_documents(folder / "documents", DOCUMENTS)
    return folder


def stage_of(place, out, **settings):
    values = {"queries": str(place / "queries"), "documents": str(place / "documents"), "prompts": str(place / "prompts"),
              "out": str(out), "document_tokens": 24, "query_tokens": 12,
              "compute": {"device": "cpu", "precision": "fp32", "threads": 1}}
    return RatioStage(make(RatioConfig, values, settings))


@pytest.mark.parametrize("batch_tokens", [16384, 1])
def test_a_ratio_is_the_difference_of_two_likelihoods_and_null_where_there_is_no_query(place, tmp_path, batch_tokens):
    stage = stage_of(place, tmp_path / "out", batch_tokens=batch_tokens)
    run_here(stage, OutputFolder.begin(tmp_path / "out", stage.name, identity(stage.config), stage.inputs(), stage.models()))
    table = open_input(tmp_path / "out", ("ratio",)).read()
    assert table.schema.names == [*QUERIES.names, "ratio"] and table.num_rows == len(ROWS)
    model = Generator.load(place / "backbone", place / "prompts")
    for row, found in zip(ROWS, table["ratio"].to_pylist(), strict=True):
        if row["error"] or not row["query"].strip():
            assert found is None
            continue
        one, zero = (model.log_likelihoods([DOCUMENTS[row["doc_id"]]], [r], [row["query"]], document_tokens=24, query_tokens=12).item()
                     for r in (1.0, 0.0))
        assert found == pytest.approx(one - zero, abs=1e-3)


def test_columns_of_earlier_stages_stay_and_a_query_of_no_document_says_so(place, tmp_path):
    schema = pa.schema([*QUERIES, ("rank", pa.int32())])
    rows = [{**query_row(doc_id, 1.0, "heat"), "rank": 3} for doc_id in ("d1", "ghost")]
    write_folder(tmp_path / "back", rows, schema)
    stage = stage_of(place, tmp_path / "out", queries=str(tmp_path / "back"))
    stage.load()
    first, second = compute_shard(stage, stage.prepare(stage.read(0))).table.to_pylist()
    assert first["rank"] == second["rank"] == 3 and first["ratio"] is not None and first["error"] is None
    assert second["ratio"] is None and "has no document 'ghost'" in second["error"]


def test_a_ratio_that_is_not_finite_is_an_error(place, tmp_path):
    stage = stage_of(place, tmp_path / "out")
    stage.load()
    for parameter in stage._model.parameters():
        parameter.data.fill_(float("nan"))
    result = compute_shard(stage, stage.prepare(stage.read(0)))
    found = result.table.to_pylist()
    assert (result.inputs, result.errors) == (5, 4), "an input is a query, not a document"
    assert {row["ratio"] for row in found} == {None}
    assert [row["error"] for row in found] == ["the likelihood ratio is nan"] * 3 + [None, "too long"]


def test_prompts_that_know_no_relevance_are_refused(place, tmp_path):
    with pytest.raises(ModelError, match="know no relevance"):
        stage_of(place, tmp_path / "out", prompts=str(place / "few-shot"))
    shutil.copytree(place / "prompts", tmp_path / "unconditional")
    facts = json.loads((tmp_path / "unconditional" / "prompts.json").read_text())
    assert facts["conditioned_on"] == "relevance"
    (tmp_path / "unconditional" / "prompts.json").write_text(json.dumps({**facts, "conditioned_on": "nothing"}))
    with pytest.raises(ModelError, match="know no relevance"):
        stage_of(place, tmp_path / "out", prompts=str(tmp_path / "unconditional"))


def judged(tmp_path, rows, filters, negative="generated"):
    """(doc_id, relevance, rank, ratio) rows -> {doc_id: (positives, negatives)} of what is kept, queries named by their row's number."""
    schema = pa.schema([*QUERIES, ("rank", pa.int32()), ("ratio", pa.float32())])
    written = [{**query_row(doc_id, r, f"q{i}", i), "rank": rank, "ratio": ratio} for i, (doc_id, r, rank, ratio) in enumerate(rows)]
    examples, counts = read_examples(open_input(write_folder(tmp_path / "queries", written, schema)), negative, filters)
    found = {}
    for i, doc_id in examples.doc_ids():
        epochs = range(int(examples.first[i + 1] - examples.first[i]))
        found[doc_id] = [(t.positive, t.negative) for t in (examples.triple(i, epoch) for epoch in epochs)]
    return found, counts


def test_positives_of_a_low_ratio_are_left_out_and_counted(tmp_path):
    rows = [("a", 1.0, 1, 2.0), ("a", 0.0, None, -9.0), ("b", 1.0, 1, 1.9), ("b", 0.0, None, 0.0), ("c", 1.0, 1, None), ("c", 0.0, 1, 9.0)]
    found, counts = judged(tmp_path, rows, Filters(ratio_min=2.0))
    assert found == {"a": [("q0", "q1")]} and counts["positives_of_low_ratio"] == 2


def test_a_ratio_that_is_no_number_speaks_for_nothing(tmp_path):
    rows = [("a", 1.0, 1, float("nan")), ("a", 0.0, None, -9.0), ("b", 1.0, 1, 3.0), ("b", 0.0, None, float("nan"))]
    found, counts = judged(tmp_path, rows, Filters(ratio_min=2.0, negative_round_trip=8, unverified="drop"))
    assert found == {"b": [("q2", None)]} and (counts["positives_of_low_ratio"], counts["negatives_not_verified"]) == (1, 1)


VERIFIED = [
    ("a", 1.0, 1, 5.0), ("a", 0.0, None, -1.0),  # both agree: a negative
    ("b", 1.0, 1, 5.0), ("b", 0.0, 2, -1.0),     # found
    ("c", 1.0, 1, 5.0), ("c", 0.0, None, 0.5),   # likelier at r = 1
    ("d", 1.0, 1, 5.0), ("d", 0.0, 9, 0.0),      # found too late, and the ratio is at the bound: a negative
    ("e", 1.0, 1, 5.0), ("e", 0.0, None, None),  # no ratio: nothing agrees
]


def test_a_negative_is_one_where_retrieval_and_ratio_agree(tmp_path):
    found, counts = judged(tmp_path, VERIFIED, Filters(negative_round_trip=8, unverified="drop"))
    assert found == {"a": [("q0", "q1")], "b": [("q2", None)], "c": [("q4", None)], "d": [("q6", "q7")], "e": [("q8", None)]}
    assert (counts["negatives_not_verified"], counts["negatives_found"], counts["documents_without_negative"]) == (3, 0, 3)


@pytest.mark.parametrize("negative", ["generated", None])
def test_what_is_not_verified_may_be_a_positive_under_the_filters_of_positives(tmp_path, negative):
    found, counts = judged(tmp_path, VERIFIED, Filters(negative_round_trip=8, unverified="positive", round_trip=5), negative)
    assert [p for p, _ in found["b"]] == ["q2", "q3"], "found, so it may"
    assert [p for p, _ in found["c"]] == ["q4"] and [p for p, _ in found["e"]] == ["q8"], "not found, so it may not"
    assert found["a"] == [("q0", "q1" if negative else None)]
    assert (counts["negatives_used_as_positives"], counts["positives_not_found"]) == (3, 2)


def test_without_the_switch_the_ratio_is_not_asked(tmp_path):
    found, counts = judged(tmp_path, VERIFIED, Filters(negative_round_trip=8))
    assert found.keys() == {"a", "c", "d", "e"} and counts["negatives_found"] == 1


@pytest.mark.parametrize("negative", ["last_positive", "other_document", None])
def test_controls_train_on_the_positives_that_negatives_are_beside(tmp_path, negative):
    rows = [row for doc_id, r, rank, ratio in VERIFIED for row in ((doc_id, r, rank, ratio), (doc_id, r, 1 if r else 2, ratio))]
    filters = Filters(negative_round_trip=8)
    generated, counted = judged(tmp_path / "generated", rows, filters)
    found, counts = judged(tmp_path / "other", rows, filters, negative)
    assert generated.keys() == found.keys() == {"a", "c", "d", "e"}
    assert all([p for p, _ in found[doc_id]] == [p for p, _ in generated[doc_id]] for doc_id in found)
    assert counts["documents_without_negative"] == counted["documents_without_negative"] == 1
    assert found["a"] == [("q0", "q1" if negative == "last_positive" else None)]


def test_a_query_asked_at_0_judges_no_model(tmp_path):
    rows = [row for i in range(20) for row in ((f"t{i}", 1.0, 99, 5.0), (f"t{i}", 0.0, 1, 5.0))]  # turned: its own positive is not found
    rows += [("a", 1.0, 1, 5.0), ("a", 0.0, 1, 5.0)]
    schema = pa.schema([*QUERIES, ("rank", pa.int32()), ("ratio", pa.float32())])
    written = [{**query_row(doc_id, r, f"q{i}", i), "rank": rank, "ratio": ratio} for i, (doc_id, r, rank, ratio) in enumerate(rows)]
    filters = Filters(negative_round_trip=8, unverified="positive", round_trip=5)
    examples, _ = read_examples(open_input(write_folder(tmp_path / "queries", written, schema)), "generated", filters)
    trained, held_out = examples.split(0.5, 100)
    assert [doc_id for _, doc_id in held_out.doc_ids()] == ["a"] and len(trained) == 20
    with pytest.raises(InputError, match="none of them at relevance 1"):
        trained.split(0.5, 100)


def test_without_any_negative_eq_6_is_not_left_out_in_silence(tmp_path):
    rows = [query_row(doc_id, r, f"{r} {doc_id}") for doc_id in DOCUMENTS for r in (1.0, 0.0)]
    config = reranker_config(tmp_path)
    schema = pa.schema([*QUERIES, ("rank", pa.int32()), ("found", pa.list_(pa.string())), ("ratio", pa.float32())])
    queries = write_folder(tmp_path / "judged", [{**row, "rank": 1, "found": [], "ratio": 5.0} for row in rows], schema)
    asked = {"queries": str(queries), "negative_round_trip": 10, "unverified": "drop"}
    with pytest.raises(InputError, match=r"none of 12 documents has a negative .*negatives not verified 12 \(unverified\).*w_mr 0"):
        RerankerTraining(config.model_copy(update=asked))
    RerankerTraining(config.model_copy(update={**asked, "w_mr": 0.0}))


def test_settings_that_lack_what_they_need_are_refused(tmp_path):
    from readqg.config import RerankerSettings

    with pytest.raises(ValueError, match="unverified: drop needs negative_round_trip"):
        RerankerSettings(unverified="drop")
    with pytest.raises(ValueError, match="unverified: positive would make any negative query"):
        RerankerSettings(unverified="positive", negative_round_trip=10)
    with pytest.raises(InputError, match="readqg ratio --queries"):
        RerankerTraining(reranker_config(tmp_path, ratio_min=0.0))


def test_a_run_takes_the_ratio_under_what_the_generator_saw_unless_it_is_told_otherwise(tmp_path):
    run = RunConfig(generate={"document_tokens": 128, "max_new_tokens": 32})
    found = Steps(run, place_of(str(tmp_path))).ratio_settings
    assert (found.document_tokens, found.query_tokens) == (128, 33)
    told = run.model_copy(update={"ratio": RatioSettings(document_tokens=64, batch_tokens=99)})
    found = Steps(told, place_of(str(tmp_path))).ratio_settings
    assert (found.document_tokens, found.query_tokens, found.batch_tokens) == (64, 33, 99)
    assert Steps(RunConfig(), place_of(str(tmp_path))).ratio_settings == RatioSettings()
