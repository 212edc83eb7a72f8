"""Ctrl-C and SIGTERM end a command in the same way: what is under way is put down in order. A second one ends it at once.

A local Ray goes down with its driver, and a folder needs no farewell, so nothing is lost by ending at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(KeyboardInterrupt):
    """A signal asked to stop; `exit_code` is what a shell would say of it: 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def stoppable() -> Iterator[None]:
    """Inside, the first Ctrl-C or SIGTERM raises `Stopped`, the second ends the process. Elsewhere than in the main thread, which
    alone may say what a signal does, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: int | None = None

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked is not None:
            os._exit(128 + number)
        asked = number
        raise Stopped(number)

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    except KeyboardInterrupt as interrupt:  # Ray's waits raise one of their own, whatever the handler raised
        if isinstance(interrupt, Stopped):
            raise
        raise Stopped(signal.SIGINT if asked is None else asked) from interrupt
    finally:
        for number, handler in before.items():
            # Python's own handler would only raise a traceback out of the last few steps before the end.
            signal.signal(number, handler if asked is None else signal.SIG_DFL)


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Inside, a library may set what SIGTERM does; afterwards it does what the program had chosen, if it had."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
