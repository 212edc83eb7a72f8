"""Small work for every stage on Ray, as command lines: many shards of a few batches each, tiny real models, no network."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from readqg.config import GeneratorSettings
from readqg.generator.backbone import Backbone
from readqg.generator.prompts import SoftPrompt
from tests.builders import WORDS, tiny_cross_encoder, tiny_llama, write_folder
from tests.labeling.collection import write_scores

DOCUMENTS, QUERIES, CANDIDATES = 120, 60, 8
_ON_CPU = ["--compute.device", "cpu", "--compute.precision", "fp32", "--compute.threads", "1"]


def write_corpus(root: Path) -> Path:
    """`root`/corpus.jsonl and documents, queries.jsonl, candidates.jsonl, run.trec and scores.parquet, the same at every call."""
    draw = random.Random(7)

    def text(longest: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(2, longest)))

    documents = {f"d{i}": text(40) for i in range(DOCUMENTS)}
    rows = [{"doc_id": i, "title": "", "text": t} for i, t in documents.items()]
    write_folder(root / "documents", rows, pa.schema([(name, pa.string()) for name in rows[0]]))
    queries = {f"q{i}": text(8) for i in range(QUERIES)}
    candidates = {q: draw.sample(sorted(documents), CANDIDATES) for q in queries}
    _lines(root / "corpus.jsonl", ({"_id": i, "title": "", "text": t} for i, t in documents.items()))
    _lines(root / "queries.jsonl", ({"_id": i, "text": t} for i, t in queries.items()))
    _lines(root / "candidates.jsonl", ({"query_id": q, "doc_ids": ids} for q, ids in candidates.items()))
    (root / "run.trec").write_text("".join(
        f"{q} Q0 {d} {n} {-n} bm25\n" for q, ids in candidates.items() for n, d in enumerate(ids, 1)))
    write_scores(root / "scores.parquet", ((q, d, draw.uniform(-9, 9)) for q in queries for d in draw.sample(sorted(documents), 40)))
    return root


def _lines(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def label(root: Path) -> list[str]:
    model = tiny_cross_encoder(root / "cross-encoder")
    return ["label", "--candidates", f"{root}/candidates.jsonl", "--queries", f"{root}/queries.jsonl",
            "--documents", f"{root}/corpus.jsonl", "--model", str(model), "--max-length", "60", "--batch-tokens", "200",
            "--shard-rows", "32", *_ON_CPU]


def rank(root: Path) -> list[str]:
    model = tiny_cross_encoder(root / "re-ranker", seed=1)
    return ["rank", "--run", f"{root}/run.trec", "--queries", f"{root}/queries.jsonl", "--documents", f"{root}/corpus.jsonl",
            "--model", str(model), "--max-length", "60", "--batch-tokens", "200", "--shard-queries", "4", *_ON_CPU]


def generate(root: Path) -> list[str]:
    prompts = root / "prompts"
    prompts.mkdir()
    backbone = tiny_llama(root / "backbone")
    SoftPrompt.initial(Backbone.load(str(backbone)), GeneratorSettings(n_relevance=2, n_instruction=3)).save(prompts)
    return ["generate", "--documents", f"{root}/documents", "--prompts", str(prompts), "--document-tokens", "60",
            "--max-new-tokens", "12", "--batch-tokens", "400", "--shard-rows", "8", *_ON_CPU]


def pairs(root: Path) -> list[str]:
    return ["pairs", "--scores", f"{root}/scores.parquet", "--queries", f"{root}/queries.jsonl",
            "--documents", f"{root}/corpus.jsonl", "--partitions", "10", "--shard-rows", "300", "--m", "2"]


WORKS: dict[str, Callable[[Path], list[str]]] = {"label": label, "pairs": pairs, "generate": generate, "rank": rank}
