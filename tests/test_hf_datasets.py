"""Folders of Hugging Face datasets, written by `datasets` itself, and collections of ir_datasets."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from readqg.config import ImportConfig
from readqg.corpus import Documents, import_corpus, input_fingerprint, read_judgments, read_texts
from readqg.errors import ConfigError, InputError

ROWS = {"_id": ["1", "2", "3"], "title": ["a", "b", ""], "text": ["one", "two", "three"]}
EXPECTED = [{"doc_id": "1", "title": "a", "text": "one"}, {"doc_id": "2", "title": "b", "text": "two"},
            {"doc_id": "3", "title": "", "text": "three"}]


def do(source: Path | str, out: Path, **settings):
    return import_corpus(ImportConfig(source=str(source), out=str(out), **settings))


def parquet(path: Path, columns: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)


@pytest.mark.parametrize("shards", [1, 2])
def test_what_save_to_disk_wrote_is_a_corpus(tmp_path, shards):
    Dataset.from_dict(ROWS).save_to_disk(tmp_path / "in", num_shards=shards)
    assert do(tmp_path / "in", tmp_path / "out").rows == {"documents": 3}
    assert list(Documents.open(tmp_path / "out")) == list(Documents.open(tmp_path / "in")) == EXPECTED


def test_rows_that_were_chosen_and_sorted_come_in_their_order(tmp_path):
    Dataset.from_dict(ROWS).select([2, 0]).save_to_disk(tmp_path / "in")
    do(tmp_path / "in", tmp_path / "out")
    assert Documents.open(tmp_path / "out").ids == ["3", "1"]


def test_of_several_splits_one_is_chosen(tmp_path):
    splits = {"train": Dataset.from_dict(ROWS), "validation": Dataset.from_dict(ROWS).select([1])}
    DatasetDict(splits).save_to_disk(tmp_path / "in")
    with pytest.raises(InputError, match=r"several splits: train, validation\. .*--dataset-split NAME"):
        do(tmp_path / "in", tmp_path / "out")
    with pytest.raises(InputError, match="there is no 'test'"):
        do(tmp_path / "in", tmp_path / "out", dataset_split="test")
    assert do(tmp_path / "in", tmp_path / "out", dataset_split="validation").rows == {"documents": 1}
    assert do(tmp_path / "in" / "train", tmp_path / "one").rows == {"documents": 3}


def test_a_corpus_and_its_queries_are_known_by_their_names(tmp_path):
    queries = Dataset.from_dict({"_id": ["q1"], "text": ["what"]})
    DatasetDict({"corpus": Dataset.from_dict(ROWS), "queries": queries}).save_to_disk(tmp_path / "in")
    assert do(tmp_path / "in", tmp_path / "out").rows == {"documents": 3, "queries": 1}
    assert read_texts(tmp_path / "out") == read_texts(tmp_path / "in") == {"q1": "what"}


def test_parquet_as_the_hub_lays_it_is_read_in_the_order_of_its_shards(tmp_path):
    for number in range(3):
        parquet(tmp_path / "in" / "data" / f"train-{number:05d}-of-00003.parquet", {k: [v[number]] for k, v in ROWS.items()})
    (tmp_path / "in" / "README.md").write_text("# card")
    assert do(tmp_path / "in", tmp_path / "out").warnings == []
    assert list(Documents.open(tmp_path / "out")) == EXPECTED


def test_beir_in_parquet_becomes_documents_queries_and_judgments(tmp_path):
    parquet(tmp_path / "in" / "corpus" / "corpus-00000-of-00001.parquet", ROWS)
    parquet(tmp_path / "in" / "queries" / "queries-00000-of-00001.parquet", {"_id": ["q1"], "text": ["what"]})
    for split in ("train", "test"):
        judged = {"query-id": ["q1"], "corpus-id": ["1" if split == "train" else "2"], "score": [1]}
        parquet(tmp_path / "in" / "default" / f"{split}-00000-of-00001.parquet", judged)
    assert do(tmp_path / "in", tmp_path / "out").rows == {"documents": 3, "queries": 1, "judgments": 1}
    assert read_judgments(tmp_path / "out") == {"q1": {"2": 1}}


def test_a_bad_row_is_set_aside_with_its_file_and_row(tmp_path):
    Dataset.from_dict(ROWS | {"_id": ["1", "two words", "3"]}).save_to_disk(tmp_path / "in", num_shards=2)
    summary = do(tmp_path / "in", tmp_path / "out", max_rejected_share=0.5)
    assert summary.rows == {"documents": 2} and "data-00000-of-00002.arrow, row 2: _id is 'two words'" in summary.warnings[0]


def test_a_column_that_is_not_there_is_said_with_those_that_are(tmp_path):
    Dataset.from_dict({"key": ["1"], "body": ["x"]}).save_to_disk(tmp_path / "in")
    with pytest.raises(InputError, match=r"Its columns: key, body.*perhaps --id-field key --text-field body"):
        do(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_a_damaged_folder_is_an_error_that_names_the_file(tmp_path, harm):
    Dataset.from_dict({"_id": [str(i) for i in range(5000)], "text": ["x" * 50] * 5000}).save_to_disk(tmp_path / "in")
    file = tmp_path / "in" / "data-00000-of-00001.arrow"
    if harm == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:20_000])
    with pytest.raises(InputError, match=r"data-00000-of-00001\.arrow"):
        do(tmp_path / "in", tmp_path / "out")


def test_a_changed_split_has_another_fingerprint(tmp_path):
    parquet(tmp_path / "in" / "a.parquet", ROWS)
    before = input_fingerprint(tmp_path / "in", "documents")
    parquet(tmp_path / "in" / "a.parquet", ROWS | {"text": ["x", "y", "z"]})
    assert input_fingerprint(tmp_path / "in", "documents") != before


class Stand(SimpleNamespace):
    """A collection as ir_datasets has them."""

    def has_docs(self):
        return True

    def has_queries(self):
        return True

    def has_qrels(self):
        return True

    def docs_iter(self):
        yield SimpleNamespace(doc_id="1", title="a", text="one", url="u")
        yield SimpleNamespace(doc_id="2", headline="b", default_text=lambda: "b two")

    def queries_iter(self):
        yield SimpleNamespace(query_id="q1", title="what", description="long")

    def qrels_iter(self):
        yield SimpleNamespace(query_id="q1", doc_id="2", relevance=2, iteration="0")


def test_a_collection_of_ir_datasets_is_imported_whole(tmp_path, monkeypatch):
    module = ModuleType("ir_datasets")
    module.load = {"mine/test": Stand()}.__getitem__
    monkeypatch.setitem(sys.modules, "ir_datasets", module)
    assert do("irds:mine/test", tmp_path / "out").rows == {"documents": 2, "queries": 1, "judgments": 1}
    assert [row["text"] for row in Documents.open(tmp_path / "out")] == ["one", "b two"]
    assert read_texts(tmp_path / "out") == {"q1": "what"} and read_judgments(tmp_path / "out") == {"q1": {"2": 2}}
    with pytest.raises(InputError, match="irds:other: ir_datasets has no 'other'"):
        do("irds:other", tmp_path / "other")


def test_without_ir_datasets_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(ConfigError, match=r"pip install 'readqg\[ir-datasets\]'"):
        do("irds:beir/scifact/test", tmp_path / "out")


def test_the_real_ir_datasets_gives_what_it_holds(tmp_path):
    ir_datasets = pytest.importorskip("ir_datasets")
    (tmp_path / "docs.tsv").write_text("d1\tone text\nd2\ttwo text\n")
    (tmp_path / "queries.tsv").write_text("q1\twhat\n")
    (tmp_path / "qrels").write_text("q1 0 d2 1\n")
    made = ir_datasets.create_dataset(docs_tsv=str(tmp_path / "docs.tsv"), queries_tsv=str(tmp_path / "queries.tsv"),
                                      qrels_trec=str(tmp_path / "qrels"))
    ir_datasets.registry.register("readqg-test", made)
    assert do("irds:readqg-test", tmp_path / "out").rows == {"documents": 2, "queries": 1, "judgments": 1}
    assert Documents.open(tmp_path / "out").texts(["d2"]) == ["two text"]
