"""What the runs are worth against the judgments: `evaluation` of OUT/summary.json."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from readqg import runs
from readqg.corpus import read_judgments
from readqg.evaluation import metrics, significance
from readqg.places import Place

LABELS = {
    "bm25": "BM25", "first": "BM25 + bi-encoder", "start": "start", "tuned": "tuned", "start-fused": "start + BM25",
    "tuned-fused": "tuned + BM25",
}
RUNS = tuple(LABELS)
_COMPARED = (
    ("tuned", "start"), ("tuned", "bm25"), ("start", "bm25"), ("start-fused", "start"), ("tuned-fused", "start-fused"), ("first", "bm25"),
)
_SOMETIMES = "first"
"""Of these runs, where the settings ask for it."""


def evaluation(out: Place, measures: tuple[str, ...]) -> dict[str, Any] | None:
    """Measures of BM25, start and tuned, alone and with BM25's scores added, over the judged queries that were run, with 95 %
    intervals, paired differences in the first measure, and its value for every query. None where the corpus has no judgments."""
    judgments = asked_judgments(out)
    if not judgments:
        return None
    found = {name: runs.read_run(out / name) for name in RUNS if name != _SOMETIMES or (out / name).is_dir()}
    values = {name: metrics.per_query(judgments, run, measures) for name, run in found.items()}
    main = {name: by[measures[0]] for name, by in values.items()}
    return {
        "queries": len(judgments),
        "runs": {name: {m: float(np.mean(list(by[m].values()))) for m in measures} for name, by in values.items()},
        "intervals": {name: list(significance.bootstrap_interval(np.array(list(v.values())))) for name, v in main.items()},
        "differences": [_difference(main, *pair) for pair in _COMPARED if main.keys() >= set(pair)],
        "per_query": {q: {name: v[q] for name, v in main.items()} for q in judgments},
    }


def asked_judgments(out: Place) -> dict[str, dict[str, int]]:
    """Judgments of the queries that were run; those without any result count too. Empty where there are none."""
    if not (out / "corpus" / "judgments").is_dir() or not (out / "tuned").is_dir():
        return {}
    asked = set(runs.read_queries_beside(out / "bm25") or runs.read_run(out / "bm25"))
    return {q: docs for q, docs in read_judgments(out / "corpus" / "judgments").items() if q in asked}


def _difference(values: dict[str, dict[str, float]], of: str, against: str) -> dict[str, Any]:
    found = significance.compare(values[of], values[against])
    return {"of": of, "against": against, **asdict(found), "equal": found.queries - found.better - found.worse}
