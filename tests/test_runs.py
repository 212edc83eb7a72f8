"""TREC runs in and out, run folders, and the order of a ranking."""

import errno
import gzip
import logging
import os

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from readqg.errors import FolderError, InputError
from readqg.runs import (
    ranked,
    read_queries_beside,
    read_run,
    read_trec,
    write_queries_beside,
    write_trec,
    write_trec_beside,
)
from readqg.shards import OutputFolder
from readqg.stage import ShardResult

RUN = {"q2": {"a": 0.1, "b": 2.5, "c": 0.1}, "q1": {"d": -1.0}}
IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=" \t\n\r\v\f"), min_size=1, max_size=8)
SCORES = st.floats(allow_nan=False, allow_infinity=False)


def _run_folder(path, rows):
    columns = {name: [row[i] for row in rows] for i, name in enumerate(("query_id", "doc_id", "score", "error"))}
    schema = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("score", pa.float32()), ("error", pa.string())])
    folder = OutputFolder.begin(path, "rank", {})
    for index, start in enumerate(range(0, len(rows), 2)):
        table = pa.table(columns, schema).slice(start, 2)
        folder.commit(index, -(-len(rows) // 2), ShardResult(table, table.num_rows, 0, 0))
    folder.finish(-(-len(rows) // 2))
    return path


def test_ties_go_to_the_higher_doc_id():
    assert [doc_id for doc_id, _ in ranked(RUN["q2"])] == ["b", "c", "a"]


def test_scores_equal_as_32_bit_floats_are_ties_as_trec_eval_has_them():
    assert ranked({"a": 1.0 + 1e-12, "b": 1.0}) == [("b", 1.0), ("a", 1.0 + 1e-12)]


def test_doc_ids_are_compared_as_text_by_code_point():
    assert [doc_id for doc_id, _ in ranked(dict.fromkeys(["10", "9", "é", "z", "\U0001f600", "\uffee"], 0.0))] == [
        "\U0001f600", "\uffee", "é", "z", "9", "10"]


def test_a_written_run_is_the_six_columns_of_trec_in_order(tmp_path):
    write_trec(tmp_path / "a.trec", RUN, "bm25")
    assert (tmp_path / "a.trec").read_text().splitlines() == [
        "q2 Q0 b 1 2.5 bm25", "q2 Q0 c 2 0.1 bm25", "q2 Q0 a 3 0.1 bm25", "q1 Q0 d 1 -1.0 bm25"]


@given(st.dictionaries(IDS, st.dictionaries(IDS, SCORES, min_size=1, max_size=6), min_size=1, max_size=4))
def test_what_is_written_is_read_back_to_the_bit(tmp_path_factory, run):
    folder = tmp_path_factory.mktemp("runs")
    for name in ("run.trec", "run.trec.gz"):
        write_trec(folder / name, run)
        assert read_run(folder / name) == run
        assert list(read_run(folder / name)) == list(run)


def test_gzip_is_told_by_its_content_and_equal_runs_are_equal_files(tmp_path):
    for name in ("a.trec.gz", "b.trec.gz"):
        write_trec(tmp_path / name, RUN)
    assert (tmp_path / "a.trec.gz").read_bytes() == (tmp_path / "b.trec.gz").read_bytes()
    (tmp_path / "c").write_bytes((tmp_path / "a.trec.gz").read_bytes())
    assert read_trec(tmp_path / "c") == RUN
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.trec.gz", "b.trec.gz", "c"]


def test_tabs_blank_lines_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffq\tQ0\td\u00a01\t1\t3e-1\tt\r\n\r\nq Q0 d2 2 1 t\r\n".encode())
    assert read_trec(tmp_path / "a") == {"q": {"d\u00a01": 0.3, "d2": 1.0}}


@pytest.mark.parametrize(("content", "told"), [
    (b"q Q0 d 1 2.0 t\nq Q0 e 2 1.5\n", "line 2: 5 columns"),
    (b"q 0 d 1\n", "line 1: 4 columns"),
    (b"q Q0 d 1 high t\n", "line 1: the score .* 'high'"),
    (b"q Q0 d 1 nan t\n", "line 1: the score .* 'nan'"),
    (b"q Q0 d 1 inf t\n", "line 1: the score .* 'inf'"),
    (b"q Q0 d 1 2 t\nr Q0 d 1 2 t\nq Q0 d 2 1 t\n", "line 3: document 'd' stands twice under query 'q'"),
    (b"q Q0 \xff 1 2.0 t\n", r"line 1: .*is not UTF-8"),
    (b"\n", "is empty"),
])
def test_a_bad_file_is_refused_with_file_and_line(tmp_path, content, told):
    (tmp_path / "bad.trec").write_bytes(content)
    with pytest.raises(InputError, match=f"bad.trec.*{told}"):
        read_run(tmp_path / "bad.trec")


@pytest.mark.parametrize("damage", [lambda b: b[:-12], lambda b: b[:30] + bytes(20) + b[50:]])
def test_a_damaged_gzip_file_is_refused(tmp_path, damage):
    content = "".join(f"q Q0 d{i} {i} {1 / (i + 1)} t\n" for i in range(200))
    (tmp_path / "a.gz").write_bytes(damage(gzip.compress(content.encode())))
    with pytest.raises(InputError, match="gzip file is damaged"):
        read_trec(tmp_path / "a.gz")


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(InputError, match=r"none\.trec: no such file"):
        read_run(tmp_path / "none.trec")


@pytest.mark.parametrize("bad", ["a b", "", "a\tb", "\ud800"])
def test_ids_that_the_format_cannot_hold_are_refused_and_nothing_is_left(tmp_path, bad):
    for run in ({bad: {"d": 1.0}}, {"q": {"d": 2.0, bad: 1.0}}):
        with pytest.raises(InputError, match="cannot hold"):
            write_trec(tmp_path / "a", run)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(FolderError, match="disk is full"):
        write_trec(tmp_path / "a", RUN)
    assert not list(tmp_path.iterdir())


def test_a_run_folder_is_read_without_its_failed_rows(tmp_path, caplog):
    rows = [("q2", "a", 0.5, None), ("q2", "b", None, "the logit is NaN"), ("q1", "a", -2.0, None)]
    folder = _run_folder(tmp_path / "run", rows)
    with caplog.at_level(logging.WARNING, "readqg"):
        assert read_run(folder) == {"q2": {"a": 0.5}, "q1": {"a": -2.0}}
    assert "1 rows have an error" in caplog.text


def test_an_unfinished_run_folder_is_refused(tmp_path):
    folder = _run_folder(tmp_path / "run", [("q", "d", 1.0, None)])
    (folder / "_SUCCESS").unlink()
    with pytest.raises(InputError, match="no _SUCCESS"):
        read_run(folder)


def test_the_trec_file_beside_a_folder_is_written_once_and_holds_the_same_run(tmp_path):
    folder = _run_folder(tmp_path / "run", [("q", "d", 0.1, None), ("q", "e", 0.7, None)])
    write_trec_beside(folder, "bm25")
    assert read_trec(folder / "_run.trec") == read_run(folder)
    before = (folder / "_run.trec").stat().st_mtime_ns
    write_trec_beside(folder, "bm25")
    assert (folder / "_run.trec").stat().st_mtime_ns == before


def test_ids_with_spaces_leave_out_the_trec_file_with_a_warning(tmp_path, caplog):
    folder = _run_folder(tmp_path / "run", [("q", "a document", 0.1, None)])
    with caplog.at_level(logging.WARNING, "readqg"):
        write_trec_beside(folder, "bm25")
    assert "'a document'" in caplog.text
    assert not (folder / "_run.trec").exists()


def test_a_run_folder_says_which_queries_it_was_asked(tmp_path):
    assert read_queries_beside(tmp_path) is None
    write_queries_beside(tmp_path, ["q1", "qü"])
    assert read_queries_beside(tmp_path) == read_queries_beside(tmp_path / "_run.trec") == ["q1", "qü"]
    assert read_queries_beside(tmp_path / "other.trec") is None
    (tmp_path / "_queries.json").write_text('["q1"')
    with pytest.raises(InputError, match="is damaged"):
        read_queries_beside(tmp_path)


@pytest.mark.real
def test_a_real_gzipped_run_is_read_whole(shared):
    run = read_run(shared / "data/msmarco-v1-slice/runs/train.bm25-top20.trec.gz")
    assert sum(map(len, run.values())) == 239_795
