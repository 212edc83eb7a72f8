"""Score sets in: what is read, and what is refused with the row at fault."""

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from readqg.errors import InputError
from readqg.labeling.scores import SCORES, check_scores, open_scores
from tests.labeling.collection import write_scores

LIMIT = 1 << 20


def opened(path):
    return open_scores(path, path.parent / "converted", LIMIT)


def scores_of(tmp_path, values):
    return opened(write_scores(tmp_path / "s.parquet", [(f"q{i}", "d", s) for i, s in enumerate(values)]))


def test_any_span_of_rows_is_read_across_row_groups(tmp_path):
    table = pa.table([[f"q{i}" for i in range(25)], [f"d{i}" for i in range(25)], [float(i) for i in range(25)]], SCORES)
    pq.write_table(table, tmp_path / "s.parquet", row_group_size=4)
    scores = opened(tmp_path / "s.parquet")
    assert scores.rows == 25
    for start, stop in ((0, 25), (3, 5), (4, 8), (7, 21), (24, 99), (25, 30)):
        assert scores.read(start, stop).equals(table.slice(start, stop - start))


@pytest.mark.parametrize("ids", [pl.Int64, pl.Categorical, pl.String])
def test_whole_number_and_dictionary_ids_become_strings(tmp_path, ids):
    frame = pl.DataFrame({"query_id": ["7", "8"], "doc_id": ["70", "80"], "score": [1, -1], "more": [0, 0]})
    frame.with_columns(pl.col("query_id", "doc_id").cast(ids)).write_parquet(tmp_path / "s.parquet")
    table = opened(tmp_path / "s.parquet").read(0, 2)
    assert table.schema == SCORES
    assert [tuple(row.values()) for row in table.to_pylist()] == [("7", "70", 1.0), ("8", "80", -1.0)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_no_finite_number_is_refused_with_its_row(tmp_path, bad):
    with pytest.raises(InputError, match=rf"s\.parquet, row 2 .*query 'q2', passage 'd', score {bad}"):
        check_scores(scores_of(tmp_path, [1.0, -1.0, bad, bad]))


def test_a_double_too_large_for_a_logit_is_refused_too(tmp_path):
    pl.DataFrame({"query_id": ["q"], "doc_id": ["d"], "score": [1e300]}).write_parquet(tmp_path / "s.parquet")
    with pytest.raises(InputError, match="row 0"):
        check_scores(opened(tmp_path / "s.parquet"))


def test_a_missing_id_is_refused_with_its_row(tmp_path):
    path = write_scores(tmp_path / "s.parquet", [("q", "d", 3.0), (None, "d", -1.0)])
    with pytest.raises(InputError, match=r"row 1 .*query None"):
        check_scores(opened(path))


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.2, None, 0.9], [1.0]])
def test_scores_within_0_and_1_are_refused_as_a_sigmoids(tmp_path, values):
    with pytest.raises(InputError, match=r"within \[0, 1\].*sigmoid.*readqg label"):
        check_scores(scores_of(tmp_path, values))


@pytest.mark.parametrize("values", [[0.0, 1.001], [-0.001, 0.5]])
def test_a_single_score_beyond_0_and_1_is_enough(tmp_path, values):
    assert check_scores(scores_of(tmp_path, values)) == 0


def test_missing_scores_are_counted_and_a_set_without_any_is_refused(tmp_path):
    assert check_scores(scores_of(tmp_path, [None, 3.0, None])) == 2
    with pytest.raises(InputError, match="not one of its 2 pairs has a score"):
        check_scores(scores_of(tmp_path, [None, None]))


@pytest.mark.parametrize(("columns", "message"), [
    ({"query_id": ["q"], "score": [1.0]}, "no column doc_id; it has query_id, score"),
    ({"query_id": ["q"], "doc_id": ["d"], "score": ["high"]}, "column score holds .*string.*must hold numbers"),
])
def test_other_columns_are_refused(tmp_path, columns, message):
    pl.DataFrame(columns).write_parquet(tmp_path / "s.parquet")
    with pytest.raises(InputError, match=message):
        opened(tmp_path / "s.parquet")


def test_an_empty_set_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no scored pair"):
        scores_of(tmp_path, [])


@pytest.mark.parametrize(("content", "message"), [
    (b"query_id,doc_id,score\n", r"begins with b'quer': neither Parquet nor a pickle"),
    (b"", r"begins with b''"),
    (b"PAR1 and then nothing of the kind", "cannot be read as Parquet"),
])
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(InputError, match=message):
        opened(tmp_path / "s")


def test_an_absent_file_is_said(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        opened(tmp_path / "absent")


def test_an_unfinished_folder_is_refused(tmp_path):
    (tmp_path / "labels").mkdir()
    with pytest.raises(InputError, match="has no _SUCCESS"):
        opened(tmp_path / "labels")
