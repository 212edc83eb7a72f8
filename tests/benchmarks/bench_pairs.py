"""Scores to pairs, out of core, against dictionaries in Python (the authors' way), on synthetic scores of MS MARCO's shape.

    python -m tests.benchmarks.bench_pairs --rows 10_000_000 --baseline-rows 10_000_000

The baseline gets the first rows of the same files. Passages are drawn from a Zipf-like law, ids are strings. Prints rows a second of
both, their ratio, and the peak resident memory of all of our processes together. The rows are written once to --work and used again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from readqg import api
from readqg.config import Compute, ImportConfig, PairsConfig
from tests.benchmarks.timing import machine

_CHUNK = 1 << 20


def main() -> None:
    args = _args()
    args.work.mkdir(parents=True, exist_ok=True)
    passages = max(1000, args.rows * 88 // 1600)  # 160 M rows, 8.8 M passages
    scores, documents, queries = _inputs(args.work, args.rows, passages)
    print(f"{machine()}\n{args.rows:,} rows, {passages:,} passages", flush=True)
    rates = []
    for _ in range(args.runs):
        with TemporaryDirectory(dir=args.work) as out, _Peak() as peak:
            config = PairsConfig(scores=str(scores), documents=str(documents), queries=str(queries), out=f"{out}/pairs",
                                 partitions=args.partitions, compute=Compute(workers=args.workers))
            began = time.perf_counter()
            summary = api.pairs(config)
            took = time.perf_counter() - began
        rates.append(args.rows / took)
        print(f"ours: {took:.1f} s, {rates[-1]:,.0f} rows/s, {summary['kept']:,} passages kept, peak {peak.gib:.2f} GiB ({peak.largest})",
              flush=True)
    inputs = (scores, documents, queries)
    baseline = [_dictionaries(inputs, args.baseline_rows, args.work / "baseline.jsonl") for _ in range(args.runs)]
    ratios = [own / base for own, base in zip(rates, baseline, strict=True)]
    print(f"baseline: {statistics.median(baseline):,.0f} rows/s on {args.baseline_rows:,} rows; ratio {statistics.median(ratios):.1f} "
          f"(min {min(ratios):.1f}, max {max(ratios):.1f})")


def _inputs(work: Path, rows: int, passages: int) -> tuple[Path, Path, Path]:
    """Score file, passages and queries as imported; made once."""
    rng = np.random.default_rng(0)
    queries = max(100, rows // 320)
    scores, documents, texts = (work / f"{name}-{rows}.parquet" for name in ("scores", "documents", "queries"))
    if not documents.exists():
        schema = pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("score", pa.float32())])
        with pq.ParquetWriter(scores, schema) as writer:
            for start in range(0, rows, _CHUNK):
                n = min(_CHUNK, rows - start)
                doc = (passages * rng.random(n) ** 2).astype(np.int64)  # a few passages have many queries
                columns = [_ids(rng.integers(queries, size=n)), _ids(doc), pa.array(rng.normal(-4, 5, n).astype(np.float32))]
                writer.write_table(pa.table(columns, schema=schema))
        _texts(texts, "_id", queries, "a query of some words")
        _texts(documents, "_id", passages, "a passage of some sixty words " * 10)
    folders = [work / f"{kind}-{rows}" for kind in ("documents", "queries")]
    for folder, source in zip(folders, (documents, texts), strict=True):
        kind: Any = folder.name.partition("-")[0]
        api.import_corpus(ImportConfig(source=str(source), out=str(folder), kind=kind, shard_rows=65_536))
    return scores, *(folder / folder.name.partition("-")[0] for folder in folders)


def _texts(path: Path, id_field: str, count: int, text: str) -> None:
    schema = pa.schema([(id_field, pa.string()), ("title", pa.string()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, count, _CHUNK):
            n = min(_CHUNK, count - start)
            ids = _ids(np.arange(start, start + n))
            writer.write_table(pa.table([ids, pa.repeat("", n), pa.repeat(text, n)], schema=schema))


def _ids(numbers: np.ndarray) -> pa.Array:
    return pa.array(numbers).cast(pa.string())


def _dictionaries(inputs: tuple[Path, Path, Path], rows: int, out: Path, m: int = 4) -> float:
    """Rows a second of the same work with dictionaries, a row at a time: texts and scores in memory, JSON lines out."""
    scores, documents, queries = inputs
    began = time.perf_counter()
    texts = {row["doc_id"]: f"{row['title']} {row['text']}".strip() for row in _rows(documents, 10**9)}
    asked = {row["query_id"]: row["text"] for row in _rows(queries, 10**9)}
    by_passage: dict[str, dict[str, float]] = defaultdict(dict)
    count = 0
    for row in _rows(scores, rows):
        by_passage[row["doc_id"]][row["query_id"]] = row["score"]
        count += 1
    with out.open("w") as file:
        for doc_id, found in by_passage.items():
            ranked = sorted(found.items(), key=lambda item: (-item[1], item[0]))
            high, low = ranked[0][1], ranked[-1][1]
            if len(ranked) < 2 * m or high <= low or high <= 0 or low > 0:
                continue
            chosen = [
                {"query_id": query, "query": asked[query], "score": score, "relevance": (score - low) / (high - low)}
                for query, score in ranked]
            positives = [query for query in chosen if query["score"] > 0][:m]
            negatives = [query for query in reversed(chosen) if query["score"] <= 0][:m]
            line = {"doc_id": doc_id, "text": texts[doc_id], "positives": positives, "negatives": negatives}
            file.write(json.dumps(line) + "\n")
    return count / (time.perf_counter() - began)


def _rows(path: Path, most: int) -> Iterator[dict[str, Any]]:
    for part in sorted(path.glob("part-*")) if path.is_dir() else [path]:
        for batch in pq.ParquetFile(part).iter_batches(min(_CHUNK, most)):
            yield from batch.slice(0, most).to_pylist()
            most -= batch.num_rows
            if most <= 0:
                return


class _Peak:
    """Peak resident memory of this process and all its children, shared pages counted once a process."""

    def __enter__(self) -> _Peak:
        self.gib, self.largest, self._stop = 0.0, "", threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.5):
            held: dict[str, float] = {}
            for process in [me, *me.children(recursive=True)]:
                try:
                    memory, name = process.memory_full_info(), f"{process.cmdline()[0].partition(' ')[0].rpartition('/')[2]} {process.pid}"
                    held[name] = getattr(memory, "pss", memory.rss) / 1024**3
                except (psutil.Error, IndexError):
                    continue
            if sum(held.values()) > self.gib:
                self.gib = sum(held.values())
                self.largest = ", ".join(f"{name}: {held[name]:.2f}" for name in sorted(held, key=lambda n: -held[n])[:5])

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def _args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--baseline-rows", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("bench-pairs"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
