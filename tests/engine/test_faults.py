"""What goes wrong in workers, on a real local Ray."""

import pyarrow.parquet as pq
import pytest

from readqg.config import Compute, identity
from readqg.engine import data
from readqg.errors import RunError
from readqg.ladder import MOST_DEATHS
from readqg.shards import OutputFolder, verify
from tests.engine.toys import SquaresConfig, Troubled

pytestmark = [pytest.mark.chaos, pytest.mark.usefixtures("ray_here")]


@pytest.fixture
def config(tmp_path):
    (tmp_path / "marks").mkdir()
    return SquaresConfig(out=str(tmp_path / "out"))


def squares(config):
    return {row["doc_id"]: row["square"] for row in pq.read_table(config.out).to_pylist()}


EXPECTED = {f"d{n}": n * n for n in range(24) if not 4 <= n < 8}


@pytest.mark.parametrize(("deadly_in", "needs_model"), [("compute", True), ("prepare", True), ("prepare", False)])
def test_a_row_that_kills_its_worker_every_time_ends_with_an_error(tmp_path, config, deadly_in, needs_model):
    stage = Troubled(deadly=13, deaths=99, deadly_in=deadly_in, needs_model=needs_model, marks=str(tmp_path / "marks"))
    success = data.run(stage, config)
    assert squares(config) == {**EXPECTED, "d13": None}
    assert success["counts"] == {"inputs": 20, "rows": 20, "errors": 1, "nothing": 0}
    assert len(list((tmp_path / "marks").glob("death-*"))) == 4
    assert "worker was killed" in next(e for e in pq.read_table(config.out)["error"].to_pylist() if e)


@pytest.mark.parametrize("needs_model", [True, False])
def test_a_shard_that_kills_whoever_reads_it_ends_the_run_and_what_is_done_stays(tmp_path, config, needs_model):
    stage = Troubled(deadly=13, deaths=99, deadly_in="read", needs_model=needs_model, marks=str(tmp_path / "marks"))
    with pytest.raises(RunError, match=f"the reading of shard 3 has killed its worker {MOST_DEATHS} times"):
        data.run(stage, config)
    assert len(list((tmp_path / "marks").glob("death-*"))) == MOST_DEATHS
    stage.deadly = None
    data.run(stage, config)
    assert squares(config) == EXPECTED


def test_a_worker_that_hangs_is_killed_and_its_shard_done(tmp_path, config):
    config = config.model_copy(update={"compute": Compute(stall_s=5)})
    data.run(Troubled(hanging=13, marks=str(tmp_path / "marks")), config)
    assert (tmp_path / "marks" / "hung").exists()
    assert squares(config) == EXPECTED


def test_a_model_worker_that_hangs_while_it_loads_is_killed_and_replaced(tmp_path, config):
    config = config.model_copy(update={"compute": Compute(stall_s=5)})
    data.run(Troubled(loading=1, load_hangs=True, marks=str(tmp_path / "marks")), config)
    assert len(list((tmp_path / "marks").glob("loading-*"))) == 1
    assert squares(config) == EXPECTED


def test_the_watchdog_outlives_a_file_system_that_refuses_for_a_while(tmp_path, config, caplog):
    loop = tmp_path / "out" / "_attempts" / "99999.1"
    stage = Troubled(hanging=13, in_the_way=str(loop), marks=str(tmp_path / "marks"))
    OutputFolder.begin(config.out, stage.name, identity(config), stage.inputs())
    loop.parent.mkdir()
    loop.symlink_to(loop)  # whoever looks at it gets an OSError
    with caplog.at_level("WARNING", "readqg"):
        data.run(stage, config.model_copy(update={"compute": Compute(stall_s=5)}))
    assert squares(config) == EXPECTED
    assert sum("cannot be looked for" in record.message for record in caplog.records) == 1


def test_workers_killed_while_they_load_are_replaced(tmp_path, config):
    data.run(Troubled(loading=2, marks=str(tmp_path / "marks")), config)
    assert len(list((tmp_path / "marks").glob("loading-*"))) == 2
    assert squares(config) == EXPECTED


def test_a_model_that_kills_every_worker_that_loads_it_ends_the_run(tmp_path, config):
    with pytest.raises(RunError, match="killed 3 times while it loaded its model"):
        data.run(Troubled(loading=99, marks=str(tmp_path / "marks")), config)


@pytest.mark.slow
def test_a_shard_of_250_megabytes_is_a_shard_like_any_other(tmp_path, config):
    success = data.run(Troubled(shards=3, row_bytes=62_500_000, marks=str(tmp_path / "marks")), config)
    assert success["counts"]["rows"] == 8
    assert max(p.stat().st_size for p in (tmp_path / "out").glob("part-*")) > 100e6, "hexadecimal digits, packed"
    assert all(len(text) == 62_500_000 for text in pq.read_table(config.out)["text"].to_pylist())
    assert verify(config.out) == []
