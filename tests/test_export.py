"""Every format is read back by the tool it is for, or held against that tool's documented form."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from datasets import Dataset, load_dataset
from sentence_transformers import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss, ListNetLoss

import readqg
from readqg.config import ExportConfig, ImportConfig
from readqg.corpus import import_corpus, read_judgments, read_texts
from readqg.corpus.generated import QUERIES
from readqg.errors import ConfigError, FolderError, InputError
from readqg.exporting import export
from readqg.shards import verify
from tests.builders import tiny_cross_encoder, write_folder
from tests.reranker.corpus import DOCUMENTS, both_queries, query_row, write_documents, write_queries

ROWS = [
    *(row for doc_id in list(DOCUMENTS)[:6] for row in both_queries(doc_id)),
    query_row("d6", 0.5, "half relevant"), query_row("d7", 1.0, None, error="out of memory"), query_row("d8", 1.0, " "),
    query_row("d9", 0.0, "only a negative"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("corpus")
    return {"queries": str(write_queries(root / "queries", ROWS)), "documents": str(write_documents(root / "documents", DOCUMENTS))}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return tiny_cross_encoder(tmp_path_factory.mktemp("start"))


def do(corpus: dict[str, str], out: Path, form: str, **settings: Any) -> dict[str, int]:
    success = export(ExportConfig(**corpus, out=str(out), format=form, **settings))
    assert verify(out) == []
    return success["facts"]


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def train(dataset: Dataset, loss: type, start: Path, out: Path) -> None:
    model = CrossEncoder(str(start), device="cpu", max_length=48)
    arguments = CrossEncoderTrainingArguments(output_dir=str(out), per_device_train_batch_size=4, max_steps=2, report_to=[],
                                              save_strategy="no", use_cpu=True)
    trainer = CrossEncoderTrainer(model=model, args=arguments, train_dataset=dataset, loss=loss(model))
    assert trainer.train().training_loss > 0


@pytest.mark.parametrize(("form", "loss", "columns", "rows"), [
    ("triplets", readqg.RelevanceAwareLoss, ["query", "document", "negative_query"], 6),
    ("pairs", BinaryCrossEntropyLoss, ["query", "document", "label"], 14),
    ("list", ListNetLoss, ["query", "documents", "labels"], 6),
])
def test_cross_encoder_trainer_trains_on_it(tmp_path, corpus, start, form, loss, columns, rows):
    counts = do(corpus, tmp_path / "out", form, negatives=3)
    dataset = load_dataset("json", data_files=str(tmp_path / "out" / "train.jsonl"), cache_dir=str(tmp_path / "cache"), split="train")
    assert (dataset.column_names, dataset.num_rows, counts["rows"]) == (columns, rows, rows)
    train(dataset, loss, start, tmp_path / "model")


def test_triplets_hold_the_queries_of_one_document(tmp_path, corpus):
    counts = do(corpus, tmp_path / "out", "triplets")
    assert lines(tmp_path / "out" / "train.jsonl") == [
        {"query": f"what is number {i}", "document": DOCUMENTS[f"d{i}"], "negative_query": f"is the wing of {i}"} for i in range(6)]
    assert counts["left_out_rows_with_error"] == counts["left_out_rows_with_empty_query"] == 1


def test_triplets_may_take_their_negatives_at_another_r(tmp_path, corpus):
    rows = [query_row("d1", r, query) for r, query in ((1.0, "q"), (0.4, "near"), (0.0, "far"))]
    queries = str(write_queries(tmp_path / "queries", rows))
    do({**corpus, "queries": queries}, tmp_path / "out", "triplets", negative_relevance=0.4)
    assert [row["negative_query"] for row in lines(tmp_path / "out" / "train.jsonl")] == ["near"]


def test_pairs_are_labelled_with_their_relevance(tmp_path, corpus):
    do(corpus, tmp_path / "out", "pairs")
    found = lines(tmp_path / "out" / "train.jsonl")
    assert found[:2] == [{"query": "what is number 0", "document": DOCUMENTS["d0"], "label": 1.0},
                         {"query": "is the wing of 0", "document": DOCUMENTS["d0"], "label": 0.0}]
    assert {row["label"] for row in found} == {0.0, 0.5, 1.0}


def test_lists_put_other_documents_beside_a_query_s_own(tmp_path, corpus):
    counts = do(corpus, tmp_path / "out", "list", negatives=4)
    for i, row in enumerate(lines(tmp_path / "out" / "train.jsonl")):
        assert row["documents"][0] == DOCUMENTS[f"d{i}"] and row["labels"] == [1.0, 0.0, 0.0, 0.0, 0.0]
        assert len(set(row["documents"])) == 5 and set(row["documents"]) <= set(DOCUMENTS.values())
    assert counts["left_out_relevance"] == 8


def test_flagembedding_has_its_documented_form(tmp_path, corpus):
    do(corpus, tmp_path / "out", "flagembedding", negatives=2)
    found = lines(tmp_path / "out" / "train.jsonl")
    assert len(found) == 6
    for row in found:
        assert list(row) == ["query", "pos", "neg"] and isinstance(row["query"], str)
        assert len(row["pos"]) == 1 and len(row["neg"]) == 2 and not set(row["pos"]) & set(row["neg"])
        assert all(isinstance(text, str) and text for text in row["pos"] + row["neg"])


def test_tevatron_has_its_documented_form(tmp_path, corpus):
    do(corpus, tmp_path / "out", "tevatron", negatives=2)
    found = lines(tmp_path / "out" / "train.jsonl")
    assert len({row["query_id"] for row in found}) == 6
    for row in found:
        assert list(row) == ["query_id", "query", "positive_passages", "negative_passages"]
        passages = row["positive_passages"] + row["negative_passages"]
        assert len(passages) == 3 and all(list(p) == ["docid", "title", "text"] for p in passages)
        assert all(p["text"] == DOCUMENTS[p["docid"]] for p in passages) and len({p["docid"] for p in passages}) == 3


def test_beir_is_read_back_as_a_corpus(tmp_path, corpus):
    counts = do(corpus, tmp_path / "out", "beir")
    summary = import_corpus(ImportConfig(source=str(tmp_path / "out"), out=str(tmp_path / "in"), split="train"))
    assert summary.rows == {"documents": 12, "queries": 13, "judgments": 13} and summary.warnings[-1].endswith("(field 'title').")
    judged = read_judgments(tmp_path / "in")
    assert judged["d3-r1-0"] == {"d3": 1} and judged["d3-r0-0"] == {"d3": 0} and judged["d9-r0-0"] == {"d9": 0}
    assert read_texts(tmp_path / "in")["d3-r1-0"] == "what is number 3" and counts["left_out_relevance"] == 1


def test_a_dataset_folder_loads_and_its_card_says_what_binds_it(tmp_path, corpus):
    counts = do({"queries": corpus["queries"]}, tmp_path / "out", "hf-dataset")
    dataset = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert list(dataset) == ["train"] and dataset["train"].num_rows == counts["rows"] == 14
    assert dataset["train"].column_names == ["doc_id", "relevance", "sample", "query", "log_likelihood", "n_tokens"]
    assert dataset["train"][0]["query"] == "what is number 0"
    _, front, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["size_categories"] == ["n<1K"] and [c["config_name"] for c in facts["configs"]] == ["queries"]
    assert "MS MARCO" in text and "non-commercial research" in text and "1 rows with an error, 1 with an empty query" in text
    assert not (tmp_path / "out" / "corpus").exists()


def test_documents_are_in_a_dataset_only_where_they_are_given(tmp_path, corpus):
    do(corpus, tmp_path / "out", "hf-dataset")
    found = load_dataset(str(tmp_path / "out"), "corpus", split="corpus", cache_dir=str(tmp_path / "cache"))
    assert found["doc_id"][:] == list(DOCUMENTS) and found.column_names == ["doc_id", "title", "text"]


def test_the_same_command_does_nothing_and_gives_the_same_bytes_elsewhere(tmp_path, corpus):
    first = do(corpus, tmp_path / "a", "flagembedding")
    written = (tmp_path / "a" / "train.jsonl").stat().st_mtime_ns
    assert do(corpus, tmp_path / "a", "flagembedding") == first and (tmp_path / "a" / "train.jsonl").stat().st_mtime_ns == written
    do(corpus, tmp_path / "b", "flagembedding")
    assert (tmp_path / "a" / "train.jsonl").read_bytes() == (tmp_path / "b" / "train.jsonl").read_bytes()
    do(corpus, tmp_path / "c", "flagembedding", seed=1)
    assert (tmp_path / "a" / "train.jsonl").read_bytes() != (tmp_path / "c" / "train.jsonl").read_bytes()
    with pytest.raises(FolderError, match=r"config\.format"):
        do(corpus, tmp_path / "a", "tevatron")
    assert [p.name for p in (tmp_path / "a").iterdir() if not p.name.startswith("_")] == ["train.jsonl"]


def test_what_cannot_be_exported_is_said(tmp_path, corpus):
    with pytest.raises(ConfigError, match="--format pairs holds the text of documents: name the corpus with --documents"):
        do({"queries": corpus["queries"]}, tmp_path / "out", "pairs")
    for form in ("list", "flagembedding", "tevatron"):
        with pytest.raises(ConfigError, match=f"--format {form} .*--negatives must be 1 or more; found 0"):
            do(corpus, tmp_path / "out", form, negatives=0)
    with pytest.raises(InputError, match="has 12 documents; 12 negatives beside a query's own need 13"):
        do(corpus, tmp_path / "out", "list", negatives=12)
    positives = str(write_queries(tmp_path / "positives", [query_row("d1", 1.0, "a")]))
    with pytest.raises(InputError, match=r"nothing for --format triplets: .*documents without negative 1"):
        do({**corpus, "queries": positives}, tmp_path / "none", "triplets")
    strangers = str(write_queries(tmp_path / "strangers", [query_row("x1", 1.0, "a")]))
    with pytest.raises(InputError, match="has no document 'x1'"):
        do({**corpus, "queries": strangers}, tmp_path / "stranger", "pairs")
    assert not (tmp_path / "stranger" / "train.jsonl").exists()


def test_random_negatives_of_a_large_corpus_come_from_a_part_of_it(tmp_path, monkeypatch):
    from readqg.corpus.rows import SCHEMAS
    from readqg.exporting import rows

    monkeypatch.setattr(rows, "_POOL", 10)
    documents = [{"doc_id": f"d{i}", "title": "", "text": f"text {i}"} for i in range(500)]
    corpus = {"queries": str(write_queries(tmp_path / "queries", [query_row(f"d{i}", 1.0, f"query {i}") for i in range(500)])),
              "documents": str(write_folder(tmp_path / "documents", documents, SCHEMAS["documents"]))}
    do(corpus, tmp_path / "out", "flagembedding", negatives=9)
    found = lines(tmp_path / "out" / "train.jsonl")
    assert len({text for row in found for text in row["neg"]}) == 10 and all(len(set(row["neg"]) - set(row["pos"])) == 9 for row in found)


def test_what_a_round_trip_found_can_be_the_negatives(tmp_path, corpus):
    schema = pa.schema([*QUERIES, ("rank", pa.int32()), ("found", pa.list_(pa.string()))])
    rows = [query_row("d1", 1.0, "a") | {"rank": 1, "found": ["d5", "d3", "d2"]}, query_row("d2", 1.0, "b") | {"rank": 1, "found": []},
            query_row("d3", 1.0, "c") | {"found": None}, query_row("d1", 0.0, "n") | {"found": ["d4"]}]
    trip = {**corpus, "queries": str(write_folder(tmp_path / "trip", rows, schema))}
    counts = do(trip, tmp_path / "out", "tevatron", negatives=2, negatives_from="found")
    assert counts == {"rows": 1, "left_out_no_negative": 2, "left_out_relevance": 1}
    assert do(trip, tmp_path / "flag", "flagembedding", negatives_from="found") == counts
    found = [[p["docid"] for p in row["negative_passages"]] for row in lines(tmp_path / "out" / "train.jsonl")]
    assert found == [["d5", "d3"]]
    assert do(trip, tmp_path / "list", "list", negatives_from="found") == {"rows": 1, "left_out_no_negative": 2, "left_out_relevance": 1}
    with pytest.raises(ConfigError, match="needs what `readqg round-trip` makes of"):
        do(corpus, tmp_path / "none", "list", negatives_from="found")
