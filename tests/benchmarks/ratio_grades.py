"""Prompts against human grades, which no model of ours has part in: how S(q | d, 1) - S(q | d, 0) goes with the grades of TREC DL.

    python -m tests.benchmarks.ratio_grades readqg/sample/prompts ../shared/data/msmarco-v1-dl --year dl19

Of each query up to `--each` passages of every grade, drawn by a fixed seed. Spearman and the area under the curve (grades 2 and 3 against 0
and 1) are means over the queries that have both sides, with standard errors.
"""

from __future__ import annotations

import argparse
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from readqg import devices
from readqg.config import Compute
from readqg.corpus import Documents, read_judgments, read_texts
from readqg.generator.backbone import Backbone
from readqg.generator.model import Generator
from readqg.generator.prompts import SoftPrompt
from readqg.generator.ratio import log_ratios

_TOGETHER = 16
_DOCUMENT_TOKENS, _QUERY_TOKENS = 128, 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts")
    parser.add_argument("collection", type=Path, help="corpus.jsonl, queries.jsonl, qrels/YEAR.full.tsv")
    parser.add_argument("--year", default="dl19")
    parser.add_argument("--each", type=int, default=6, help="passages of a grade, a query")
    args = parser.parse_args()
    prompts = SoftPrompt.load(args.prompts)
    device, dtype = devices.device_and_dtype(Compute())
    devices.set_threads(Compute())
    model = Generator(Backbone.load(prompts.facts.base_model, device, dtype), prompts).eval()
    documents = Documents.open(args.collection / "corpus.jsonl")
    known, queries = set(documents.ids), read_texts(args.collection / "queries.jsonl")
    draw, rhos, areas, pairs = random.Random(0), [], [], 0
    for query_id, judged in sorted(read_judgments(args.collection / "qrels" / f"{args.year}.full.tsv").items()):
        by_grade = defaultdict(list)
        rows = sorted((doc_id, grade) for doc_id, grade in judged.items() if doc_id in known)
        draw.shuffle(rows)
        for doc_id, grade in rows:
            by_grade[grade].append(doc_id)
        chosen = [(doc_id, grade) for grade, ids in by_grade.items() for doc_id in ids[: args.each]]
        if len(by_grade) < 2:
            continue
        ratios = _ratios(model, queries[query_id], documents.texts([doc_id for doc_id, _ in chosen]))
        grades = [grade for _, grade in chosen]
        pairs += len(grades)
        rhos.append(spearmanr(ratios, grades).statistic)
        relevant = [grade >= 2 for grade in grades]
        if 0 < sum(relevant) < len(relevant):
            areas.append(roc_auc_score(relevant, ratios))
    print(f"{args.prompts}, {args.year}: {pairs} pairs; Spearman {_said(rhos)}; area under the curve {_said(areas)}")


@torch.no_grad()
def _ratios(model: Generator, query: str, texts: list[str]) -> list[float]:
    found = []
    for first in range(0, len(texts), _TOGETHER):
        some = texts[first : first + _TOGETHER]
        found += [ratio for row in log_ratios(model, some, [[query]] * len(some), _DOCUMENT_TOKENS, _QUERY_TOKENS) for ratio in row]
    return found


def _said(values: list[float]) -> str:
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f} over {len(values)} queries"


if __name__ == "__main__":
    main()
