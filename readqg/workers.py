"""The workers of a training run: who takes which share of a step, and how what they found is brought together.

Every loss is a mean over the global batch, whatever the number of workers. So a worker computes its share of the sequences, the
per-sequence values of all are gathered, and every worker computes the same loss from them. The gradient flows back through its own
share alone: the sum over the workers is the gradient of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """Worker `rank` of `count`. With one worker nothing is sent."""

    rank: int = 0
    count: int = 1
    lockstep: bool = False
    """All must call the model equally often: ZeRO 3 gathers its parameters at every call."""

    def span(self, number: int) -> tuple[int, int]:
        """(first, stop) of this worker's share of `number` items. The shares follow one another and differ by one at most."""
        return self.rank * number // self.count, (self.rank + 1) * number // self.count

    def mine(self, items: Sequence[T]) -> Sequence[T]:
        """This worker's share."""
        first, stop = self.span(len(items))
        return items[first:stop]

    def gather(self, values: Tensor) -> Tensor:
        """All workers' rows, by rank: (n, ...) -> (sum of n, ...). Gradients flow to this worker's own rows."""
        if self.count == 1:
            return values
        sizes = [int(size) for size in self._all(torch.tensor([len(values)], device=values.device))]
        gathered: Tensor = _Gather.apply(values, sizes, self.rank)
        return gathered

    def largest(self, value: int, device: torch.device | str = "cpu") -> int:
        """The largest `value` of all workers."""
        return value if self.count == 1 else int(torch.cat(self._all(torch.tensor([value], device=device))).max())

    def in_step(self, batches: Sequence[T], device: torch.device | str = "cpu") -> Iterator[tuple[T, bool]]:
        """(batch, True) for each of `batches`; in lockstep, the last one with False until all workers have had as many."""
        yield from ((batch, True) for batch in batches)
        if self.lockstep and self.count > 1:
            yield from ((batches[-1], False) for _ in range(self.largest(len(batches), device) - len(batches)))

    def _all(self, value: Tensor) -> list[Tensor]:
        found = [torch.empty_like(value) for _ in range(self.count)]
        dist.all_gather(found, value)
        return found


ALONE = Workers()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, sizes: list[int], rank: int) -> Tensor:
        ctx.first, ctx.size = sum(sizes[:rank]), sizes[rank]
        padded = values.new_zeros(max(sizes), *values.shape[1:])
        padded[: len(values)] = values.detach()
        found = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(found, padded)
        return torch.cat([rows[:size] for rows, size in zip(found, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0][ctx.first : ctx.first + ctx.size], None, None
