"""Reading documents, queries and judgments: every format gives back what was written, and bad lines are said."""

import csv
import gzip
import io
import json
import os
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from readqg.config import ImportConfig
from readqg.corpus import Documents, document_text, import_corpus, input_fingerprint, read_judgments, read_texts, subset
from readqg.errors import InputError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
IDS = TEXT.map(lambda s: "".join(s.split())[:8]).filter(bool)
CORPORA = st.lists(
    st.fixed_dictionaries({"_id": IDS, "title": TEXT, "text": TEXT}), min_size=1, max_size=6, unique_by=lambda d: d["_id"]
)


def encode(rows: list[dict], suffix: str) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".jsonl":
        return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), buffer)
        return buffer.getvalue()
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def write(path: Path, rows: list[dict]) -> Path:
    """Rows in the format that the suffix names."""
    gzipped = path.suffix == ".gz"
    content = encode(rows, path.with_suffix("").suffix if gzipped else path.suffix)
    path.write_bytes(gzip.compress(content) if gzipped else content)
    return path


def documents(count: int) -> list[dict]:
    return [{"_id": f"d{i}", "title": f"title {i}", "text": f"text {i}"} for i in range(count)]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".tsv", ".parquet"])
@pytest.mark.parametrize("gz", ["", ".gz"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10, deadline=None)
@given(rows=CORPORA)
def test_any_text_comes_back_as_it_was_written(tmp_path, suffix, gz, rows):
    if suffix == ".tsv":
        rows = [{name: value.replace("\t", " ") for name, value in row.items()} for row in rows]
    path = write(tmp_path / f"corpus{suffix}{gz}", rows)
    expected = [{"doc_id": r["_id"], "title": r["title"], "text": r["text"]} for r in rows]
    if not any(document_text(r["title"], r["text"]) for r in rows):
        return
    assert list(Documents.open(path)) == expected
    out = tmp_path / f"out-{len(list(tmp_path.iterdir()))}"
    import_corpus(ImportConfig(source=str(path), out=str(out), shard_rows=2))
    assert list(Documents.open(out)) == expected


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_an_unquoted_tsv_keeps_its_odd_quotes(tmp_path, line_end):
    path = tmp_path / "collection.tsv"
    lines = ["id\ttitle\ttext", '1\t\t"Hello he said', '2\t\tshe replied yes"', '3\t"a" b\tc', '4\t"quoted"\tplain']
    path.write_bytes(line_end.join([*lines, ""]).encode())
    texts = [(d["title"], d["text"]) for d in Documents.open(path)]
    assert texts == [("", '"Hello he said'), ("", 'she replied yes"'), ('"a" b', "c"), ("quoted", "plain")]


def test_a_quoted_tsv_keeps_its_tabs_and_line_breaks(tmp_path):
    path = tmp_path / "corpus.tsv"
    path.write_text('id\ttext\n1\t"two\nlines, \ttabs\t and ""quotes"""\n2\tplain\n')
    assert [d["text"] for d in Documents.open(path)] == ['two\nlines, \ttabs\t and "quotes"', "plain"]


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    (tmp_path / "a.csv").write_bytes("﻿doc_id,text\n1,x\n".encode())
    (tmp_path / "b.jsonl").write_bytes("﻿".encode() + b'{"_id": "1", "text": "x"}\n')
    assert Documents.open(tmp_path / "a.csv").ids == Documents.open(tmp_path / "b.jsonl").ids == ["1"]


def test_integer_ids_become_strings(tmp_path):
    path = write(tmp_path / "corpus.parquet", [{"_id": 7, "text": "x"}])
    assert Documents.open(path).ids == ["7"]


def test_texts_come_in_the_order_asked_from_parts_and_from_memory(tmp_path):
    raw = write(tmp_path / "corpus.jsonl", documents(50))
    import_corpus(ImportConfig(source=str(raw), out=str(tmp_path / "out"), shard_rows=4))
    asked = ["d31", "d2", "d31", "d0", "d49"]
    expected = ["title 31 text 31", "title 2 text 2", "title 31 text 31", "title 0 text 0", "title 49 text 49"]
    for found in (Documents.open(raw), Documents.open(tmp_path / "out"), Documents.open(tmp_path / "out" / "documents")):
        assert found.texts(asked) == expected
        assert found.table([]).num_rows == 0
        assert (len(found), found.rows, "d7" in found, "d50" in found) == (50, 50, True, False)


@given(ids=st.lists(IDS, min_size=1, max_size=30, unique=True), data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_every_id_finds_its_own_document(tmp_path, ids, data):
    path = write(tmp_path / "corpus.jsonl", [{"_id": i, "text": f"text of {i}"} for i in ids])
    found = Documents.open(path)
    asked = data.draw(st.lists(st.sampled_from(ids), max_size=10))
    assert found.texts(asked) == [f"text of {i}" for i in asked]
    assert "no such" not in found


def test_an_unknown_id_is_named(tmp_path):
    found = Documents.open(write(tmp_path / "corpus.jsonl", documents(3)))
    with pytest.raises(InputError, match=r"no document 'x' \(and 1 more\)"):
        found.texts(["d1", "x", "y"])


def test_documents_travel_as_their_path_and_open_once_a_process(tmp_path):
    found = Documents.open(write(tmp_path / "corpus.jsonl", documents(1000)))
    packed = pickle.dumps(found)
    assert len(packed) < 500
    assert pickle.loads(packed).texts(["d999"]) == found.texts(["d999"])
    assert Documents.open(tmp_path / "corpus.jsonl") is found


def test_a_changed_file_is_read_anew(tmp_path):
    path = write(tmp_path / "corpus.jsonl", documents(2))
    before = Documents.open(path)
    write(path, documents(3))
    os.utime(path, ns=(1, 1))
    after = Documents.open(path)
    assert (len(before), len(after)) == (2, 3) and before.fingerprint != after.fingerprint


def test_a_fingerprint_follows_the_content(tmp_path):
    a, b = write(tmp_path / "a.jsonl", documents(2)), write(tmp_path / "b.jsonl", documents(2))
    assert input_fingerprint(a, "documents") == input_fingerprint(b, "documents") == Documents.open(a).fingerprint
    assert input_fingerprint(write(b, documents(3)), "documents") != input_fingerprint(a, "documents")


def test_queries_and_judgments_of_a_beir_folder(tmp_path):
    write(tmp_path / "queries.jsonl", [{"_id": "q2", "text": "b"}, {"_id": "q1", "text": "a"}])
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_bytes(b"query-id\tcorpus-id\tscore\r\nq1\td1\t2\r\nq1\td2\t0\r\n")
    (tmp_path / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq2\td1\t1\n")
    assert list(read_texts(tmp_path).items()) == [("q2", "b"), ("q1", "a")]
    assert read_judgments(tmp_path) == {"q1": {"d1": 2, "d2": 0}}
    assert read_judgments(tmp_path, "dev") == {"q2": {"d1": 1}}
    with pytest.raises(InputError, match=r"no documents: looked for corpus\.jsonl.*It holds: qrels, queries\.jsonl"):
        Documents.open(tmp_path)


@pytest.mark.parametrize(("name", "content"), [
    ("qrels.txt", "q1 0 d1 2\nq1 0 d2 -1\n"),
    ("test.tsv", "q1\td1\t2.0\nq1\td2\t-1\n"),
    ("judgments.csv", "query_id,doc_id,relevance\nq1,d1,2\nq1,d2,-1\n"),
    ("qrels.jsonl", '{"query-id": "q1", "corpus-id": "d1", "score": 2}\n{"query-id": "q1", "corpus-id": "d2", "score": -1}\n'),
])
def test_judgments_are_read_in_trec_and_beir_form(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_judgments(tmp_path / name) == {"q1": {"d1": 2, "d2": -1}}


@pytest.mark.parametrize(("line", "reason"), [
    ("q 1\td1\t1", "'q 1'.*white space"),
    ("q1\td1\tgood", "'good'.*a grade must be an integer"),
    ("q1\td1\t0.5", "a grade must be an integer"),
    ("q1\td1\tnan", "a grade must be an integer"),
    ("q1\td1", "2 columns; expected 3"),
])
def test_a_bad_judgment_is_said_with_file_and_line(tmp_path, line, reason):
    path = tmp_path / "test.tsv"
    path.write_text(f"query-id\tcorpus-id\tscore\nq0\td0\t1\n{line}\n")
    with pytest.raises(InputError, match=rf"test\.tsv, line 3: .*{reason}"):
        read_judgments(path)


def test_a_bad_line_of_a_raw_file_is_an_error_that_points_to_import(tmp_path):
    path = tmp_path / "queries.jsonl"
    path.write_text('{"_id": "1", "text": "a"}\n{"_id": "2"}\n')
    with pytest.raises(InputError, match=r"line 2: no field text; found: _id.*readqg import"):
        read_texts(path)


def test_files_that_cannot_be_opened_say_so(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        read_texts(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="unknown kind of file"):
        Documents.open(write(tmp_path / "corpus.jsonl", documents(1)).rename(tmp_path / "corpus.docx"))


def test_a_subset_is_drawn_by_id_alone_and_keeps_the_order():
    ids = [f"d{i}" for i in range(100)]
    drawn = subset(ids, 10)
    assert len(drawn) == 10 and drawn == [i for i in ids if i in drawn]
    assert set(subset(ids[::-1], 10)) == set(drawn) and set(subset(ids, 5)) < set(drawn)
    assert subset(ids, None) == subset(ids, 100) == ids and drawn != ids[:10]


def test_a_document_is_its_title_and_its_text():
    pairs = [("a", "b"), ("", "b"), ("a", ""), ("", "")]
    assert [document_text(title, text) for title, text in pairs] == ["a b", "b", "a", ""]


@pytest.mark.real
def test_real_collections_come_whole(shared, tmp_path):
    counts = {
        "scifact": (5183, 1109, 339), "nfcorpus": (3633, 3237, 12334),
        "arguana": (8674, 1406, 1406), "cranfield": (1400, 225, 1837),
    }
    for name, expected in counts.items():
        source, out = shared / "data" / name, tmp_path / name
        summary = import_corpus(ImportConfig(source=str(source), out=str(out)))
        assert tuple(summary.rows[kind] for kind in ("documents", "queries", "judgments")) == expected
        assert not any(summary.rejected.values())
        assert list(Documents.open(out)) == list(Documents.open(source))
        assert read_texts(out) == read_texts(source) and read_judgments(out) == read_judgments(source)
        assert summary.empty_documents == (2 if name == "cranfield" else 0)
