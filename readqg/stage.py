"""What a stage is. The engine runs these; a stage knows nothing of Ray or DeepSpeed and is tested without them.

A *shard stage* turns rows into rows, one shard at a time. A *training stage* gives batches and a loss. Both are plain
picklable objects made from a config class; heavy things (models) are made in `load()` / `build()`, on the worker.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

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
        """Counters of the last `compute` (tokens, out-of-memory halvings), kept beside the part."""
        return {}


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


def compute_shard(stage: ShardStage, table: pa.Table) -> ShardResult:
    """Compute a shard so that one bad row costs one row: after an exception the shard is done row by row, and a row
    that raises alone becomes `stage.failed(row, message)`. Where every row raises, the fault is not the rows': the first
    exception is passed on, and nothing is committed."""
    try:
        out = stage.compute(table)
    except Exception as error:
        if not stage.independent_rows:
            raise
        log.warning("%s: a shard of %d rows failed (%s); it is done row by row", stage.name, table.num_rows, error)
        rows = [_compute_row(stage, table.slice(i, 1)) for i in range(table.num_rows)]
        if len(rows) > 1 and not any(computed for computed, _ in rows):
            raise
        out = pa.concat_tables([done for _, done in rows])
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
        metrics=stage.metrics(),
    )


def _compute_row(stage: ShardStage, row: pa.Table) -> tuple[bool, pa.Table]:
    try:
        return True, stage.compute(row).select(stage.schema.names).cast(stage.schema)
    except Exception as error:
        return False, stage.failed(row, f"{type(error).__name__}: {error}")


def _keys(table: pa.Table, key: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not key:
        return []
    return list(zip(*(map(str, table[name].to_pylist()) for name in key), strict=True))


class TrainStage:
    """A model, its batches and its loss. Everything random must come from `torch`'s generators, which the engine seeds
    anew at every step from (seed, step, rank), or from a generator the stage keys itself."""

    name: str
    steps: int
    seed: int
    keeps_start = True  # False: the best weights are those of a validation after the first step, even if the start's was better

    def inputs(self) -> dict[str, str]:
        """Name -> fingerprint of every input; a folder begun with others is refused."""
        raise NotImplementedError

    def models(self) -> dict[str, str]:
        """Name -> fingerprint of every model used."""
        return {}

    def build(self) -> Any:
        """The `torch.nn.Module` to train; parameters that require gradients are the ones trained."""
        raise NotImplementedError

    def batch(self, step: int) -> Any:
        """The global batch of step `step` (0-based): a pure function of (seed, step)."""
        raise NotImplementedError

    def loss(self, model: Any, batch: Any) -> tuple[Any, dict[str, float]]:
        """(scalar loss tensor, metrics as plain floats). Called inside the engine's one forward."""
        raise NotImplementedError

    def learning_rate(self, step: int) -> float:
        """Multiplier of the base learning rate at `step`."""
        return 1.0

    def validate(self, model: Any) -> dict[str, float]:
        """Held-out metrics; called every `validate_steps` steps and at both ends. Key `score`: higher is better, used to
        keep the best weights; absent: the last weights are kept."""
        return {}

    def save(self, model: Any, folder: Path, log: list[dict[str, Any]]) -> None:
        """Write the trained model's files into an empty folder. `log`: one dict a logged step."""
        raise NotImplementedError
