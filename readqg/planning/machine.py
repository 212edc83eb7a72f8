"""What a machine does in an hour, and what failures cost it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from readqg.errors import InputError
from readqg.planning.work import Work

_SEARCHED_PER_S = 1e8  # documents whose BM25 scores are added up and sorted, on one core
_SHARD_S = 0.03  # what the driver takes for a shard, one after another, whatever its work (tests/benchmarks/bench_shards.py)


@dataclass(frozen=True)
class Rates:
    """What one model worker does. `source`: where the figures are from, in words; shown beside every estimate."""

    generate_tokens_per_s: float
    """Read by the generator."""
    write_tokens_per_s: float
    """Written by it: one after another, so that each costs several times a read one."""
    score_tokens_per_s: float
    train_tokens_per_s: float
    """Forward and back, of tokens with gradient."""
    import_documents_per_s: float
    search_queries_per_s: float
    """BM25 queries over a corpus so small that its size does not count."""
    step_s: float
    """What a training step takes beside its tokens: launching, the optimizer, the log."""
    start_s: float
    """From a command to its first shard: Ray's workers and the model."""
    source: str

    def seconds(self, work: Work, documents: int) -> tuple[float, float]:
        """(seconds of work on one worker, seconds that more workers do not shorten)."""
        if work.stage == "import":
            return work.units / self.import_documents_per_s, 0.0
        if work.stage in ("retrieve", "round-trip"):
            search_s = work.units * (1 / self.search_queries_per_s + documents / _SEARCHED_PER_S)
            return 0.0, documents / self.import_documents_per_s + search_s
        seconds = work.generated / self.generate_tokens_per_s + work.written / self.write_tokens_per_s
        seconds += work.scored / self.score_tokens_per_s + work.trained / self.train_tokens_per_s
        if work.stage == "train":
            seconds += work.units * self.step_s
        return seconds, self.start_s * work.models

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Rates:
        """What `write` wrote. Raises `InputError` for anything else."""
        try:
            rates = cls(**json.loads(path.read_text()))
            numbers = {name: value for name, value in asdict(rates).items() if name != "source"}
            if not all(isinstance(value, int | float) and (value > 0 or name == "step_s") for name, value in numbers.items()):
                raise ValueError("every rate is a number above 0")
        except (OSError, TypeError, ValueError) as error:
            raise InputError(f"{path} holds no rates ({error}). `readqg plan --save-rates FILE` writes them.") from None
        return rates


@dataclass(frozen=True)
class Accelerator:
    """Dense bf16 peak in TFLOP/s as the maker states it; `price`: dollars an hour for one, a round figure for on-demand cloud machines,
    to be replaced by one's own. `writing`, `scoring`, `training`: shares of the peak that are assumed where nothing was measured;
    the larger the accelerator, the less of it a model of 20 to 250 M parameters fills."""

    peak_tflops: float
    price: float
    writing: float
    scoring: float
    training: float


ACCELERATORS = {
    "h100": Accelerator(989, 3.0, 0.03, 0.08, 0.06),
    "a100": Accelerator(312, 1.8, 0.06, 0.15, 0.12),
    "l4": Accelerator(121, 0.8, 0.1, 0.25, 0.2),
}


def assumed_rates(kind: str, generator_parameters: float, scorer_parameters: float) -> Rates:
    """Rates of an accelerator by its peak: 2 FLOP a parameter and token forward, 6 forward and back. Parameters without
    embeddings."""
    known = ACCELERATORS[kind]
    flops = known.peak_tflops * 1e12
    return Rates(
        generate_tokens_per_s=known.writing * flops / (2 * generator_parameters),  # over all tokens of usual lengths
        write_tokens_per_s=known.writing * flops / (2 * generator_parameters),
        score_tokens_per_s=known.scoring * flops / (2 * scorer_parameters),
        train_tokens_per_s=known.training * flops / (6 * scorer_parameters),
        import_documents_per_s=20_000.0,
        search_queries_per_s=500.0,
        step_s=0.08,
        start_s=30.0,
        source=f"ASSUMED, not measured: {known.writing:.0%}, {known.scoring:.0%} and {known.training:.0%} of the peak of {kind} to write, "
        "score and train. `readqg plan --save-rates FILE` on such a machine measures them",
    )


@dataclass(frozen=True)
class Machine:
    """`workers`: model workers (accelerators, or processes on CPU), `per_node` of them on a node. `price`: dollars a worker and
    hour. `failures_per_node_hour`: how often a node is lost; `restart_s`: until another works in its place."""

    name: str
    rates: Rates
    workers: int = 1
    per_node: int = 1
    price: float = 0.0
    failures_per_node_hour: float = 0.0
    restart_s: float = 300.0

    @property
    def nodes(self) -> int:
        return math.ceil(self.workers / self.per_node)


@dataclass(frozen=True)
class Estimate:
    """One stage on a machine. `hours`: wall time without failures; `expected_hours`: with them; `lost_hours`: worker-hours that
    failures are expected to cost; `dollars`: of the workers that the stage uses, at the expected hours; `fewer_shards`: 1, or, where
    the driver cannot hand out shards as fast as they are done, how many times larger shards should be for the stage to be quickest."""

    work: Work
    workers: int
    hours: float
    expected_hours: float
    lost_hours: float
    dollars: float
    fewer_shards: int = 1


def estimate(work: Work, documents: int, machine: Machine, checkpoint_steps: int) -> Estimate:
    """Hours and cost of a stage.

    A shard stage loses, with a node, half of the shard in hand and the time until a node is back; the other nodes go on.
    Training stands still on the loss of any of its nodes, goes back half a checkpoint interval on average, and waits. With failures at
    rate f a node-hour, each costing c hours, the time becomes T / (1 - f c): the failures during the time lost count too."""
    shared, fixed = machine.rates.seconds(work, documents)
    dealt = work.stage not in ("train", "retrieve", "round-trip", "import")
    # Where one model comes after another, only the shards of one are there at a time.
    parallel = min(machine.workers, math.ceil(work.shards / work.models) if dealt else work.sharing)
    seconds = fixed + (_dealt_s(shared, work.shards, parallel) if dealt else shared / parallel)
    if work.stage == "train":
        kept = min(1.0, checkpoint_steps / max(work.units, 1)) / parallel
        failures = machine.failures_per_node_hour * math.ceil(parallel / machine.per_node)
    else:
        kept, failures = 1 / work.shards, machine.failures_per_node_hour
    share = failures * (shared * kept / 2 + machine.restart_s) / 3600
    expected = seconds / (1 - share) if share < 1 else math.inf
    return Estimate(work, parallel, seconds / 3600, expected / 3600, parallel * (expected - seconds) / 3600,
                    expected / 3600 * parallel * machine.price, _fewer_shards(shared, work.shards, parallel) if dealt else 1)


def _dealt_s(shared: float, shards: int, workers: int) -> float:
    """Seconds of so much work in shards: the workers', or the driver's where it cannot deal them out so fast."""
    # The last shards end together only on average: half a shard of waiting.
    return max(shared / workers + (shared / shards / 2 if workers > 1 else 0.0), shards * _SHARD_S)


def _fewer_shards(shared: float, shards: int, workers: int) -> int:
    """The power of two by which shards should be larger where the driver bounds them; 1 where it does not. Never fewer than workers."""
    if shards * _SHARD_S <= shared / workers:
        return 1
    factors = [2**n for n in range((shards // workers).bit_length())]
    return min(factors, key=lambda factor: (_dealt_s(shared, math.ceil(shards / factor), workers), factor))
