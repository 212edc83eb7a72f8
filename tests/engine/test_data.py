"""Shard stages on a real local Ray."""

import pyarrow.parquet as pq
import pytest

from readqg.config import Compute
from readqg.engine import data
from readqg.errors import FolderError, RunError
from readqg.local import run_here
from readqg.shards import OutputFolder, part_name, verify
from tests.engine.toys import Squares, SquaresConfig, Troubled

pytestmark = pytest.mark.usefixtures("ray_here")


def test_every_row_is_written_once_and_an_empty_shard_is_a_shard(tmp_path):
    success = data.run(Squares(), SquaresConfig(out=str(tmp_path / "out")))
    table = pq.read_table(tmp_path / "out")
    assert sorted(table["square"].to_pylist()) == sorted(n * n for n in range(24) if not 4 <= n < 8)
    assert success["shards"] == 6
    assert success["parts"][part_name(1, 6)]["rows"] == 0
    assert verify(tmp_path / "out") == []


def test_the_same_command_again_does_only_what_is_not_there(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    config = SquaresConfig(out=str(tmp_path / "out"))
    data.run(Squares(marks=str(marks)), config)
    lost = [tmp_path / "out" / part_name(i, 6) for i in (2, 5)]
    before = {p: p.read_bytes() for p in (tmp_path / "out").glob("part-*")}
    for path in [*lost, tmp_path / "out" / "_SUCCESS"]:
        path.unlink()
    for mark in marks.iterdir():
        mark.unlink()
    data.run(Squares(marks=str(marks)), config)
    assert {p.name.split("-")[1] for p in marks.iterdir()} == {"8", "20"}
    assert {p: p.read_bytes() for p in (tmp_path / "out").glob("part-*")} == before


def test_ray_and_a_plain_loop_write_the_same_bytes(tmp_path):
    data.run(Squares(), SquaresConfig(out=str(tmp_path / "ray")))
    run_here(Squares(), OutputFolder.begin(tmp_path / "here", "squares", {"seed": 0}, Squares().inputs()))
    for i in range(6):
        assert (tmp_path / "ray" / part_name(i, 6)).read_bytes() == (tmp_path / "here" / part_name(i, 6)).read_bytes()


def test_a_stage_without_a_model_runs_in_the_cpu_step(tmp_path):
    assert data.run(Squares(needs_model=False), SquaresConfig(out=str(tmp_path / "out")))["counts"]["rows"] == 20


def test_a_bad_row_costs_one_row(tmp_path):
    success = data.run(Squares(bad=[9]), SquaresConfig(out=str(tmp_path / "out")))
    assert success["counts"] == {"inputs": 20, "rows": 20, "errors": 1, "nothing": 0}


def test_too_many_bad_rows_fail_the_run_and_keep_what_is_done(tmp_path):
    config = SquaresConfig(out=str(tmp_path / "out"))
    with pytest.raises(RunError, match="3 of 20 rows have an error"):
        data.run(Squares(bad=[9, 10, 11]), config)
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    generous = config.model_copy(update={"compute": config.compute.model_copy(update={"max_error_share": 0.5})})
    assert data.run(Squares(bad=[9, 10, 11]), generous)["counts"]["errors"] == 3


def test_a_killed_worker_is_replaced_and_its_shard_done(tmp_path):
    (tmp_path / "marks").mkdir()
    success = data.run(Squares(deadly=13, marks=str(tmp_path / "marks")), SquaresConfig(out=str(tmp_path / "out")))
    assert success["counts"]["rows"] == 20
    assert (tmp_path / "marks" / "death-0").exists()


def test_two_workers_share_the_shards_and_parts_appear_meanwhile(tmp_path):
    """What is computed does not wait to be committed until all is read."""
    config = SquaresConfig(out=str(tmp_path / "out"), compute=Compute(workers=2))
    data.run(Troubled(shards=50, row_bytes=2 << 20, marks=str(tmp_path), takes_s=0.3), config)
    marks = list(tmp_path.glob("computed-*"))
    assert len({mark.name.split("-")[2] for mark in marks}) == 2
    last = max(mark.stat().st_mtime for mark in marks)
    assert sum(part.stat().st_mtime < last for part in (tmp_path / "out").glob("part-*")) >= 25


def test_a_folder_begun_with_another_config_is_refused(tmp_path):
    data.run(Squares(), SquaresConfig(out=str(tmp_path / "out")))
    with pytest.raises(FolderError, match=r"config\.seed"):
        data.run(Squares(), SquaresConfig(out=str(tmp_path / "out"), seed=1))


def test_one_shard_is_done_without_a_warning(tmp_path, recwarn):
    """Ray warns of steps that may run at once and never will."""
    data.run(Troubled(shards=1, marks=str(tmp_path)), SquaresConfig(out=str(tmp_path / "out")))
    assert not [str(w.message) for w in recwarn if "concurrent tasks" in str(w.message)]
