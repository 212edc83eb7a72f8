"""Importing: bad lines are set aside and said, nothing is lost in silence, and the same command goes on where it stopped."""

import gzip
import json
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from readqg.config import ImportConfig
from readqg.corpus import Documents, import_corpus
from readqg.corpus.rows import allowed_bad, enough_share
from readqg.errors import FolderError, InputError
from readqg.shards import open_input, verify


def write_lines(path: Path, rows: list) -> Path:
    """JSON lines; a row that is bytes is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return path


def documents(count: int) -> list[dict]:
    return [{"_id": f"d{i}", "title": f"title {i}", "text": f"text {i}"} for i in range(count)]


def beir(folder: Path, judgments: str = "q1\td1\t1\n") -> Path:
    write_lines(folder / "corpus.jsonl", documents(5))
    write_lines(folder / "queries.jsonl", [{"_id": "q1", "text": "a"}, {"_id": "q2", "text": "b"}])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judgments)
    return folder


def do(source: Path, out: Path, **settings):
    return import_corpus(ImportConfig(source=str(source), out=str(out), **settings))


def rejected(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "_rejected.jsonl").read_text().splitlines()]


def test_a_beir_folder_becomes_three_folders(tmp_path):
    summary = do(beir(tmp_path / "in"), tmp_path / "out", shard_rows=2)
    assert summary.rows == {"documents": 5, "queries": 2, "judgments": 1} and summary.warnings == []
    assert summary.as_dict()["documents"] == 5
    for kind, columns in (("documents", ["doc_id", "title", "text"]), ("queries", ["query_id", "text"]),
                          ("judgments", ["query_id", "doc_id", "relevance"])):
        assert open_input(tmp_path / "out" / kind).schema.names == columns
        assert verify(tmp_path / "out" / kind) == []
    parts = sorted((tmp_path / "out" / "documents").glob("part-*"))
    assert [pq.read_metadata(p).num_rows for p in parts] == [2, 2, 1]
    assert not (tmp_path / "out" / "_rejected.jsonl").exists()


def test_queries_and_judgments_are_optional(tmp_path):
    write_lines(tmp_path / "in" / "corpus.jsonl", documents(3))
    assert do(tmp_path / "in", tmp_path / "out").rows == {"documents": 3}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["_import.json", "documents"]


BAD = [
    (b'{"_id": "x", "text": ', "not valid JSON"),
    (b'{"_id": "x", "text": "\xff"}', "not valid UTF-8"),
    (b'["x"]', "a JSON object was expected, found list"),
    (b"[" * 100_000, "not usable JSON"),
    ({"_id": "x", "body": "a"}, "no field text; found: _id, body"),
    ({"text": "a"}, "no field _id or doc_id or id; found: text"),
    ({"_id": 1.5, "text": "a"}, "_id is '1.5' (float); an id must be a string or an integer"),
    ({"_id": True, "text": "a"}, "_id is 'True' (bool)"),
    ({"_id": None, "text": "a"}, "_id is null"),
    ({"_id": "a b", "text": "a"}, "white space"),
    ({"_id": "a\u00a0b", "text": "a"}, "white space"),
    ({"_id": "", "text": "a"}, "must not be empty"),
    ({"_id": "\ud800", "text": "a"}, "half a surrogate pair"),
    ({"_id": "x", "text": ["a"]}, "text is \"['a']\" (list); expected text"),
    ({"_id": "x", "title": 3, "text": "a"}, "title is '3' (int); expected text"),
    ({"_id": "d7", "text": "another"}, "id 'd7' is already on line 8; the first is kept"),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_line_is_set_aside_with_file_line_and_reason(tmp_path, line, reason):
    path = write_lines(tmp_path / "corpus.jsonl", [*documents(150), line, {"_id": "last", "text": "z"}])
    summary = do(path, tmp_path / "out")
    row, = rejected(tmp_path / "out")
    assert row["file"] == str(path) and row["line"] == 151 and reason in row["reason"] and len(row["excerpt"]) <= 200
    assert summary.rows["documents"] == 151 and "1 of 152 lines" in summary.warnings[0] and reason in summary.warnings[0]
    found = Documents.open(tmp_path / "out")
    assert "last" in found and found.texts(["d7"]) == ["title 7 text 7"]


def test_too_many_bad_lines_stop_the_import_with_three_examples(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", [*documents(100), *([b"{"] * 5)])
    with pytest.raises(InputError) as error:
        do(path, tmp_path / "out")
    assert "5 of 105 lines cannot be used" in str(error.value) and "_rejected.jsonl" in str(error.value)
    assert [f"line {n}" in str(error.value) for n in (101, 102, 103, 104)] == [True, True, True, False]
    assert len(rejected(tmp_path / "out")) == 5 and not (tmp_path / "out" / "documents").exists()
    assert do(path, tmp_path / "out", max_rejected_share=0.1).rows == {"documents": 100}


def test_a_bad_line_or_two_of_a_short_file_do_not_stop_the_import_unless_none_may_be_bad(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", [*documents(18), b"{", b"{"])
    assert do(path, tmp_path / "out").rows == {"documents": 18}
    with pytest.raises(InputError, match=r"allow them: --max-rejected-share 0\.1 \(in `readqg run`: --documents\.max-rejected-share\)"):
        do(path, tmp_path / "none", max_rejected_share=0)
    with pytest.raises(InputError, match="2 of 19 lines cannot be used; 1 may be bad"):
        do(write_lines(tmp_path / "shorter.jsonl", [*documents(17), b"{", b"{"]), tmp_path / "shorter", kind="documents")


@given(st.integers(1, 400), st.integers(1, 400))
def test_the_share_that_is_advised_is_enough(bad, good):
    assert allowed_bad(enough_share(bad, bad + good), bad + good, few=0) >= bad


def test_of_judgments_not_even_a_few_may_be_bad(tmp_path):
    with pytest.raises(InputError, match="1 of 21 lines cannot be used; 0 may be bad"):
        do(beir(tmp_path / "in", "".join(f"q1\td{i}\t1\n" for i in range(20)) + "q1\td0\t1\n"), tmp_path / "out")


def test_a_missing_field_names_the_fields_found(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", [{"_id": "1", "body": "a", "headline": "b"}])
    with pytest.raises(InputError, match="no field text; found: _id, body, headline"):
        do(path, tmp_path / "out")
    do(path, tmp_path / "out", text_field="body", title_field="headline")
    assert list(Documents.open(tmp_path / "out")) == [{"doc_id": "1", "title": "b", "text": "a"}]


def test_a_missing_column_is_said_at_once(tmp_path):
    (tmp_path / "corpus.csv").write_text("key,text\n1,a\n")
    with pytest.raises(InputError, match=r"no column for the id \(_id or doc_id or id\)\. Its columns: key, text\..*--id-field"):
        do(tmp_path / "corpus.csv", tmp_path / "out")
    with pytest.raises(InputError, match=r"no column for the title \(headline\).*--title-field"):
        do(tmp_path / "corpus.csv", tmp_path / "out", id_field="key", title_field="headline")
    assert do(tmp_path / "corpus.csv", tmp_path / "out", id_field="key").rows == {"documents": 1}


def test_all_odd_columns_are_said_at_once_with_the_flags_to_use(tmp_path):
    (tmp_path / "corpus.csv").write_text("Document ID,Headline,Body,Year\na,T,some text,1999\n")
    with pytest.raises(InputError) as error:
        do(tmp_path / "corpus.csv", tmp_path / "out")
    assert "no column for the id (_id or doc_id or id) and no column for the text (text)." in str(error.value)
    assert "Its columns: Document ID, Headline, Body, Year." in str(error.value)
    assert "perhaps --id-field 'Document ID' --text-field Body (in `readqg run`: --documents.id-field" in str(error.value)
    summary = do(tmp_path / "corpus.csv", tmp_path / "out", id_field="Document ID", text_field="Body")
    assert "its columns: Document ID, Headline, Body, Year. Name one with --title-field, perhaps Headline." in summary.warnings[0]
    (tmp_path / "untitled.csv").write_text("_id,title,text\na,,some text\n")
    assert do(tmp_path / "untitled.csv", tmp_path / "untitled").warnings[0].endswith("no document has a title (field 'title').")


def test_a_table_without_ids_is_numbered_by_its_lines(tmp_path):
    (tmp_path / "corpus.csv").write_text('text\n"two\nlines"\nb\n')
    with pytest.raises(InputError, match="A table without ids: --id-field @line takes the number of the line"):
        do(tmp_path / "corpus.csv", tmp_path / "out")
    do(tmp_path / "corpus.csv", tmp_path / "out", id_field="@line")
    assert Documents.open(tmp_path / "out").ids == ["2", "4"]


def test_a_csv_of_excel_s_with_semicolons_is_read(tmp_path):
    (tmp_path / "corpus.csv").write_text('_id;title;text\n1;"a; b";one, two\n')
    do(tmp_path / "corpus.csv", tmp_path / "out")
    assert list(Documents.open(tmp_path / "out")) == [{"doc_id": "1", "title": "a; b", "text": "one, two"}]


def test_a_csv_line_with_too_few_fields_is_set_aside(tmp_path):
    (tmp_path / "corpus.csv").write_bytes(b'_id,text\n1,a\n2\n3,"open "quote"\n4,\xff\n5,e\n')
    assert do(tmp_path / "corpus.csv", tmp_path / "out", max_rejected_share=0.7).rows == {"documents": 2}
    assert [(row["line"], row["reason"].split(":")[0]) for row in rejected(tmp_path / "out")] == [
        (3, "1 fields, but the header has 2 (_id, text)"), (4, "not valid CSV"), (5, "not valid UTF-8")]


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_corpus_is_an_error(tmp_path, content):
    (tmp_path / "corpus.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=r"corpus\.jsonl holds no document. The file is empty"):
        do(tmp_path / "corpus.jsonl", tmp_path / "out")
    (tmp_path / "corpus.csv").write_text("_id,text\n")
    with pytest.raises(InputError, match="holds no document"):
        do(tmp_path / "corpus.csv", tmp_path / "out")


def test_empty_queries_are_said_and_do_not_stop_the_documents(tmp_path):
    folder = beir(tmp_path / "in")
    (folder / "queries.jsonl").write_text("")
    summary = do(folder, tmp_path / "out")
    assert summary.rows["queries"] == 0 and "queries.jsonl is empty" in summary.warnings[0]
    assert open_input(tmp_path / "out" / "queries", ("query_id", "text")).rows == 0


def test_documents_without_text_are_kept_counted_and_named(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", [
        {"_id": "1", "title": "", "text": ""}, {"_id": "2", "text": None}, {"_id": "3", "title": "t", "text": ""}])
    summary = do(path, tmp_path / "out")
    assert summary.rows == {"documents": 3} and summary.empty_documents == 2 and summary.titled_documents == 1
    assert "2 documents with no text are kept: 1, 2." in summary.warnings[0]
    assert Documents.open(tmp_path / "out").texts(["1", "2", "3"]) == ["", "", "t"]


def test_a_corpus_with_no_text_at_all_is_an_error(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", [{"_id": "1", "text": ""}, {"_id": "2", "text": " "}])
    with pytest.raises(InputError, match="none of its 2 documents has any text in 'title' or 'text'"):
        do(path, tmp_path / "out")


def test_a_corpus_with_no_titles_is_said(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", [{"_id": "1", "text": "a"}])
    assert "no document has a title" in do(path, tmp_path / "out").warnings[0]


def test_half_surrogates_are_replaced_and_nul_is_removed(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", [b'{"_id": "1", "title": "t", "text": "a\\ud800b\\u0000c\\ud83d\\ude00"}'])
    summary = do(path, tmp_path / "out")
    assert Documents.open(tmp_path / "out").texts(["1"]) == ["t a\ufffdbc\N{GRINNING FACE}"]
    assert summary.mended_texts == 1 and "1 texts held NUL" in summary.warnings[0]


def test_a_document_of_ten_megabytes_is_cut_and_said(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", [{"_id": "big", "title": "t", "text": "word " * 2_000_000}, *documents(2)])
    summary = do(path, tmp_path / "out")
    assert summary.cut_texts == 1 and "1 texts are cut at 1,000,000 characters: big." in summary.warnings[0]
    assert len(Documents.open(tmp_path / "out").table(["big"])["text"][0].as_py()) == 1_000_000


def test_judgments_that_name_strangers_are_kept_and_said(tmp_path):
    summary = do(beir(tmp_path / "in", "q1\td1\t1\nq1\tgone\t1\nq1\taway\t0\nq9\td1\t1\n"), tmp_path / "out")
    assert summary.rows["judgments"] == 4
    documents, queries = summary.warnings
    assert "2 judgments name 2 documents not in corpus.jsonl; they are kept. First: query q1, document gone" in documents
    assert "1 judgments name 1 queries not in queries.jsonl; they are kept. First: query q9" in queries


def test_a_query_and_document_judged_twice_keep_their_first_grade(tmp_path):
    do(beir(tmp_path / "in", "q1\td1\t1\nq1\td1\t2\n"), tmp_path / "out", max_rejected_share=0.5)
    assert open_input(tmp_path / "out" / "judgments").read()["relevance"].to_pylist() == [1]
    assert rejected(tmp_path / "out")[0]["line"] == 3


def test_a_split_that_is_not_there_names_those_that_are(tmp_path):
    with pytest.raises(InputError, match=r"no dev\.tsv; it has: test\. Choose one with --split"):
        do(beir(tmp_path / "in"), tmp_path / "out", split="dev")


def test_a_folder_with_nothing_known_says_what_was_looked_for(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "notes.docx").write_text("x")
    with pytest.raises(InputError, match=r"looked for corpus\.jsonl, corpus\.jsonl\.gz, .*It holds: notes\.docx"):
        do(tmp_path / "in", tmp_path / "out")


@pytest.mark.parametrize("content", [b"\x1f\x8bnonsense", gzip.compress(b'{"_id": "1", "text": "a"}')[:-9]])
def test_a_damaged_gzip_file_is_an_error(tmp_path, content):
    (tmp_path / "corpus.jsonl.gz").write_bytes(content)
    with pytest.raises(InputError, match="gzip file is damaged or cut off"):
        do(tmp_path / "corpus.jsonl.gz", tmp_path / "out")


@pytest.mark.parametrize("name", ["corpus.jsonl.gz", "corpus.csv.gz", "corpus.parquet.gz"])
def test_a_gzip_bomb_is_refused(tmp_path, name):
    with gzip.open(tmp_path / name, "wb", compresslevel=1) as file:
        file.write(b"_id,text\n")
        for _ in range(200):
            file.write(b" " * (1 << 20) + b"\n")
    with pytest.raises(InputError, match="gzip bomb"):
        do(tmp_path / name, tmp_path / "out")


def test_a_file_that_is_no_parquet_is_an_error(tmp_path):
    (tmp_path / "corpus.parquet").write_bytes(b"PAR1 not really PAR1")
    with pytest.raises(InputError, match="not a Parquet file, or damaged"):
        do(tmp_path / "corpus.parquet", tmp_path / "out")


def test_the_same_command_writes_only_what_is_missing(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", documents(25))
    first = do(path, tmp_path / "out", shard_rows=4)
    folder = tmp_path / "out" / "documents"
    parts = sorted(folder.glob("part-*"))
    before = {part.name: part.read_bytes() for part in parts}
    (folder / "_SUCCESS").unlink()
    for gone in (parts[2], parts[6]):
        gone.unlink()
    kept = {part.name: part.stat().st_ino for part in folder.glob("part-*")}
    assert do(path, tmp_path / "out", shard_rows=4) == first
    assert {part.name: part.read_bytes() for part in folder.glob("part-*")} == before
    assert {name: (folder / name).stat().st_ino for name in kept} == kept


def test_a_finished_import_is_not_done_again(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", documents(3))
    first = do(path, tmp_path / "out")
    written = (tmp_path / "out" / "documents" / "_SUCCESS").stat().st_mtime_ns
    time.sleep(0.01)
    assert do(path, tmp_path / "out") == first
    assert (tmp_path / "out" / "documents" / "_SUCCESS").stat().st_mtime_ns == written


def test_a_changed_source_or_setting_is_refused(tmp_path):
    path = write_lines(tmp_path / "corpus.jsonl", documents(3))
    do(path, tmp_path / "out")
    with pytest.raises(FolderError, match=r"config\.max_text_chars: the folder has 1000000, this command 5"):
        do(path, tmp_path / "out", max_text_chars=5)
    write_lines(path, documents(4))
    with pytest.raises(FolderError, match=r"inputs\.source"):
        do(path, tmp_path / "out")


def test_judgments_of_another_corpus_do_not_stay_behind(tmp_path):
    do(beir(tmp_path / "in"), tmp_path / "out")
    with pytest.raises(FolderError, match="holds queries of another import"):
        do(write_lines(tmp_path / "corpus.jsonl", documents(5)), tmp_path / "out")


@pytest.fixture
def unprivileged():
    """A folder that nobody may enter, and a way to be nobody: root may do everything."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        root = os.geteuid() == 0

        @contextmanager
        def nobody():
            os.seteuid(65534 if root else os.geteuid())
            try:
                yield
            finally:
                os.seteuid(0 if root else os.geteuid())

        yield Path(name), nobody


def test_a_file_that_may_not_be_read_is_said(unprivileged):
    folder, nobody = unprivileged
    path = write_lines(folder / "corpus.jsonl", documents(3))
    path.chmod(0)
    (folder / "out").mkdir(mode=0o777)
    with nobody(), pytest.raises(InputError, match=r"corpus\.jsonl: no permission to read it"):
        Documents.open(path)
    with nobody(), pytest.raises(InputError, match=r"corpus\.jsonl: no permission to read it"):
        import_corpus(ImportConfig(source=str(path), out=str(folder / "out")))


def test_an_output_folder_that_may_not_be_written_is_said(unprivileged):
    folder, nobody = unprivileged
    path = write_lines(folder / "corpus.jsonl", documents(3))
    (folder / "out").mkdir(mode=0o555)
    with nobody(), pytest.raises(FolderError, match="No permission"):
        do(path, folder / "out")


def test_documents_and_queries_can_be_single_files_of_any_name(tmp_path):
    write_lines(tmp_path / "mine.jsonl", [{"qid": "1", "query": "a"}])
    summary = do(tmp_path / "mine.jsonl", tmp_path / "out", kind="queries", id_field="qid", text_field="query")
    assert summary.rows == {"queries": 1}
    assert do(write_lines(tmp_path / "queries.jsonl", [{"_id": "1", "text": "a"}]), tmp_path / "two").rows == {"queries": 1}
