"""Batches: every row once, within the budget, and on after running out of memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from readqg.batching import run_batches, token_batches
from readqg.trying import trying

lengths_and_budgets = st.tuples(st.lists(st.integers(0, 600), max_size=60), st.integers(1, 2000))


@given(lengths_and_budgets)
def test_every_row_is_in_one_batch(case):
    lengths, max_tokens = case
    assert sorted(i for batch in token_batches(lengths, max_tokens) for i in batch) == list(range(len(lengths)))


@given(lengths_and_budgets)
def test_padded_tokens_stay_within_the_budget_but_for_a_single_long_row(case):
    lengths, max_tokens = case
    for batch in token_batches(lengths, max_tokens):
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= max_tokens


@given(lengths_and_budgets)
def test_batches_are_full_and_sorted_by_length_longest_first(case):
    lengths, max_tokens = case
    batches = token_batches(lengths, max_tokens)
    order = [lengths[i] for batch in batches for i in batch]
    assert order == sorted(lengths, reverse=True)
    for batch in batches[:-1]:
        assert (len(batch) + 1) * max(lengths[i] for i in batch) > max_tokens


def test_rows_of_one_length_keep_their_order():
    assert token_batches([3, 3, 3, 3, 3], 6) == [[0, 1], [2, 3], [4]]


def test_no_rows_make_no_batches():
    assert token_batches([], 10) == []
    assert run_batches([], 10, lambda rows: rows) == ([], 0)


@given(lengths_and_budgets)
def test_results_come_back_in_input_order(case):
    lengths, max_tokens = case
    results, halvings = run_batches(lengths, max_tokens, lambda rows: [(i, lengths[i]) for i in rows])
    assert results == list(enumerate(lengths))
    assert halvings == 0


def cpu_allocator_error() -> Exception:
    """The error that torch itself raises when the CPU's memory is not enough."""
    try:
        torch.empty(1 << 60, dtype=torch.uint8)
    except RuntimeError as error:
        return error
    raise AssertionError("this machine has an exabyte of memory")


@pytest.mark.parametrize("make", [cpu_allocator_error, MemoryError, lambda: torch.OutOfMemoryError("CUDA out of memory")])
def test_out_of_memory_halves_the_budget_until_the_rows_fit(make):
    tried = []

    def fits_40_tokens(rows):
        tried.append(10 * len(rows))
        if tried[-1] > 40:
            raise make()
        return rows

    results, halvings = run_batches([10] * 20, 200, fits_40_tokens)
    assert results == list(range(20))
    assert tried[:4] == [200, 100, 50, 20] and set(tried[3:]) == {20}
    assert halvings == 3


def test_a_try_may_lower_the_budget_and_hears_of_every_batch():
    batches, done = [], []
    with trying(0.5, lambda: done.append(len(batches))):
        assert run_batches([10] * 6, 40, lambda rows: batches.append(rows) or rows)[0] == list(range(6))
    assert [len(rows) for rows in batches] == [2, 2, 2]
    assert done == [1, 2, 3]
    batches.clear()
    run_batches([10] * 6, 40, lambda rows: batches.append(rows) or rows)
    assert [len(rows) for rows in batches] == [4, 2], "the next try has its whole budget again"


def test_rows_done_before_the_memory_ran_out_are_not_done_again():
    done = []

    def second_batch_fails_once(rows):
        if len(done) == 4 and len(rows) == 4:
            raise MemoryError
        done.extend(rows)
        return rows

    assert run_batches([5] * 8, 20, second_batch_fails_once) == (list(range(8)), 1)
    assert sorted(done) == list(range(8))


def test_a_budget_far_above_what_is_asked_is_halved_from_what_was_tried():
    def fits_one(rows):
        if len(rows) > 1:
            raise MemoryError
        return rows

    assert run_batches([10, 10], 1_000_000, fits_one) == ([0, 1], 1)


def test_a_single_row_that_does_not_fit_raises():
    def never(rows):
        raise torch.OutOfMemoryError(f"{len(rows)} rows")

    with pytest.raises(torch.OutOfMemoryError, match="1 rows"):
        run_batches([10] * 4, 40, never)


def test_other_errors_are_not_taken_for_lack_of_memory():
    def broken(rows):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        run_batches([10] * 4, 40, broken)


def test_a_function_that_forgets_a_row_is_refused():
    with pytest.raises(ValueError):
        run_batches([1, 1], 10, lambda rows: rows[:1])
