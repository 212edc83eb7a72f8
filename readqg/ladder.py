"""What kills its worker must not kill the run: a shard that does is tried again with ever more care.

| workers it has killed | the next try |
| --- | --- |
| none | the whole shard |
| one | the whole shard, at half the token budget if the kernel has killed for want of memory since |
| two or more | row by row, the row in hand noted first; a row noted at two deaths gets an `error`, its neighbours are done |

After a row by row pass in which no row was given up, and with no sign that memory was short, the shard is done once more as a
whole, and that is what counts: the last digits of a score depend on what shares its batch, and whoever was killed from outside must
not show in the output. If that kills a worker too, the rows done alone are kept.
"""

from __future__ import annotations

import socket
from collections import Counter
from typing import Any

import pyarrow as pa

from readqg.errors import RunError
from readqg.shards.attempts import WHOLE, Attempt, oom_kills
from readqg.stage import ShardResult, ShardStage, compute_rows, compute_shard
from readqg.trying import trying

MOST_DEATHS = 9
"""Of one shard in one driver run: two to come to single rows, two for each of three rows, one more."""


def compute_carefully(stage: ShardStage, table: pa.Table, attempt: Attempt) -> ShardResult:
    """`compute_shard`, with as much care as the shard's earlier tries advise; the metrics say how many `tries` it took.

    Raises `RunError` where the shard has killed `MOST_DEATHS` workers in this run."""
    deaths = attempt.deaths
    _check_bound(stage, attempt)
    short = any(map(_short_of_memory, deaths))
    with trying(0.5 if short else 1.0, attempt.alive):
        result = _compute(stage, table, attempt, short)
    result.metrics["tries"] = len(deaths) + 1
    if short:
        result.counts["halvings"] = result.counts.get("halvings", 0) + 1
    return result


def _compute(stage: ShardStage, table: pa.Table, attempt: Attempt, short: bool) -> ShardResult:
    if len(attempt.deaths) < 2 or not stage.independent_rows:
        return compute_shard(stage, table)
    noted = Counter(death["row"] for death in attempt.deaths if "row" in death)
    given_up = {row: f"its worker was killed {deaths} times while it was in hand"
                for row, deaths in noted.items() if deaths >= 2 and row != WHOLE}
    result = compute_rows(stage, table, given_up, attempt.note)
    if given_up or short or WHOLE in noted:
        return result
    attempt.note(WHOLE)
    return compute_shard(stage, table)


def _short_of_memory(death: dict[str, Any]) -> bool:
    """Whether the kernel has killed for want of memory on this machine since that try began. Of another machine nothing is known."""
    now = oom_kills()
    return death["host"] == socket.gethostname() and now is not None and death["oom_kills"] is not None and now > death["oom_kills"]


def _check_bound(stage: ShardStage, attempt: Attempt) -> None:
    here = [death for death in attempt.deaths if death["run"] == attempt.facts["run"]]
    if len(here) < MOST_DEATHS:
        return
    shard = int(attempt.path.stem)
    hosts = ", ".join(sorted({str(death["host"]) for death in here}))
    raise RunError(
        f"{stage.name}: shard {shard} has killed its worker {len(here)} times (on {hosts}). Is there memory enough for the model, "
        "and does it run elsewhere? What is committed stays; the same command tries again."
    )
