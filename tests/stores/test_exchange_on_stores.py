"""Text files, datasets and queries made elsewhere from a bucket, and exports into one: the same bytes as on a file system."""

import json

from datasets import Dataset

from readqg import api
from readqg import config as c
from readqg.shards import verify
from tests.text_samples import pdf_bytes

FOLDERS = ("texts/documents", "dataset/documents", "queries", "pairs", "beir", "hf")


def run_all(base, out):
    api.import_corpus(c.ImportConfig(source=str(base / "texts"), out=str(out / "texts")))
    api.import_corpus(c.ImportConfig(source=str(base / "dataset"), out=str(out / "dataset")))
    documents, queries = str(out / "texts" / "documents"), str(out / "queries")
    api.import_queries(c.ImportQueriesConfig(source=str(base / "gpl"), documents=documents, out=queries))
    for folder, form in (("pairs", "pairs"), ("beir", "beir"), ("hf", "hf-dataset")):
        api.export(c.ExportConfig(queries=queries, documents=documents, out=str(out / folder), format=form))


def content(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    named = {str(path).removeprefix(str(folder)): path for path in files}
    return {name: path.read_bytes() for name, path in named.items() if "/_" not in name}


def test_what_goes_in_and_out_of_a_bucket_is_what_goes_in_and_out_of_a_disk(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base = tmp_path / "in"
    (base / "texts" / "sub").mkdir(parents=True)
    (base / "texts" / "sub" / "a b.md").write_text("# Title\n\nSome text.")
    (base / "texts" / "b.pdf").write_bytes(pdf_bytes(["one", "two"]))
    Dataset.from_dict({"_id": ["1", "2"], "text": ["x", "y"]}).save_to_disk(base / "dataset", num_shards=2)
    (base / "gpl" / "qgen-qrels").mkdir(parents=True)
    (base / "gpl" / "qgen-queries.jsonl").write_text(json.dumps({"_id": "q1", "text": "what"}) + "\n")
    (base / "gpl" / "qgen-qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tb.pdf#1\t1\n")
    for file in sorted(path for path in base.rglob("*") if path.is_file()):
        (bucket / "exchange" / file.relative_to(base).as_posix()).upload(file)
    run_all(bucket / "exchange", bucket / "exchanged")
    run_all(base, tmp_path / "out")
    for name in FOLDERS:
        expected = content(tmp_path / "out" / name)
        assert expected and content(bucket / "exchanged" / name) == expected, name
        assert verify(bucket / "exchanged" / name) == []
