"""The control plane: many tiny shards, whose work is nothing, through the engine; and the same shards committed by a bare loop.

    python -m tests.benchmarks.bench_shards                   # 20,000 shards of one row
    python -m tests.benchmarks.bench_shards --shards 1000 --workers 2

Says what a shard costs beyond its work, what the driver and Ray's head take of memory meanwhile, and what opening, listing and
finishing a folder of so many parts take. Memory is the proportional share (PSS) of pages in memory, so what processes share counts
once; the object store, which is shared memory, is in the head's.
"""

from __future__ import annotations

import argparse
import itertools
import os
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from readqg.config import Compute, identity
from readqg.engine import cluster, data
from readqg.local import compute_shard
from readqg.shards import OutputFolder, verify
from tests.benchmarks.timing import machine, seconds
from tests.engine.toys import Squares, SquaresConfig

_EVERY_S = 2.0
_HEAD = ("gcs_server", "raylet", "log_monitor", "monitor.py", "dashboard", "runtime_env")


def main() -> None:
    args = _args()
    print(machine(), flush=True)
    stage = Squares(shards=args.shards, rows=args.rows)
    with TemporaryDirectory(dir=args.work) as work:
        bare = seconds(lambda: _bare(stage, Path(work) / "bare"))
        print(f"bare loop, its commits one after another: {bare:.1f} s, {1000 * bare / args.shards:.1f} ms a shard", flush=True)
        config = SquaresConfig(out=f"{work}/engine", compute=Compute(workers=args.workers, threads=1))
        folder = OutputFolder.begin(config.out, stage.name, identity(config), stage.inputs(), stage.models())
        with cluster.connect(config.compute), _Peaks() as peaks:
            missing = folder.missing(stage.total)
            began = time.monotonic()
            first = None
            for _ in data._receipts(stage, folder, config.compute, missing, args.workers):
                first = first or time.monotonic() - began
            took = time.monotonic() - began
        assert first is not None
        print(f"engine, {args.workers} worker(s): {took:.1f} s, the first shard after {first:.1f} s, "
              f"{1000 * (took - first) / (args.shards - 1):.1f} ms a shard after it", flush=True)
        print("peaks, MiB: " + ", ".join(f"{name} {size / 2**20:.0f}" for name, size in sorted(peaks.highest.items())), flush=True)
        listing, finishing = seconds(lambda: folder.missing(stage.total)), seconds(lambda: folder.finish(stage.total))
        again, checked = seconds(lambda: data.run(stage, config)), seconds(lambda: verify(config.out))
        print(f"listing {listing:.2f} s, finishing (every part's footer and digest) {finishing:.1f} s, "
              f"the same command again {again:.2f} s, verify {checked:.1f} s", flush=True)
        lost = sorted(Path(config.out).glob("part-*"))[:: 100]
        for part in itertools.chain(lost, [Path(config.out) / "_SUCCESS"]):
            part.unlink()
        resumed = seconds(lambda: data.run(stage, config))
        print(f"{len(lost)} of them lost and made again: {resumed:.1f} s, Ray's start included", flush=True)


def _bare(stage: Squares, out: Path) -> None:
    folder = OutputFolder.begin(str(out), stage.name, {}, stage.inputs(), stage.models())
    stage.load()
    for index in range(stage.total):
        folder.commit(index, stage.total, compute_shard(stage, stage.prepare(stage.read(index))))
    folder.finish(stage.total)


class _Peaks:
    """The most that this driver, Ray's head and its workers took while the context was open, in bytes."""

    def __enter__(self) -> _Peaks:
        self.highest: Counter[str] = Counter()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._done.wait(_EVERY_S):
            now = Counter({"driver": me.memory_full_info().pss})
            for child in me.children(recursive=True):
                with suppress(psutil.Error):
                    said = " ".join(child.cmdline())
                    kind = "head" if any(name in said for name in _HEAD) else "workers"
                    now[kind] += child.memory_full_info().pss
            self.highest |= now


def _args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=20_000)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", default=os.environ.get("TMPDIR", "/tmp"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
