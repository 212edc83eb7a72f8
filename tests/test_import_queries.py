"""Queries made elsewhere become a folder that the re-ranker's training reads."""

import gzip
import json
from pathlib import Path

import pytest

from readqg.config import ImportQueriesConfig, TrainRerankerConfig
from readqg.corpus.generated import QUERIES, import_queries
from readqg.errors import FolderError, InputError
from readqg.reranker.sampling import read_examples
from readqg.reranker.training import RerankerTraining
from readqg.shards import open_input, verify
from tests.builders import tiny_cross_encoder
from tests.reranker.corpus import DOCUMENTS, write_documents


def do(source: Path, out: Path, **settings):
    return import_queries(ImportQueriesConfig(source=str(source), out=str(out), **settings))


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(out: Path) -> list[tuple]:
    table = open_input(out).read()
    assert table.schema == QUERIES and table["log_likelihood"].null_count == table["error"].null_count == table.num_rows
    return [(r["doc_id"], round(r["relevance"], 6), r["sample"], r["query"]) for r in table.to_pylist()]


def gpl(folder: Path, judgments: str = "g1\td1\t1\ng2\td1\t1\ng3\td0\t1\n") -> Path:
    write_lines(folder / "qgen-queries.jsonl", [{"_id": f"g{i}", "text": f"question {i}", "metadata": {}} for i in range(1, 4)])
    (folder / "qgen-qrels").mkdir()
    (folder / "qgen-qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgments)
    return folder


def test_inpars_lines_are_positives_in_the_order_of_the_corpus(tmp_path):
    source = write_lines(tmp_path / "inpars.jsonl", [
        {"query": "second", "log_probs": [-0.5], "prompt_text": "...", "doc_id": "d2", "doc_text": DOCUMENTS["d2"], "fewshot_examples": []},
        {"query": "  first\nof two ", "doc_id": "d1", "doc_text": DOCUMENTS["d1"]}, {"query": "another", "doc_id": "d1"}])
    documents = write_documents(tmp_path / "documents", DOCUMENTS)
    success = do(source, tmp_path / "out", documents=str(documents), shard_rows=2)
    assert rows(tmp_path / "out") == [("d1", 1.0, 0, "first of two"), ("d1", 1.0, 1, "another"), ("d2", 1.0, 0, "second")]
    assert success["counts"]["positives"] == 3 and success["counts"]["negatives"] == 0
    assert verify(tmp_path / "out") == [] and do(source, tmp_path / "out", documents=str(documents), shard_rows=2) == success


def test_a_document_may_be_named_by_its_text(tmp_path):
    source = write_lines(tmp_path / "q.jsonl", [{"query": "a", "doc_text": f" {DOCUMENTS['d3']}\n"}, {"query": "b", "doc_text": "unknown"}])
    documents = write_documents(tmp_path / "documents", DOCUMENTS)
    with pytest.raises(InputError, match="no id: give the corpus with --documents"):
        do(source, tmp_path / "out")
    do(source, tmp_path / "out", documents=str(documents), max_rejected_share=0.5)
    assert rows(tmp_path / "out") == [("d3", 1.0, 0, "a")]


def test_gpl_s_folder_is_read_and_goes_before_the_corpus_s_own_queries(tmp_path):
    folder = gpl(tmp_path / "in")
    write_lines(folder / "queries.jsonl", [{"_id": "h1", "text": "a person's"}])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nh1\td1\t1\n")
    do(folder, tmp_path / "out")
    assert rows(tmp_path / "out") == [("d1", 1.0, 0, "question 1"), ("d1", 1.0, 1, "question 2"), ("d0", 1.0, 0, "question 3")]
    do(folder / "qgen-queries.jsonl", tmp_path / "file")
    assert rows(tmp_path / "file") == rows(tmp_path / "out")
    do(folder / "queries.jsonl", tmp_path / "own")
    assert rows(tmp_path / "own") == [("d1", 1.0, 0, "a person's")]


def test_a_judgment_of_a_query_that_is_not_there_is_set_aside(tmp_path):
    folder = gpl(tmp_path / "in", "g1\td1\t1\ng9\td1\t1\ng2\td1\t0\n")
    do(folder, tmp_path / "out", max_rejected_share=0.4)
    rejected = [json.loads(line) for line in (tmp_path / "out" / "_rejected.jsonl").read_text().splitlines()]
    assert [(Path(r["file"]).name, r["line"]) for r in rejected] == [("train.tsv", 3)] and "'g9' is not in" in rejected[0]["reason"]
    assert rows(tmp_path / "out") == [("d1", 1.0, 0, "question 1"), ("d1", 0.0, 0, "question 2")]


def test_a_folder_with_none_or_several_makers_is_an_error(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"looked for PREFIX-queries\.jsonl beside PREFIX-qrels/train\.tsv"):
        do(tmp_path / "none", tmp_path / "out")
    folder = gpl(tmp_path / "in")
    (folder / "other-queries.jsonl").write_text("")
    (folder / "other-qrels").mkdir()
    (folder / "other-qrels" / "train.tsv").write_text("")
    with pytest.raises(InputError, match=r"several makers: other-queries\.jsonl, qgen-queries\.jsonl"):
        do(folder, tmp_path / "out")


def test_relevance_samples_lists_and_repetitions(tmp_path):
    lines = [{"doc_id": "x", "query": ["a", "b", "A "], "relevance": 0}, {"doc_id": "x", "query": "c"},
             {"doc_id": 7, "query": "d", "relevance": "0.3"}]
    path = tmp_path / "q.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    do(path, tmp_path / "out")
    assert rows(tmp_path / "out") == [("x", 1.0, 0, "c"), ("x", 0.0, 0, "a"), ("x", 0.0, 1, "b"), ("7", 0.3, 0, "d")]


@pytest.mark.parametrize(("line", "reason"), [
    ({"doc_id": "d1", "query": " "}, "query is ' '; expected a text that is not empty"),
    ({"doc_id": "d1", "query": None}, "query is 'None'; expected a text"),
    ({"doc_id": "d1", "query": []}, "query is '[]'; expected a text"),
    ({"doc_id": "d1", "q": "x"}, "no field query or question or generated_query or queries; found: doc_id, q"),
    ({"query": "x"}, "no field doc_id or docid"),
    ({"doc_id": "d1", "query": "x", "relevance": 2}, "relevance is '2'; expected a number from 0 to 1"),
    ({"doc_id": "d1", "query": "x", "relevance": "high"}, "relevance is 'high'"),
    ({"doc_id": "stranger", "query": "x"}, "has no document 'stranger'"),
])
def test_a_bad_line_is_set_aside_with_line_and_reason(tmp_path, line, reason):
    source = write_lines(tmp_path / "q.jsonl", [{"doc_id": "d1", "query": "good"}, line])
    documents = write_documents(tmp_path / "documents", DOCUMENTS)
    with pytest.raises(InputError) as error:
        do(source, tmp_path / "out", documents=str(documents))
    assert "1 of 2 lines cannot be used" in str(error.value) and f"line 2: {reason}" in str(error.value).replace(str(documents) + " ", "")
    do(source, tmp_path / "out", documents=str(documents), max_rejected_share=0.5)
    assert rows(tmp_path / "out") == [("d1", 1.0, 0, "good")]


def test_other_field_names_and_a_changed_source(tmp_path):
    (tmp_path / "q.csv").write_text("passage,ask,r\nd1,what,0.5\n")
    names = {"doc_field": "passage", "query_field": "ask", "relevance_field": "r"}
    do(tmp_path / "q.csv", tmp_path / "out", **names)
    assert rows(tmp_path / "out") == [("d1", 0.5, 0, "what")]
    (tmp_path / "q.csv").write_text("passage,ask,r\nd1,where,0.5\n")
    with pytest.raises(FolderError, match=r"inputs\.source"):
        do(tmp_path / "q.csv", tmp_path / "out", **names)


def test_an_empty_source_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"q\.jsonl holds no query"):
        do(write_lines(tmp_path / "q.jsonl", []), tmp_path / "out")


def test_training_reads_them_with_positives_only(tmp_path, caplog):
    source = write_lines(tmp_path / "q.jsonl", [{"doc_id": i, "query": f"about {i}"} for i in DOCUMENTS])
    documents = write_documents(tmp_path / "documents", DOCUMENTS)
    do(source, tmp_path / "out", documents=str(documents))
    assert "--w-mr 0" in caplog.text
    examples, _ = read_examples(open_input(tmp_path / "out"), negative=None)
    assert len(examples) == len(DOCUMENTS)
    stage = RerankerTraining(TrainRerankerConfig(
        queries=str(tmp_path / "out"), documents=str(documents), out=str(tmp_path / "model"),
        start=str(tiny_cross_encoder(tmp_path / "start")), batch=4, max_length=48, w_mr=0, compute={"device": "cpu", "precision": "fp32"}))
    loss, measured = stage.loss(stage.build(), stage.batch(0))
    assert loss.item() > 0 and "mr" not in measured
