"""One bad row costs one row."""

import pyarrow as pa
import pytest

from readqg.errors import FolderError, InputError
from readqg.stage import ShardStage, compute_rows, compute_shard, prepare_rows, prepare_shard


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


def test_a_row_that_is_a_shard_of_its_own_costs_one_row_too():
    result = compute_shard(Prepared(), prepare_shard(Prepared(), texts("four")))
    assert result.table["error"].to_pylist() == ["ValueError: could not convert string to float: 'four'"]
    assert compute_shard(Prepared(), prepare_shard(Prepared(), texts())).inputs == 0


class Stored(Roots):
    """Reads what is not in its rows: `broken` is raised for the second one, in `prepare` or in `compute`."""

    def __init__(self, broken, ahead):
        self.broken, self.ahead = broken, ahead

    def _look(self, table):
        if "d1" in table["doc_id"].to_pylist():
            raise self.broken

    def prepare(self, table):
        if self.ahead:
            self._look(table)
        return table

    def compute(self, table):
        if not self.ahead:
            self._look(table)
        return super().compute(table)


BROKEN = [FolderError("documents/part-00001-of-00004.parquet cannot be read"), OSError(5, "Input/output error"),
          TimeoutError("the store does not answer")]


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("broken", BROKEN, ids=lambda error: type(error).__name__)
def test_what_no_row_is_at_fault_for_is_no_rows_error(broken, ahead):
    stage = Stored(broken, ahead)
    with pytest.raises(type(broken)):
        compute_shard(stage, prepare_shard(stage, table(4, 9, 16)))
    with pytest.raises(type(broken)):  # as after two deaths
        compute_rows(stage, prepare_rows(stage, table(4, 9, 16)))


@pytest.mark.parametrize("ahead", [True, False])
def test_an_id_that_the_input_does_not_have_is_its_rows_error(ahead):
    stage = Stored(InputError("no document 'd1'"), ahead)
    assert compute_shard(stage, prepare_shard(stage, table(4, 9, 16))).table["error"].to_pylist() == [
        None, "InputError: no document 'd1'", None]
