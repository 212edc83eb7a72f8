"""A shard whose worker dies is tried with ever more care. Every try here is a process of its own, and dies as a worker does."""

import json
import os
import pickle
import shutil
import signal

import pyarrow as pa
import pytest

from readqg.errors import RunError
from readqg.ladder import MOST_DEATHS, check_bound, compute_carefully, prepare_carefully
from readqg.shards import OutputFolder
from readqg.shards.attempts import attempt, oom_kills, reading, under_way
from readqg.stage import ShardStage, compute_shard
from readqg.trying import batch_share


class Fragile(ShardStage):
    """Says of every row how many were computed with it, and at what share of the budget. `deadly(rows)` says whether that kills
    whoever computes them, `deadly_ahead(rows)` whoever prepares them."""

    name = "fragile"
    schema = pa.schema([("doc_id", pa.string()), ("together", pa.int64()), ("share", pa.float64()), ("error", pa.string())])
    key = ("doc_id",)

    def __init__(self, deadly=lambda rows: False, independent_rows=True, deadly_ahead=lambda rows: False):
        self.deadly, self.independent_rows, self.deadly_ahead = deadly, independent_rows, deadly_ahead

    def read(self, index):
        return TABLE

    def prepare(self, table):
        if self.deadly_ahead(table["doc_id"].to_pylist()):
            os.kill(os.getpid(), signal.SIGKILL)
        return table

    def compute(self, table):
        rows = table["doc_id"].to_pylist()
        if self.deadly(rows):
            os.kill(os.getpid(), signal.SIGKILL)
        return pa.table({"doc_id": rows, "together": [len(rows)] * len(rows), "share": [batch_share()] * len(rows),
                         "error": pa.nulls(len(rows))})


TABLE = pa.table({"doc_id": ["a", "b", "c"]})


@pytest.fixture
def folder(tmp_path):
    return OutputFolder.begin(tmp_path / "out", "fragile", {})


def one_try(stage, folder, table=TABLE):
    """What a worker makes of shard 0; None where it dies of it."""
    return in_a_worker(folder, 0, lambda under_way: compute_carefully(stage, table, under_way))


def in_a_worker(folder, what, work):
    pid = os.fork()
    if pid == 0:
        try:
            with attempt(folder.path, folder.run_id, what) as under_way:
                result = work(under_way)
            (folder.path / "_result").write_bytes(pickle.dumps(result))
        finally:
            os._exit(0)
    if os.waitpid(pid, 0)[1] == signal.SIGKILL:
        return None
    return pickle.loads((folder.path / "_result").read_bytes())


def tries(stage, folder):
    """(result, number of tries it took)."""
    for number in range(1, MOST_DEATHS + 1):
        result = one_try(stage, folder)
        if result is not None:
            return result, number
    raise AssertionError("never done")


def killed_first(folder, times):
    """Kills whoever computes, the first `times`, whatever the rows: as a kill from outside does."""
    def deadly(rows):
        deaths = len(list(folder.path.glob("_death-*")))
        if deaths < times:
            (folder.path / f"_death-{deaths}").touch()
        return deaths < times
    return deadly


def test_a_row_that_kills_whoever_sees_it_gets_an_error_and_its_neighbours_are_done(folder):
    result, number = tries(Fragile(lambda rows: "b" in rows), folder)
    assert number == 5, "twice whole, twice with the row in hand, then without it"
    assert result.table["error"].to_pylist() == [None, "its worker was killed 2 times while it was in hand", None]
    assert result.table["together"].to_pylist() == [1, None, 1]
    assert (result.errors, result.metrics["tries"]) == (1, 5)


@pytest.mark.parametrize("times", [1, 2])
def test_kills_from_outside_do_not_show_in_what_comes_out(folder, times):
    result, number = tries(Fragile(killed_first(folder, times)), folder)
    assert number == times + 1
    assert result.table == compute_shard(Fragile(), TABLE).table


def test_a_shard_that_kills_only_as_a_whole_is_done_row_by_row(folder):
    result, number = tries(Fragile(lambda rows: len(rows) > 1), folder)
    assert number == 5, "twice whole, once whole after its rows, once at half the budget, then its rows alone"
    assert result.table["together"].to_pylist() == [1, 1, 1]
    assert result.table["share"].to_pylist() == [1.0] * 3
    assert (result.errors, result.counts) == (0, {})


def test_a_shard_too_large_for_memory_is_done_at_half_the_budget_whoever_killed(folder):
    result, number = tries(Fragile(lambda rows: len(rows) > 1 and batch_share() == 1.0), folder)
    assert number == 4, "twice whole, once whole after its rows, then at half the budget"
    assert result.table["together"].to_pylist() == [3, 3, 3]
    assert result.table["share"].to_pylist() == [0.5] * 3
    assert (result.errors, result.counts) == (0, {"halvings": 1})


def test_rows_that_mean_something_only_together_are_never_done_alone(folder):
    result, _ = tries(Fragile(killed_first(folder, 3), independent_rows=False), folder)
    assert result.table["together"].to_pylist() == [3, 3, 3]
    assert result.table["share"].to_pylist() == [0.5] * 3, "as large as ever, with smaller batches"


def test_a_try_that_went_down_with_its_driver_says_nothing_of_the_shard(folder):
    stage = Fragile(killed_first(folder, 3))
    for _ in range(3):
        driver = OutputFolder.begin(folder.path, "fragile", {})
        assert one_try(stage, driver) is None
    result = one_try(stage, OutputFolder.begin(folder.path, "fragile", {}))
    assert (result.table["together"].to_pylist(), result.metrics["tries"]) == ([3, 3, 3], 1)


def test_what_a_row_did_in_an_earlier_run_is_not_forgotten(folder):
    stage = Fragile(lambda rows: "b" in rows)
    for _ in range(4):
        assert one_try(stage, folder) is None
    with attempt(folder.path, folder.run_id, 0):
        pass  # its driver lived to try again, and was stopped then
    assert one_try(stage, OutputFolder.begin(folder.path, "fragile", {})).errors == 1


@pytest.mark.skipif(oom_kills() is None, reason="the kernel does not count its kills here")
def test_a_worker_killed_for_want_of_memory_is_followed_by_one_with_half_the_budget(folder):
    assert one_try(Fragile(killed_first(folder, 1)), folder) is None
    (left,) = (folder.path / "_attempts").iterdir()
    left.write_text(json.dumps({**json.loads(left.read_text()), "oom_kills": oom_kills() - 1}))  # the kernel killed since
    result = one_try(Fragile(), folder)
    assert result.table["share"].to_pylist() == [0.5] * 3
    folder.commit(0, 1, result)
    assert folder.finish(1)["counts"]["halvings"] == 1


def test_a_shard_that_kills_without_end_ends_the_run_with_its_number(folder):
    many = pa.table({"doc_id": list("abcdef")})
    for _ in range(MOST_DEATHS):
        assert one_try(Fragile(lambda rows: True), folder, many) is None
    with (
        pytest.raises(RunError, match=f"shard 0 has killed its worker {MOST_DEATHS} times"),
        attempt(folder.path, folder.run_id, 0) as under_way,
    ):
        check_bound(Fragile(), under_way)


def test_a_row_that_kills_whoever_prepares_it_gets_an_error_and_the_deaths_say_nothing_of_computing(folder):
    stage = Fragile(deadly_ahead=lambda rows: "b" in rows)
    made = [in_a_worker(folder, reading(0), lambda under_way: prepare_carefully(stage, 0, under_way)) for _ in range(5)]
    assert made[:4] == [None] * 4, "twice whole, twice with the row in hand"
    result = one_try(stage, folder, made[4])
    assert result.table["error"].to_pylist() == [None, "its worker was killed 2 times while it was in hand", None]
    assert result.metrics["tries"] == 1
    folder.commit(0, 1, result)
    assert list((folder.path / "_attempts").iterdir()) == []


def test_a_shard_prepared_row_by_row_is_as_it_was_prepared_whole(folder):
    stage = Fragile(deadly_ahead=killed_first(folder, 2))
    made = [in_a_worker(folder, reading(0), lambda under_way: prepare_carefully(stage, 0, under_way)) for _ in range(3)]
    assert made == [None, None, TABLE]


def test_a_try_under_way_can_be_seen_and_one_that_ended_cannot(folder):
    with attempt(folder.path, folder.run_id, 7, {"node": "n"}) as begun:
        begun.note(2)
        (seen,) = under_way(folder.path, folder.run_id).values()
        assert (seen["pid"], seen["node"], seen["row"]) == (os.getpid(), "n", 2)
        assert under_way(folder.path, "another run") == {}
    with pytest.raises(ValueError), attempt(folder.path, folder.run_id, 7):
        raise ValueError("an exception is no death")
    assert under_way(folder.path, folder.run_id) == {}


@pytest.mark.parametrize("what", [reading(7), "loading-actor"])
def test_a_shard_being_read_and_a_model_being_loaded_can_be_seen_too(folder, what):
    with attempt(folder.path, folder.run_id, what) as begun:
        begun.path.with_name(f".{begun.path.name}.12ab.partial").write_text(begun.path.read_text())  # left by a kill
        assert list(under_way(folder.path, folder.run_id)) == [begun.path]


def test_what_is_in_hand_is_not_lost_for_want_of_a_sign_of_life(folder):
    with attempt(folder.path, folder.run_id, 7) as begun:
        begun.path.unlink()
        begun.path.symlink_to(begun.path)  # whoever follows it gets an OSError
        begun.alive()


def test_the_tries_of_a_committed_shard_are_forgotten(folder):
    assert one_try(Fragile(lambda rows: True), folder) is None
    folder.commit(0, 1, compute_shard(Fragile(), TABLE))
    assert list((folder.path / "_attempts").iterdir()) == []


def test_a_folder_that_another_driver_finishes_meanwhile_ends_no_try(folder, monkeypatch):
    from readqg.shards import attempts

    real, calls = attempts.create, []

    def create(path, content):
        if not calls:
            shutil.rmtree(folder.path / "_attempts")  # as who finishes it does, between this driver's looking and its writing
        calls.append(path)
        return real(path, content)

    monkeypatch.setattr(attempts, "create", create)
    with attempt(folder.path, folder.run_id, 7) as begun:
        assert len(calls) == 2 and begun.path.exists()
        shutil.rmtree(folder.path / "_attempts")
        begun.note(3)
        assert json.loads(begun.path.read_text())["row"] == 3
