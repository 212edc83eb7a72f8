"""`readqg plan`: the estimate for a corpus and a machine, as a table and as plain values."""

from __future__ import annotations

import logging
import math
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from readqg import sample
from readqg.config import PlanConfig
from readqg.places import place_of
from readqg.planning.calibrate import Calibration, calibrate
from readqg.planning.machine import ACCELERATORS, Estimate, Machine, Rates, assumed_rates, estimate
from readqg.planning.work import Corpus, not_counted, total_disk, work_of
from readqg.progress import duration
from readqg.steps import Steps

_GIB = 1024**3
_PROCESS_BYTES = 1.5 * _GIB  # Python, torch and Ray's part before any weights
_ID_BYTES = 60  # a document's id and its place, in the driver and in every worker that looks texts up
log = logging.getLogger("readqg")

_GROWTH = (1, 10, 100)


def plan(config: PlanConfig) -> dict[str, Any]:
    """Print and return the estimate. Raises as `calibrate` does, and `InputError` for a rates file that cannot be read."""
    here = config.machine == "here" and config.rates is None
    if config.accelerators is not None:  # a rate is that of one of so many workers
        config = config.model_copy(update={"compute": config.compute.model_copy(update={"workers": config.accelerators})})
    with _imported(config) as folder:
        found = calibrate(config, folder, measure=here)
    corpus = _asked(found.corpus, config)
    rates = _rates(config, found)
    if config.save_rates:
        rates.write(Path(config.save_rates))
    machine = _machine(config, rates)
    stages = _stages(corpus, config, found, machine)
    growth = {times: _total(_stages(_larger(corpus, times), config, found, machine)) for times in _GROWTH}
    summary = _summary(corpus, config, found, machine, stages, growth)
    _print(summary)
    return summary


@contextmanager
def _imported(config: PlanConfig) -> Iterator[str]:
    """The corpus as a run would see it: imported, for a while, where it is not yet."""
    source = place_of(config.corpus or str(sample.corpus_folder()))
    if any((source / name).exists() for name in ("_SUCCESS", "documents/_SUCCESS")):
        yield str(source)
        return
    with TemporaryDirectory(prefix="readqg-plan-") as scratch:
        if Steps(config, place_of(scratch) / "corpus").import_corpus()["rejected"]:
            log.warning("A plan keeps nothing, that file neither; `readqg import` and `readqg run` keep theirs.")
        yield f"{scratch}/corpus"


def _asked(corpus: Corpus, config: PlanConfig) -> Corpus:
    """The corpus's own figures, those given in their place; where no corpus is given, those of the sample but for its queries."""
    given: dict[str, Any] = {}
    if config.document_count is not None:
        given["documents"] = config.document_count
    if config.mean_document_tokens is not None:
        tokens = max(1, round(config.mean_document_tokens))
        given |= {"lengths": (tokens,), "text_bytes": corpus.text_bytes * tokens / max(1, sum(corpus.lengths) / len(corpus.lengths))}
    if config.query_count is not None or (config.document_count is not None and config.corpus is None):
        given["queries"] = config.query_count or 0
    return replace(corpus, **given)


def _rates(config: PlanConfig, found: Calibration) -> Rates:
    if config.rates is not None:
        return Rates.read(Path(config.rates))
    if config.machine == "here":
        return found.rates
    return assumed_rates(config.machine, found.generator_parameters, found.scorer_parameters)


def _machine(config: PlanConfig, rates: Rates) -> Machine:
    known = ACCELERATORS.get(config.machine)
    price = config.price if config.price is not None else known.price if known else 0.0
    return Machine(config.machine, rates, config.compute.workers, config.accelerators_per_node, price,
                   config.failures_per_node_hour, config.restart_s)


def _stages(corpus: Corpus, config: PlanConfig, found: Calibration, machine: Machine) -> list[Estimate]:
    work = work_of(corpus, config, found.scorer_bytes, config.label_pairs, config.label_shard_rows)
    return [estimate(stage, corpus.documents, machine, config.train.checkpoint_steps) for stage in work]


def _larger(corpus: Corpus, times: int) -> Corpus:
    return replace(corpus, documents=corpus.documents * times)


def _total(stages: Sequence[Estimate]) -> dict[str, float]:
    return {
        "hours": sum(stage.hours for stage in stages),
        "expected_hours": sum(stage.expected_hours for stage in stages),
        "lost_hours": sum(stage.lost_hours for stage in stages),
        "dollars": sum(stage.dollars for stage in stages),
        "disk_gib": total_disk([stage.work for stage in stages]) / _GIB,
    }


def _summary(corpus: Corpus, config: PlanConfig, found: Calibration, machine: Machine, stages: Sequence[Estimate],
             growth: dict[int, dict[str, float]]) -> dict[str, Any]:
    terms = sum(corpus.lengths) / len(corpus.lengths)
    return {
        "machine": {"kind": machine.name, "accelerators": machine.workers, "nodes": machine.nodes, "price": machine.price,
                    "failures_per_node_hour": machine.failures_per_node_hour, "rates": machine.rates.source},
        "corpus": {"documents": corpus.documents, "mean_tokens": terms, "queries": corpus.queries, "max_documents": config.max_documents},
        "stages": {
            stage.work.stage: {
                "units": stage.work.units, "unit": stage.work.unit, "tokens": stage.work.tokens, "workers": stage.workers,
                "shards": stage.work.shards, "larger_shards": _larger_shards(stage),
                "hours": stage.hours, "expected_hours": stage.expected_hours, "lost_hours": stage.lost_hours,
                "disk_gib": stage.work.disk_bytes / _GIB, "memory_gib": _memory(stage, corpus, config, found) / _GIB,
                "dollars": stage.dollars, "grows_with": stage.work.grows_with,
            } for stage in stages
        },
        "not_counted": not_counted(config),
        "total": _total(stages),
        "if_larger": {f"{times}x documents": total for times, total in growth.items()},
    }


def _larger_shards(stage: Estimate) -> str | None:
    """The flag that keeps the driver from bounding a stage; None where it does not, or no flag does."""
    flag = stage.work.shard_flag
    return f"{flag[0]} {flag[1] * stage.fewer_shards}" if flag and stage.fewer_shards > 1 else None


def _memory(stage: Estimate, corpus: Corpus, config: PlanConfig, found: Calibration) -> float:
    """Resident bytes of the largest process of a stage."""
    ids = corpus.documents * _ID_BYTES
    terms = sum(corpus.lengths) / len(corpus.lengths)
    match stage.work.stage:
        case "import":
            return _PROCESS_BYTES + ids
        case "retrieve" | "round-trip":
            # An index of two float and integer arrays, an entry for every distinct term of a document, and its text once.
            return _PROCESS_BYTES + ids + corpus.documents * (0.6 * terms * 8 + corpus.text_bytes)
        case "generate" | "ratio":
            return _PROCESS_BYTES + ids + 4 * found.generator_parameters * 1.3 + config.generate.batch_tokens * 40_000
        case "train":
            tokens = stage.work.trained / stage.work.units / stage.workers
            token, other = found.kept_bytes
            beside = corpus.pair_tokens(config.reranker.max_length, corpus.written_tokens) if config.machine == "here" else 0.0
            # Weights, gradients, two moments; on an accelerator, what is kept lies in its memory, and fused attention keeps no weights.
            return _PROCESS_BYTES + ids + 4 * found.scorer_bytes + tokens * (token + beside * other)
        case _:
            return max(_PROCESS_BYTES + ids + 2 * found.scorer_bytes, _measured() if config.machine == "here" else 0.0)


def _measured() -> float:
    """Peak resident bytes of this process, which has had the models in it (0 where nothing was measured)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit * 0.75


def _print(summary: dict[str, Any]) -> None:
    console = Console(stderr=True)
    machine, corpus = summary["machine"], summary["corpus"]
    title = (f"{corpus['documents']:,} documents of {corpus['mean_tokens']:.0f} tokens, {corpus['queries']:,} queries; "
             f"{machine['accelerators']} x {machine['kind']} (memory, disk in GiB)")
    table = Table(title=title, box=box.SIMPLE, pad_edge=False)
    for name in ("stage", "work", "tokens", "time", "memory", "disk", "cost"):
        table.add_column(name, justify="left" if name == "stage" else "right", no_wrap=True)
    for name, stage in summary["stages"].items():
        table.add_row(
            name, f"{_count(stage['units'])} {stage['unit']}", _count(stage["tokens"]) if stage["tokens"] else "",
            _hours(stage["expected_hours"]), f"{stage['memory_gib']:.1f}", f"{stage['disk_gib']:.2f}", f"${stage['dollars']:,.0f}")
    total = summary["total"]
    table.add_section()
    table.add_row("all", "", "", _hours(total["expected_hours"]), "", f"{total['disk_gib']:.2f}", f"${total['dollars']:,.0f}")
    console.print(table)
    if summary["not_counted"]:
        console.print(f"  not counted: {', '.join(summary['not_counted'])}", highlight=False)
    grows = "; ".join(f"{name} with {stage['grows_with']}" for name, stage in summary["stages"].items())
    console.print(f"  grows: {grows}", highlight=False)
    if machine["failures_per_node_hour"]:
        console.print(f"  failures: {machine['failures_per_node_hour']:g} a node-hour on {machine['nodes']} nodes cost "
                      f"{total['lost_hours']:.1f} worker-hours; without them: {_hours(total['hours'])}", highlight=False)
    for name, stage in summary["stages"].items():
        if stage["larger_shards"]:
            console.print(f"  {name}: {_count(stage['shards'])} shards are more than one driver deals out in the time that "
                          f"{stage['workers']} workers need: give {stage['larger_shards']} (to the stage by itself, --shard-rows)",
                          highlight=False)
    larger = ", ".join(f"{name} {_hours(values['expected_hours'])}" for name, values in summary["if_larger"].items())
    same = f" (queries for {summary['corpus']['max_documents']:,} documents all the same)" if summary["corpus"]["max_documents"] else ""
    console.print(f"  if larger{same}: {larger}", highlight=False)
    console.print(f"  rates: {machine['rates']}", markup=False, highlight=False)


def _count(value: float) -> str:
    for size, name in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.0f}"


def _hours(hours: float) -> str:
    if math.isinf(hours):
        return "never: nodes are lost faster than a shard is done"
    return duration(hours * 3600) if hours < 100 else f"{hours:,.0f} h"
