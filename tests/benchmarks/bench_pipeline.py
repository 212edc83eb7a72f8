"""What Ray costs: a ranking stage through the engine against the same kernel in a bare loop with the same threads.

    python -m tests.benchmarks.bench_pipeline --queries 60 --top-k 50
    python -m tests.benchmarks.bench_pipeline --resume        # a folder with 99 % of its shards done, against a fresh run
    python -m tests.benchmarks.bench_pipeline --memory        # peak of the driver and of an actor, 10 k to 1 M documents

Two workers with a thread each are compared with two bare processes with a thread each (`--workers 2`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from readqg import api, local
from readqg.config import Compute, ImportConfig, RankConfig, RetrieveConfig, identity
from readqg.engine import cluster
from readqg.ranking import RankStage
from readqg.shards import OutputFolder
from tests.benchmarks.timing import machine, paired, seconds

_COUNTER = itertools.count()
_BARE = "import sys, json; from tests.benchmarks.bench_pipeline import bare; bare(json.loads(sys.argv[1]))"


def main() -> None:
    args = _args()
    print(machine(), flush=True)
    with TemporaryDirectory(dir=args.work) as work:
        if args.memory:
            _memory(Path(work), args)
            return
        run = Path(work) / "bm25"
        api.retrieve(RetrieveConfig(documents=args.data, queries=args.data, out=str(run), top_k=args.top_k, max_queries=args.queries))
        threads = torch.get_num_threads() if args.workers == 1 else 1
        config = RankConfig(run=str(run), queries=args.data, documents=args.data, out=f"{work}/ranked", model=args.model, shard_queries=4,
                            compute=Compute(workers=args.workers, threads=threads))
        with cluster.connect(config.compute):
            if args.resume:
                _resume(config)
            else:
                paired(f"{args.workers} bare process(es) / engine", lambda: _bare(config), lambda: api.rank(_fresh(config)), args.runs)


def _fresh(config: RankConfig) -> RankConfig:
    return config.model_copy(update={"out": f"{config.out}-{next(_COUNTER)}"})


def _bare(config: RankConfig) -> None:
    """The shards dealt out to plain processes; their start is timed, as the engine's workers' is."""
    config = _fresh(config)
    jobs = [json.dumps({"config": config.model_dump(), "part": part}) for part in range(config.compute.workers)]
    processes = [subprocess.Popen([sys.executable, "-c", _BARE, job]) for job in jobs]
    if any(process.wait() for process in processes):
        raise RuntimeError("a bare process failed")


def bare(job: dict[str, object]) -> None:
    """One plain process: every n-th shard, read, prepared, computed and written."""
    config, part = RankConfig.model_validate(job["config"]), int(str(job["part"]))
    stage = RankStage(config)
    folder = OutputFolder.begin(config.out, stage.name, identity(config), stage.inputs(), stage.models())
    stage.load()
    for index in range(part, stage.total, config.compute.workers):
        result = local.compute_shard(stage, stage.prepare(stage.read(index)))
        folder.commit(index, stage.total, result, stage.row_groups(result.table), 0.0)


def _resume(config: RankConfig) -> None:
    config = _fresh(config)
    fresh = seconds(lambda: api.rank(config))
    out = Path(config.out)
    parts = sorted(out.glob("part-*.parquet"))
    for lost in random.Random(0).sample(parts, max(1, len(parts) // 100)):
        lost.unlink()
    (out / "_SUCCESS").unlink()
    again = seconds(lambda: api.rank(config))
    nothing = seconds(lambda: api.rank(config))
    print(f"fresh {fresh:.1f} s ({len(parts)} shards); 99 % there {again:.1f} s ({again / fresh:.1%}); all there {nothing:.2f} s")


def _memory(work: Path, args: argparse.Namespace) -> None:
    """A ranking stage over ever more documents; each size is made in one process and ranked in another."""
    for documents in args.sizes:
        job = json.dumps({"work": str(work / str(documents)), "documents": documents, "model": args.model})
        for step in ("import_many", "rank_many"):
            code = f"import sys, json; from tests.benchmarks import bench_pipeline as b; b.{step}(json.loads(sys.argv[1]))"
            subprocess.run([sys.executable, "-c", code, job], check=True)


def import_many(job: dict[str, object]) -> None:
    """Make and import `documents` short documents."""
    work, count = Path(str(job["work"])), int(str(job["documents"]))
    work.mkdir()
    source = work / "corpus.parquet"
    schema = pa.schema([("_id", pa.string()), ("title", pa.string()), ("text", pa.string())])
    with pq.ParquetWriter(source, schema) as writer:
        for start in range(0, count, 100_000):
            ids = [f"d{i}" for i in range(start, min(count, start + 100_000))]
            writer.write_table(pa.table([ids, [""] * len(ids), [f"a short text about number {i}" for i in ids]], schema=schema))
    api.import_corpus(ImportConfig(source=str(source), out=str(work / "corpus"), kind="documents"))


def rank_many(job: dict[str, object]) -> None:
    """Rank 64 candidates for 8 queries, print the peaks."""
    work, count = Path(str(job["work"])), int(str(job["documents"]))
    queries, run = work / "queries.jsonl", work / "run.trec"
    queries.write_text("".join(json.dumps({"_id": f"q{i}", "text": "which number is it"}) + "\n" for i in range(8)))
    rng = random.Random(0)
    run.write_text("".join(f"q{q} Q0 d{d} {r} {1.0 / r} x\n" for q in range(8) for r, d in enumerate(rng.sample(range(count), 64), 1)))
    config = RankConfig(run=str(run), queries=str(queries), documents=str(work / "corpus/documents"), out=str(work / "ranked"),
                        model=str(job["model"]), shard_queries=1)
    peaks = {"driver": 0.0, "actor": 0.0}

    def watch() -> None:
        me = psutil.Process()
        while not done:
            peaks["driver"] = max(peaks["driver"], me.memory_info().rss)
            for child in me.children(recursive=True):
                try:
                    if "MapWorker" in child.cmdline()[0]:
                        peaks["actor"] = max(peaks["actor"], child.memory_info().rss)
                except (psutil.Error, IndexError):
                    continue
            time.sleep(0.2)

    done = False
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    api.rank(config)
    done = True
    thread.join()
    print(f"{count:,} documents: driver {peaks['driver'] / 2**20:.0f} MiB, actor {peaks['actor'] / 2**20:.0f} MiB", flush=True)


def _args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/scifact")
    parser.add_argument("--model", default="../shared/models/ms-marco-MiniLM-L-12-v2")
    parser.add_argument("--queries", type=int, default=60)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--work", default=os.environ.get("TMPDIR", "/tmp"))
    parser.add_argument("--runs", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
