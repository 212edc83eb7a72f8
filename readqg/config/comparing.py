"""Two rankings side by side, blind, and somebody who says which is better."""

from __future__ import annotations

from pydantic import Field, field_validator

from readqg.config.base import Location, OptionalLocation, Ranking, placement
from readqg.config.machine import Compute
from readqg.config.stages import RetrieveSettings, ScoreSettings

LOOPBACK = "127.0.0.1"


class CompareConfig(ScoreSettings):
    a: Ranking
    """A re-ranker (folder or hub name), which scores what BM25 finds; `bm25` itself (a folder of that name: `./bm25`); or a run (folder
    or TREC file)."""
    b: Ranking
    """The same."""
    documents: Location
    """The corpus that is searched, or of the runs."""
    out: Location
    """Where judgments are kept."""
    queries: OptionalLocation = None
    """Gone through in an order drawn from `seed`; a run needs them. Between two re-rankers you may type your own as well."""
    shown: int = Field(10, ge=1, le=100)
    """Documents on a side."""
    seed: int = 0
    """Draws, with the query, which ranking is on the left."""
    share: float = Field(0.6, gt=0.5, lt=1)
    """What you want to be able to tell from a coin: B (or A) is better in this share of the queries without a tie. With `power` it says
    how many queries are judged before the test is made, so neither changes in a folder that was begun."""
    power: float = Field(0.8, gt=0.05, lt=1)
    """How probable it shall be that such a difference shows."""
    host: str = placement(LOOPBACK)
    """The page is for this machine alone; from another one, go through an SSH tunnel."""
    port: int = placement(8377, ge=0, le=65535)
    """0: any that is free."""
    retrieve: RetrieveSettings = RetrieveSettings()
    compute: Compute = Compute()

    @field_validator("host")
    @classmethod
    def _only_here(cls, value: str) -> str:
        if value != LOOPBACK:
            raise ValueError(f"the page shows your documents without encryption, so it is served on {LOOPBACK} alone. To see it from "
                             f"another machine: ssh -L PORT:{LOOPBACK}:PORT THIS-MACHINE")
        return value
