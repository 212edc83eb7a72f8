"""Shares of a batch, and gathering over real process groups."""

import multiprocessing
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from readqg.workers import ALONE, Workers


@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_are_all_items_once_in_order(number: int, count: int) -> None:
    items = list(range(number))
    shares = [Workers(rank, count).mine(items) for rank in range(count)]
    assert [item for share in shares for item in share] == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_nothing_is_copied() -> None:
    values = torch.ones(3, requires_grad=True)
    assert ALONE.gather(values) is values
    assert ALONE.largest(5) == 5
    assert list(ALONE.in_step(["a", "b"])) == [("a", True), ("b", True)]


def _each(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=3)
    workers = Workers(rank, 3, lockstep=True)
    own = torch.arange(rank + 1, dtype=torch.float64).reshape(-1, 1) + 10 * rank
    own.requires_grad_()
    whole = workers.gather(own)
    (whole * torch.arange(1, 7).reshape(-1, 1)).sum().backward()
    extra = [counts for _, counts in workers.in_step(list(range(rank + 1)))]
    empty = workers.gather(torch.zeros(2 if rank == 1 else 0, 2))
    torch.save({"whole": whole.detach(), "grad": own.grad, "largest": workers.largest(rank * 7), "counts": extra,
                "empty": empty.shape}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("group")
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_each, args=(rank, str(folder))) for rank in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(3)]


def test_every_worker_has_all_rows_by_rank(found: list[dict]) -> None:
    for each in found:
        assert each["whole"].flatten().tolist() == [0, 10, 11, 20, 21, 22]
        assert each["largest"] == 14
        assert tuple(each["empty"]) == (2, 2)


def test_the_gradient_flows_to_ones_own_rows(found: list[dict]) -> None:
    assert [each["grad"].flatten().tolist() for each in found] == [[1], [2, 3], [4, 5, 6]]


def test_in_lockstep_all_have_as_many_batches(found: list[dict]) -> None:
    assert [each["counts"] for each in found] == [[True, False, False], [True, True, False], [True, True, True]]
