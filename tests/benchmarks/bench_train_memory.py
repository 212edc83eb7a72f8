"""Memory of training against the size of what it reads, 10 k to 1 M documents, each size in processes of its own.

    python -m tests.benchmarks.bench_train_memory generator
    python -m tests.benchmarks.bench_train_memory reranker

Tiny models, so that what is measured is the reading. The driver opens the folders and prepares the stage; a worker, which is another
process, takes it up as pickled and does 50 batches with loss and gradient, and a validation.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from readqg.config import Compute, TrainGeneratorConfig, TrainRerankerConfig
from readqg.corpus.rows import SCHEMAS
from readqg.generator.generate import QUERIES
from readqg.shards import OutputFolder
from readqg.stage import ShardResult
from tests.benchmarks.timing import machine
from tests.builders import tiny_cross_encoder, tiny_t5
from tests.generator.pairs import PAIRS, pair_row

_PAIR_PARTS = 64
_DOCUMENTS_A_PART = {"documents": 2048, "queries": 256}  # 2,048 is `import`'s own
_BATCHES = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["generator", "reranker"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--work", default=None)
    parser.add_argument("--drive", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--train", default=None, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.drive:
        return _drive(args.what, Path(args.drive))
    if args.train:
        return _train(Path(args.train))
    print(machine())
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        for size in args.sizes:
            folder = Path(work) / str(size)
            _prepare(args.what, folder, size)
            driver, worker = (_run(args.what, part, folder) for part in ("--drive", "--train"))
            said = [f"{who} {found['opened']:,.0f} MiB opened, {found['peak']:,.0f} MiB at the peak, {found['own']:,.0f} MiB of that "
                    "without mapped files" for who, found in (("the driver", driver), ("a worker", worker))]
            print(f"{size:,} documents: {'; '.join(said)}", flush=True)


def _run(what: str, part: str, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.benchmarks.bench_train_memory", what, part, str(folder)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


def _prepare(what: str, folder: Path, size: int) -> None:
    if what == "generator":
        tiny_t5(folder / "model")
        text = "a passage of some sixty words and more of them " * 6
        _write(folder / "pairs", size, PAIRS, lambda i: [{**pair_row(i, 4, 4), "text": text}], [512] * 1000)
        return
    tiny_cross_encoder(folder / "model", max_positions=128)
    _write(folder / "documents", size, SCHEMAS["documents"], lambda i: [{"doc_id": f"d{i}", "title": "", "text": _text(i)}])
    rows = {"sample": 0, "log_likelihood": -20.0, "n_tokens": 9, "error": None}
    _write(folder / "queries", size, QUERIES, lambda i: [
        {"doc_id": f"d{i}", "relevance": r, "query": f"what is number {i} of the {word} boundary layers", **rows}
        for r, word in ((1.0, "first"), (0.0, "other"))])


def _text(number: int) -> str:
    """Sixty words, as frequent as words are."""
    drawn = np.random.Generator(np.random.Philox(key=number)).zipf(1.3, 56) % 100_000
    return f"the wing of {number} " + " ".join(f"word{n}" for n in drawn.tolist())


def _write(path: Path, size: int, schema: pa.Schema, rows: Any, groups: list[int] | None = None) -> None:
    folder = OutputFolder.begin(path, "made", {"rows": size})
    parts = _PAIR_PARTS if path.name == "pairs" else -(-size // _DOCUMENTS_A_PART[path.name])
    for part in range(parts):
        made = [row for i in range(part * size // parts, (part + 1) * size // parts) for row in rows(i)]
        table = pa.Table.from_pylist(made, schema)
        sizes = [min(512, table.num_rows - first) for first in range(0, table.num_rows, 512)] if groups else None
        folder.commit(part, parts, ShardResult(table, table.num_rows, 0, 0), row_groups=sizes)
    folder.finish(parts)


def _drive(what: str, folder: Path) -> None:
    own = _watch_own()
    compute = Compute(device="cpu", precision="fp32")
    if what == "generator":
        from readqg.generator.training import GeneratorTraining

        stage: Any = GeneratorTraining(TrainGeneratorConfig(
            pairs=f"{folder}/pairs", out="unused", backbone=f"{folder}/model", n_relevance=2, n_instruction=3, compute=compute))
    else:
        from readqg.reranker.training import RerankerTraining

        stage = RerankerTraining(TrainRerankerConfig(
            queries=f"{folder}/queries", documents=f"{folder}/documents", start=f"{folder}/model", out="unused", max_length=48,
            compute=compute))
    opened = _peak()
    stage.prepare()
    (folder / "stage.pickle").write_bytes(pickle.dumps(stage))
    sys.stdout.write(json.dumps({"opened": opened, "peak": _peak(), "own": max(own)}) + "\n")


def _train(folder: Path) -> None:
    own = _watch_own()
    torch.set_num_threads(1)
    stage = pickle.loads((folder / "stage.pickle").read_bytes())
    opened = _peak()
    model = stage.build()
    for number in range(_BATCHES):
        loss, _ = stage.loss(model, stage.batch(number))
        loss.backward()
    stage.validate(model)
    sys.stdout.write(json.dumps({"opened": opened, "peak": _peak(), "own": max(own)}) + "\n")


def _watch_own() -> list[float]:
    """What the process holds that is no mapped file, MiB, from now on, twenty times a second."""
    found = [_resident("RssAnon")]

    def look() -> None:
        while True:
            found.append(_resident("RssAnon"))
            time.sleep(0.05)

    threading.Thread(target=look, daemon=True).start()
    return found


def _peak() -> float:
    """MiB. Not `ru_maxrss`, which a process takes over from the one that started it."""
    return _resident("VmHWM")


def _resident(name: str) -> float:
    """A line of /proc/self/status in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024


if __name__ == "__main__":
    main()
