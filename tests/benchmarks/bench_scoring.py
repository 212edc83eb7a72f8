"""Scoring text pairs against `sentence_transformers.CrossEncoder.predict`, as a user calls it and at its best setting.

    python -m tests.benchmarks.bench_scoring --data ../shared/data/scifact
    python -m tests.benchmarks.bench_scoring --data ../shared/data/msmarco-v1-dl --split dl19

The pairs are BM25's best documents for a few judged queries, so that nDCG@10 can be compared too. Ours is what the stages run:
`CrossEncoderScorer` in the precision that the device has natively. The baseline's best setting takes that precision as well and the
best of a few batch sizes.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from readqg import devices, models
from readqg.config import Compute
from readqg.corpus import Documents, read_judgments, read_texts, subset
from readqg.crossencoder import CrossEncoderScorer
from readqg.evaluation.metrics import evaluate
from readqg.retrieval import bm25_run
from tests.benchmarks.timing import machine, paired, seconds


def main() -> None:
    args = _args()
    torch.set_num_threads(args.threads)
    judgments = read_judgments(args.data, args.split)
    queries = read_texts(args.data)
    asked = {query: queries[query] for query in subset([q for q in judgments if q in queries], args.queries)}
    documents = Documents.open(args.data)
    run = bm25_run(documents, asked, top_k=args.top_k)
    keys = [(query, doc) for query, docs in run.items() for doc in docs]
    texts = dict(zip(ids := sorted({doc for _, doc in keys}), documents.texts(ids), strict=True))
    pairs = [(asked[query], texts[doc]) for query, doc in keys]
    device, dtype = devices.device_and_dtype(Compute())
    print(f"{machine()}\n{len(pairs)} pairs of {args.data}, {device.type}, {dtype}")

    ours = CrossEncoderScorer(models.resolve(args.model), 512, args.batch_tokens, device, dtype)
    plain = CrossEncoder(args.model, max_length=512, device=device.type)
    best = CrossEncoder(args.model, max_length=512, device=device.type, model_kwargs={"dtype": dtype})
    some = pairs[:: max(1, len(pairs) // args.warm)]
    size = min(args.batches, key=lambda n: seconds(lambda: _predict(best, some, n)))
    ours.score(pairs[:8])
    _predict(plain, pairs[:8], 32)
    paired("as a user calls it", lambda: _predict(plain, pairs, 32), lambda: ours.score(pairs), args.runs)
    paired(f"at its best (batch {size})", lambda: _predict(best, pairs, size), lambda: ours.score(pairs), args.runs)
    _quality(keys, judgments, ours.score(pairs), _predict(plain, pairs, 32))


def _predict(model: CrossEncoder, pairs: list[tuple[str, str]], batch: int) -> np.ndarray:
    scores = model.predict(pairs, batch_size=batch, activation_fn=torch.nn.Identity(), show_progress_bar=False, convert_to_tensor=True)
    return scores.float().cpu().numpy()


def _quality(keys: list[tuple[str, str]], judgments: dict[str, dict[str, int]], ours: np.ndarray, theirs: np.ndarray) -> None:
    print(f"largest difference of a logit: {np.abs(ours - theirs).max():.4f}")
    for name, scores in (("ours", ours), ("theirs", theirs)):
        run: dict[str, dict[str, float]] = {}
        for (query, doc), score in zip(keys, scores.tolist(), strict=True):
            run.setdefault(query, {})[doc] = score
        held = {query: judgments[query] for query in run}
        print(f"nDCG@10 {name}: {evaluate(held, run, ['nDCG@10'])['nDCG@10']:.4f}")


def _args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/scifact")
    parser.add_argument("--split", default="test", help="which judgments")
    parser.add_argument("--model", default="../shared/models/ms-marco-MiniLM-L-12-v2")
    parser.add_argument("--queries", type=int, default=10)
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--warm", type=int, default=64, help="pairs to choose the baseline's batch by, of all queries")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
