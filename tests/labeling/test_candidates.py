"""Candidate lists in: TREC runs, run folders and JSON lines; errors name the line."""

import gzip
import json
import subprocess
import sys

import pyarrow as pa
import pytest

from readqg.errors import InputError
from readqg.labeling.candidates import candidates_fingerprint, open_candidates
from readqg.shards import OutputFolder
from readqg.stage import ShardResult

EXPECTED = [("q2", "d9"), ("q2", "d1"), ("q1", "d1")]
TREC = "q2 Q0 d9 1 7.5 bm25\nq2 Q0 d1 2 3.25 bm25\nq1 Q0 d1 1 -1 bm25\n"
JSON = '{"query_id": "q2", "doc_ids": ["d9", "d1"]}\n\n{"query_id": "q1", "doc_ids": ["d1"]}\n'


def read(path):
    found = open_candidates(str(path), candidates_fingerprint(str(path)), path.parent / "converted")
    table = found.read(0, found.rows)
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
    assert ": 2 pairs stand there more than once" in caplog.text


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


def test_a_query_that_comes_again_is_one_list_where_it_came_first(tmp_path, caplog):
    lists = [("b", []), ("a", ["1", "2"]), ("b", ["3"]), ("c", ["4"]), ("a", ["2", "5"]), ("b", ["6"])]
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"query_id": q, "doc_ids": d}) for q, d in lists))
    assert read(tmp_path / "c.jsonl") == [("b", "3"), ("b", "6"), ("a", "1"), ("a", "2"), ("a", "5"), ("c", "4")]
    assert ": 1 pairs stand there more than once" in caplog.text


@pytest.mark.parametrize("lines", [["a 1", "a 1"], ["a 1", "b 1", "a 1"]])
def test_a_document_twice_in_a_trec_run_is_named_with_its_line(tmp_path, lines):
    (tmp_path / "run").write_text("".join("{} Q0 {} 1 1 x\n".format(*line.split()) for line in lines))
    with pytest.raises(InputError, match=rf"line {len(lines)}: document '1' stands twice under query 'a'"):
        read(tmp_path / "run")
    assert not list((tmp_path / "converted").iterdir())


def test_row_ranges_are_those_of_the_whole(tmp_path):
    expected = [(f"q{q}", f"d{d}") for q in range(1500) for d in range(100)]
    (tmp_path / "c.jsonl").write_text("\n".join(
        json.dumps({"query_id": f"q{q}", "doc_ids": [f"d{d}" for d in range(100)]}) for q in range(1500)))
    found = open_candidates(str(tmp_path / "c.jsonl"), "x" * 32, tmp_path)
    assert found.rows == len(expected)
    for start, stop in [(0, 10), (65_530, 65_540), (65_536, 65_537), (1000, 140_000), (149_990, 150_010), (150_000, 150_010)]:
        assert [tuple(row.values()) for row in found.read(start, stop).to_pylist()] == expected[start:stop]


PEAK = """
import sys
from pathlib import Path
from readqg.labeling.candidates import open_candidates
found = open_candidates(sys.argv[1], sys.argv[2], Path(sys.argv[1]).parent)
assert found.read(found.rows - 2048, found.rows).num_rows == 2048
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(found.rows, status["VmHWM"].split()[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="what getrusage gives begins at the parent's peak")
def test_memory_does_not_grow_with_the_candidates(tmp_path):
    peaks = {}
    for queries in (500, 20_000):
        path = tmp_path / f"{queries}.jsonl"
        with path.open("w") as file:
            for q in range(queries):
                doc_ids = [str((q * 7919 + d * 104_729) % 8_800_000) for d in range(100)]
                file.write(json.dumps({"query_id": f"q{q}", "doc_ids": doc_ids}) + "\n")
        command = [sys.executable, "-c", PEAK, str(path), str(queries)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        rows, peaks[queries] = map(int, out.split())
        assert rows == queries * 100
    assert peaks[20_000] < 1.1 * peaks[500], peaks
