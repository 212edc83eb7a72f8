"""What the try of a shard and the batches inside it tell one another, in this thread: how much of its token budget a batch may
use, and that a batch is done.

Whoever runs the try (the engine) enters `trying`; whoever makes batches (`readqg.batching`) asks `batch_share` and says `alive`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_share: ContextVar[float] = ContextVar("share", default=1.0)
_alive: ContextVar[Callable[[], None] | None] = ContextVar("alive", default=None)


@contextmanager
def trying(share: float, alive: Callable[[], None]) -> Iterator[None]:
    """Batches made inside use `share` (0 to 1) of their token budget, and `alive` is called after each."""
    before = _share.set(share), _alive.set(alive)
    try:
        yield
    finally:
        _share.reset(before[0])
        _alive.reset(before[1])


def batch_share() -> float:
    """The share of its token budget that a batch may use now: 1, unless the shard's last worker died for want of memory."""
    return _share.get()


def alive() -> None:
    """A batch is done: there is progress."""
    say = _alive.get()
    if say is not None:
        say()
