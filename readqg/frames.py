"""Polars, imported so that Ctrl-C goes on working.

Polars' import puts its own handler before the program's and has the system take up waits again after it (SA_RESTART; pola-rs/polars
issue 21739): a main thread that waits for a worker would see Ctrl-C only when that is done. Polars' handler, which ends its own
queries, stays; waits end again.
"""

from __future__ import annotations

import signal

import polars as pl

__all__ = ["pl"]

signal.siginterrupt(signal.SIGINT, True)
