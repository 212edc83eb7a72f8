"""Length-sorted batches under a token budget, and running them so that running out of memory costs time, not the run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from readqg.trying import alive, batch_share

logger = logging.getLogger("readqg")

T = TypeVar("T")

CPU_BATCH_TOKENS = 2048
"""Tokens that a model reads at once on a CPU, at most. Tensors of larger batches leave the caches and are over malloc's 32 MB, so
each is mapped, faulted in and unmapped anew: a tenth of the time of scoring, half the time of a training step or of reading the
documents that queries are written for."""


def tokens_for(device: torch.device | str, batch_tokens: int) -> int:
    """The budget of a batch that is read on this device."""
    return min(batch_tokens, CPU_BATCH_TOKENS) if torch.device(device).type == "cpu" else batch_tokens


def token_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Rows grouped so that padding wastes little: lists of indices into `lengths`, longest rows first.

    A batch's padded tokens (its longest row x its rows) are at most `max_tokens`, unless one row alone is longer: that row
    is a batch of its own. Every index is in one batch; the result depends on the arguments alone. The longest come first so
    that a budget too large for the memory shows at once."""
    batches: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or width * (len(batches[-1]) + 1) > max_tokens:
            batches.append([])
            width = lengths[index]
        batches[-1].append(index)
    return batches


def run_batches(lengths: Sequence[int], max_tokens: int, fn: Callable[[list[int]], Sequence[T]]) -> tuple[list[T], int]:
    """Run `fn` over the batches of `token_batches`: `fn(indices)` gives one result a row, in the order of `indices`.

    When `fn` runs out of memory the budget is halved, the rows not yet done are batched anew, and the work goes on. The
    try of a shard may have lowered the budget from the start (`readqg.trying`).
    Returns the results in input order and how many times the budget was halved. Raises the error of `fn` when it is of
    another kind, or when a single row does not fit, and `ValueError` when `fn` gives another number of results."""
    results: dict[int, T] = {}
    todo = list(range(len(lengths)))
    halvings = 0
    max_tokens = max(1, int(max_tokens * batch_share()))
    while todo:
        batches = [[todo[i] for i in batch] for batch in token_batches([lengths[i] for i in todo], max_tokens)]
        failed = _run_until_out_of_memory(batches, fn, results)
        if failed:
            halvings += 1
            max_tokens = min(max_tokens, max(lengths[i] for i in failed) * len(failed)) // 2
            logger.warning("Out of memory at %d rows of %d tokens: going on with batches of %d tokens.",
                           len(failed), lengths[failed[0]], max_tokens)
            _release_cached_memory()
        todo = [i for i in todo if i not in results]
    return [results[i] for i in range(len(lengths))], halvings


def _run_until_out_of_memory(
    batches: list[list[int]], fn: Callable[[list[int]], Sequence[T]], results: dict[int, T]
) -> list[int] | None:
    """Fills `results`; returns the batch that ran out of memory, if one did. It returns rather than raises so that the
    error, and with it the tensors its traceback holds, is gone before the next try."""
    for batch in batches:
        try:
            values = fn(batch)
        except (RuntimeError, MemoryError) as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
            return batch
        results.update(zip(batch, values, strict=True))
        alive()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may get past this error. PyTorch's CPU allocator raises a plain `RuntimeError`."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _release_cached_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
