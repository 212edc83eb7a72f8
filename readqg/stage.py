"""What a shard stage is: rows into rows, one shard at a time. (A training stage: `readqg.training`.)

The engine runs stages; a stage knows nothing of Ray and is tested without it. It is a plain picklable object made from a config
class; heavy things (models) are made in `load()`, on the worker.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from readqg.errors import FolderError

log = logging.getLogger("readqg")


class ShardStage:
    """Rows in, rows out.

    Subclasses set `name`, `schema` (of the output; its last column is `error`), `key` (the columns, in both input and
    output, that identify an input row), and implement `total`, `read` and `compute`.
    """

    name: str
    schema: pa.Schema
    key: tuple[str, ...]
    needs_model = True  # False: no actor pool, `compute` runs in the CPU step
    independent_rows = True  # False: rows mean something only together, so a shard is never done row by row

    @property
    def total(self) -> int:
        """Number of shards. Depends on the input and the config alone, never on workers."""
        raise NotImplementedError

    def inputs(self) -> dict[str, str]:
        """Name -> fingerprint of every input; a folder begun with others is refused."""
        raise NotImplementedError

    def models(self) -> dict[str, str]:
        """Name -> fingerprint of every model used."""
        return {}

    def read(self, index: int) -> pa.Table:
        """The input rows of shard `index` (0-based), on a CPU worker."""
        raise NotImplementedError

    def prepare(self, table: pa.Table) -> pa.Table:
        """CPU work ahead of the model (tokenising). May add columns whose names begin with `_`."""
        return table

    def load(self) -> None:
        """Make the model. Called once in every model worker."""

    def compute(self, table: pa.Table) -> pa.Table:
        """The output rows for these input rows, in `schema`, in an order that depends on the rows alone."""
        raise NotImplementedError

    def failed(self, row: pa.Table, message: str) -> pa.Table:
        """The output rows for one input row (a table of length 1) that could not be done."""
        columns = {f.name: row[f.name] if f.name in row.column_names else pa.nulls(1, f.type) for f in self.schema}
        columns["error"] = pa.array([message])
        return pa.table(columns).cast(self.schema)

    def row_groups(self, table: pa.Table) -> list[int] | None:
        """Lengths of the row groups of the part, where they mean something; None for the writer's own."""
        return None

    def metrics(self) -> dict[str, float]:
        """Figures of the last `compute` (tokens, out-of-memory halvings), kept beside the part: a kill may lose them."""
        return {}

    def counts(self) -> dict[str, int]:
        """Exact counts of the last `compute`, kept in the part's footer and added up in `_SUCCESS`. By default: how often
        running out of memory halved the batches, where it did."""
        halvings = int(self.metrics().get("halvings", 0))
        return {"halvings": halvings} if halvings else {}


@dataclass
class ShardResult:
    """One shard computed: its table and the counts for its footer."""

    table: pa.Table
    inputs: int
    errors: int
    nothing: int
    first_id: str = ""
    last_id: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


_NOT_PREPARED = "_not_prepared"
# A damaged input, a full disk, a store that does not answer: never a row's fault. As its `error` it would be in the output for good.
_NO_ROWS_FAULT = (FolderError, OSError)


def prepare_shard(stage: ShardStage, table: pa.Table) -> pa.Table:
    """`stage.prepare`, so that one bad row costs one row: after an exception the rows are prepared one by one, and one that
    raises alone carries the message along to `compute_shard`. Where every row of several raises, the first exception is passed on,
    and so is what no row can be at fault for."""
    try:
        return stage.prepare(table)
    except _NO_ROWS_FAULT:
        raise
    except Exception as error:
        if not stage.independent_rows:
            raise
        log.warning("%s: a shard of %d rows could not be prepared (%s); it is done row by row", stage.name, table.num_rows, error)
        return prepare_rows(stage, table, cause=error)


def prepare_rows(
    stage: ShardStage,
    table: pa.Table,
    given_up: Mapping[int, str] | None = None,
    in_hand: Callable[[int], None] = lambda row: None,
    cause: Exception | None = None,
) -> pa.Table:
    """`prepare` row by row, with arguments and exceptions as those of `compute_rows`."""
    given_up = given_up or {}
    rows, raised = [], 0
    for i in range(table.num_rows):
        row = table.slice(i, 1)
        if i in given_up:
            rows.append(_not_prepared(row, given_up[i]))
            continue
        in_hand(i)
        try:
            rows.append(stage.prepare(row))
        except _NO_ROWS_FAULT:
            raise
        except Exception as error:
            cause = cause or error
            raised += 1
            rows.append(_not_prepared(row, _said(error)))
    if cause is not None and raised != 1 and raised == table.num_rows - len(given_up):
        raise cause
    return pa.concat_tables(rows, promote_options="permissive") if rows else stage.prepare(table)


def _not_prepared(row: pa.Table, message: str) -> pa.Table:
    return row.append_column(_NOT_PREPARED, pa.array([message]))


def compute_shard(stage: ShardStage, table: pa.Table) -> ShardResult:
    """Compute a shard so that one bad row costs one row: after an exception the shard is done row by row, and a row
    that raises alone becomes `stage.failed(row, message)`. Where every row of several raises, the fault is not the rows': the first
    exception is passed on, and nothing is committed. Nor is it the rows' in a `FolderError` or an `OSError`."""
    if _NOT_PREPARED in table.column_names:
        return compute_rows(stage, table)
    try:
        out = stage.compute(table)
    except _NO_ROWS_FAULT:
        raise
    except Exception as error:
        if not stage.independent_rows:
            raise
        log.warning("%s: a shard of %d rows failed (%s); it is done row by row", stage.name, table.num_rows, error)
        return compute_rows(stage, table, cause=error)
    return _result(stage, table, out, stage.metrics(), stage.counts())


def compute_rows(
    stage: ShardStage,
    table: pa.Table,
    given_up: Mapping[int, str] | None = None,
    in_hand: Callable[[int], None] = lambda row: None,
    cause: Exception | None = None,
) -> ShardResult:
    """Compute a shard row by row. `in_hand(i)` is called before row i; a row in `given_up` (row -> message) is not touched. Raises
    the first exception, or `cause`, where every row of several raises."""
    given_up = dict(given_up or {})
    if _NOT_PREPARED in table.column_names:
        messages = table[_NOT_PREPARED].to_pylist()
        given_up |= {i: message for i, message in enumerate(messages) if message is not None}
        table = table.drop_columns([_NOT_PREPARED])
    metrics: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    done, raised = [], 0
    for i in range(table.num_rows):
        row = table.slice(i, 1)
        if i in given_up:
            done.append(stage.failed(row, given_up[i]))
            continue
        in_hand(i)
        try:
            done.append(stage.compute(row).select(stage.schema.names).cast(stage.schema))
        except _NO_ROWS_FAULT:
            raise
        except Exception as error:
            cause = cause or error
            raised += 1
            done.append(stage.failed(row, _said(error)))
            continue
        metrics.update(stage.metrics())
        counts.update(stage.counts())
    if cause is not None and raised > 1 and raised == table.num_rows - len(given_up):
        raise cause
    out = pa.concat_tables(done) if done else stage.schema.empty_table()
    return _result(stage, table, out, dict(metrics), dict(counts))


def _result(
    stage: ShardStage, table: pa.Table, out: pa.Table, metrics: dict[str, float], counts: dict[str, int]
) -> ShardResult:
    out = out.select(stage.schema.names).cast(stage.schema)
    ids, done = _keys(table, stage.key), _keys(out, stage.key)
    bad = _keys(out.filter(pc.is_valid(out["error"])), stage.key) if "error" in out.column_names else []
    return ShardResult(
        table=out,
        inputs=table.num_rows,
        errors=len(set(bad)),
        nothing=len(set(ids) - set(done)),
        first_id="/".join(ids[0]) if ids else "",
        last_id="/".join(ids[-1]) if ids else "",
        metrics=metrics,
        counts=counts,
    )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _keys(table: pa.Table, key: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not key:
        return []
    return list(zip(*(map(str, table[name].to_pylist()) for name in key), strict=True))
