"""Candidate lists in: TREC runs, run folders and JSON lines; errors name the line."""

import gzip
import json

import pyarrow as pa
import pytest

from readqg.errors import InputError
from readqg.labeling.candidates import candidates_fingerprint, read_candidates
from readqg.shards import OutputFolder
from readqg.stage import ShardResult

EXPECTED = [("q2", "d9"), ("q2", "d1"), ("q1", "d1")]
TREC = "q2 Q0 d9 1 7.5 bm25\nq2 Q0 d1 2 3.25 bm25\nq1 Q0 d1 1 -1 bm25\n"
JSON = '{"query_id": "q2", "doc_ids": ["d9", "d1"]}\n\n{"query_id": "q1", "doc_ids": ["d1"]}\n'


def read(path):
    table = read_candidates(str(path), candidates_fingerprint(str(path)))
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


@pytest.mark.parametrize(("name", "content"), [("run.trec", TREC), ("any.txt", TREC), ("lists.jsonl", JSON)])
@pytest.mark.parametrize("zipped", [False, True])
def test_trec_runs_and_json_lines_are_read_plain_or_gzipped(tmp_path, name, content, zipped):
    path = tmp_path / (name + ".gz" * zipped)
    path.write_bytes(gzip.compress(content.encode()) if zipped else content.encode())
    assert read(path) == EXPECTED


def test_a_run_folder_is_read(tmp_path):
    columns = {"query_id": ["q2", "q2", "q1"], "doc_id": ["d9", "d1", "d1"], "score": pa.array([3.0, 2.0, 1.0], pa.float32())}
    folder = OutputFolder.begin(tmp_path / "run", "retrieve", {})
    folder.commit(0, 1, ShardResult(pa.table(columns), 3, 0, 0))
    folder.finish(1)
    assert read(tmp_path / "run") == EXPECTED


def test_whole_number_ids_become_strings_and_repeats_are_scored_once(tmp_path, caplog):
    lists = [(1, [10, "11", 10]), (2, []), ("1", ["12", "11"])]
    lines = [{"query_id": query_id, "doc_ids": doc_ids} for query_id, doc_ids in lists]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert read(tmp_path / "c.jsonl") == [("1", "10"), ("1", "11"), ("1", "12")]
    assert "2 pairs stand there more than once" in caplog.text


@pytest.mark.parametrize(("content", "message"), [
    ('{"query_id": "q", "doc_ids": ["d"]}\n{"query_id": "q"', r"c\.jsonl, line 2: "),
    ('{"query_id": "q", "doc_ids": "d1"}', r"line 1: doc_ids must be a list of passage ids; found 'd1'"),
    ('{"query_id": "q", "docs": ["d1"]}', r"line 1: doc_ids must be a list of passage ids; the fields are query_id, docs"),
    ('{"qid": "q", "doc_ids": ["d1"]}', r"line 1: query_id needs an id .*found None"),
    ('{"query_id": "q", "doc_ids": ["d1", 1.5]}', r"line 1: doc_ids needs an id .*found 1\.5"),
    ('{"query_id": true, "doc_ids": ["d1"]}', r"query_id needs an id .*found True"),
    ('{"query_id": "q", "doc_ids": []}', r"c\.jsonl holds no candidate pair"),
])
def test_a_bad_line_is_named(tmp_path, content, message):
    (tmp_path / "c.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "c.jsonl")


def test_json_lines_of_another_name_are_recognised(tmp_path):
    (tmp_path / "c.json").write_text(JSON)
    with pytest.raises(InputError, match=r"c\.json looks like JSON lines: name it \.jsonl"):
        read(tmp_path / "c.json")


def test_an_absent_file_is_said(tmp_path):
    with pytest.raises(InputError, match=r"absent: no such file or folder\. Give candidates as a TREC run"):
        read(tmp_path / "absent")
