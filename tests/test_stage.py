"""One bad row costs one row."""

import pyarrow as pa
import pytest

from readqg.stage import ShardStage, compute_shard, prepare_shard


class Roots(ShardStage):
    name = "roots"
    schema = pa.schema([("doc_id", pa.string()), ("root", pa.float64()), ("error", pa.string())])
    key = ("doc_id",)

    def compute(self, table):
        if any(x < 0 for x in table["x"].to_pylist()):
            raise ValueError("no root")
        kept = table.filter(pa.compute.not_equal(table["x"], 0))
        return pa.table({"doc_id": kept["doc_id"], "root": [x**0.5 for x in kept["x"].to_pylist()], "error": pa.nulls(len(kept))})


def table(*values):
    return pa.table({"doc_id": [f"d{i}" for i in range(len(values))], "x": pa.array(values, pa.float64())})


def test_a_row_that_raises_gets_an_error_and_its_neighbours_are_done():
    result = compute_shard(Roots(), table(4, -1, 9))
    assert result.table["root"].to_pylist() == [2, None, 3]
    assert result.table["error"].to_pylist() == [None, "ValueError: no root", None]
    assert (result.inputs, result.errors, result.nothing) == (3, 1, 0)


def test_a_row_with_nothing_to_write_is_counted():
    result = compute_shard(Roots(), table(0, 4))
    assert (result.inputs, result.table.num_rows, result.nothing) == (2, 1, 1)


def test_an_empty_shard_has_the_schema():
    result = compute_shard(Roots(), table())
    assert result.table.schema == Roots.schema
    assert result.inputs == 0


def test_first_and_last_id_are_the_inputs():
    result = compute_shard(Roots(), table(0, 4, 0))
    assert (result.first_id, result.last_id) == ("d0", "d2")


def test_a_stage_that_breaks_its_schema_is_not_taken_for_good():
    class Wrong(Roots):
        def compute(self, table):
            return pa.table({"doc_id": table["doc_id"]})

    with pytest.raises(KeyError):
        compute_shard(Wrong(), table(4))


class Prepared(Roots):
    """Its input is prepared ahead; text that is no number cannot be."""

    def prepare(self, table):
        return table.append_column("x", pa.array([float(text) for text in table["text"].to_pylist()], pa.float64()))


def texts(*values):
    return pa.table({"doc_id": [f"d{i}" for i in range(len(values))], "text": list(values)})


def test_a_row_that_cannot_be_prepared_gets_an_error_in_its_place():
    result = compute_shard(Prepared(), prepare_shard(Prepared(), texts("4", "four", "9")))
    assert result.table["root"].to_pylist() == [2, None, 3]
    assert result.table["error"][1].as_py() == "ValueError: could not convert string to float: 'four'"
    assert (result.inputs, result.errors) == (3, 1)


def test_where_no_row_can_be_prepared_the_fault_is_not_the_rows():
    with pytest.raises(ValueError, match="four"):
        prepare_shard(Prepared(), texts("four", "five"))
