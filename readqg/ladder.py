"""What kills its worker must not kill the run: a shard that does is tried again with ever more care, to read and prepare it and to
compute it alike, each with its own count.

| workers it has killed | the next try |
| --- | --- |
| none | the whole shard |
| one | the whole shard, at half the token budget if the kernel has killed for want of memory since |
| two | row by row, the row in hand noted first; a row noted at two deaths gets an `error`, its neighbours are done |
| one more, as a whole after its rows | the whole shard, at half the token budget |
| one more at that | row by row, and that is kept |

After a row by row pass in which no row was given up, and with no sign that memory was short, the shard is done once more as a
whole, and that is what counts: the last digits of a score depend on what shares its batch, and whoever was killed from outside must
not show in the output. So half the budget comes after that, not before: Ray's own memory monitor kills before the kernel does and
leaves no sign here, and only a shard whose rows can all be done, but not together, is likely to be too large. It gets smaller batches
then whatever the kernel says. Rows that mean something only together are done whole at every try, from the fourth at half the budget.
"""

from __future__ import annotations

import socket
from collections import Counter
from typing import Any

import pyarrow as pa

from readqg.errors import RunError
from readqg.shards.attempts import HALVED, WHOLE, Attempt, described, oom_kills
from readqg.stage import ShardResult, ShardStage, compute_rows, compute_shard, prepare_rows, prepare_shard
from readqg.trying import trying

MOST_DEATHS = 9
"""Of one shard in one driver run: two to come to single rows, two for each of three rows, one more. (Or two, one whole after its
rows, one at half the budget.)"""


def check_bound(stage: ShardStage, attempt: Attempt) -> None:
    """The first thing in a try. Raises `RunError` where the shard has killed `MOST_DEATHS` workers in this run."""
    here = [death for death in attempt.deaths if death["run"] == attempt.facts["run"]]
    if len(here) < MOST_DEATHS:
        return
    hosts = ", ".join(sorted({str(death["host"]) for death in here}))
    raise RunError(
        f"{stage.name}: {described(attempt.path)} has killed its worker {len(here)} times (on {hosts}). Is there memory enough, and "
        "does it run elsewhere? What is committed stays; the same command tries again."
    )


def prepare_carefully(stage: ShardStage, index: int, attempt: Attempt) -> pa.Table:
    """Shard `index`, read and prepared. A row is prepared alone as it is among others: there is no second whole pass."""
    table = stage.read(index)
    if len(attempt.deaths) < 2 or not stage.independent_rows:
        return prepare_shard(stage, table)
    return prepare_rows(stage, table, _given_up(attempt), attempt.note)


def compute_carefully(stage: ShardStage, table: pa.Table, attempt: Attempt) -> ShardResult:
    """`compute_shard`, with as much care as the shard's earlier tries advise; the metrics say how many `tries` it took."""
    deaths = attempt.deaths
    short = any(map(_short_of_memory, deaths))
    too_large = _too_large(stage, attempt)
    with trying(0.5 if short or too_large else 1.0, attempt.alive):
        result = _compute(stage, table, attempt, short, too_large)
    result.metrics["tries"] = len(deaths) + 1
    if short or too_large:
        result.counts["halvings"] = result.counts.get("halvings", 0) + 1
    return result


def _compute(stage: ShardStage, table: pa.Table, attempt: Attempt, short: bool, too_large: bool) -> ShardResult:
    if len(attempt.deaths) < 2 or not stage.independent_rows:
        return compute_shard(stage, table)
    if too_large:
        attempt.note(HALVED)
        return compute_shard(stage, table)
    given_up = _given_up(attempt)
    result = compute_rows(stage, table, given_up, attempt.note)
    if given_up or short or WHOLE in _noted(attempt):
        return result
    attempt.note(WHOLE)
    return compute_shard(stage, table)


def _too_large(stage: ShardStage, attempt: Attempt) -> bool:
    """Whether it has killed a third worker as a whole, which half the budget has not been tried against."""
    if not stage.independent_rows:
        return len(attempt.deaths) >= 3
    noted = _noted(attempt)
    return WHOLE in noted and HALVED not in noted


def _noted(attempt: Attempt) -> Counter[int]:
    """Row, or what is noted in place of one -> workers that died with it in hand."""
    return Counter(death["row"] for death in attempt.deaths if "row" in death)


def _given_up(attempt: Attempt) -> dict[int, str]:
    return {row: f"its worker was killed {deaths} times while it was in hand"
            for row, deaths in _noted(attempt).items() if deaths >= 2 and row >= 0}


def _short_of_memory(death: dict[str, Any]) -> bool:
    """Whether the kernel has killed for want of memory on this machine since that try began. Of another machine nothing is known."""
    now = oom_kills()
    return death["host"] == socket.gethostname() and now is not None and death["oom_kills"] is not None and now > death["oom_kills"]
