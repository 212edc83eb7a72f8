"""Pairs and labels on real MS MARCO passages and real teacher scores."""

from collections import defaultdict

import numpy as np
import polars as pl
import pytest

from readqg.config import Compute, LabelConfig, PairsConfig, identity
from readqg.labeling.label import LabelStage
from readqg.labeling.pairs import make_pairs
from readqg.local import run_here
from readqg.shards import OutputFolder, open_input

pytestmark = pytest.mark.real
M = 4
KEPT = {"paper": 7186, "authors": 5027, "spread": 7186}


@pytest.fixture(scope="module")
def by_passage(shared):
    passages = defaultdict(dict)
    for query_id, doc_id, score in pl.read_parquet(shared / "data/msmarco-v1-slice/scores.parquet").iter_rows():
        passages[doc_id][query_id] = score
    return passages


def expected_queries(scores, rule):
    """The rule once more, one passage at a time: (positives, negatives) as query ids, or None."""
    order = sorted(scores, key=lambda q: (-scores[q], q))
    positives, negatives = [q for q in order if scores[q] > 0], [q for q in order if scores[q] <= 0]
    if rule == "authors":
        return (positives[:10], negatives[:10]) if min(len(positives), len(negatives)) >= 2 else None
    if len(order) < 2 * M or not positives or not negatives:
        return None
    if rule == "paper":
        return positives[:M], sorted(negatives, key=lambda q: (scores[q], q))[:M]
    places = {int(j * (len(order) - 1) / (2 * M - 1) + 0.5) for j in range(2 * M)}
    return [q for q in positives if order.index(q) in places], [q for q in negatives if order.index(q) in places]


@pytest.mark.parametrize("rule", sorted(KEPT))
def test_pairs_of_the_slice_are_those_of_the_rule(shared, tmp_path, by_passage, rule):
    data = shared / "data/msmarco-v1-slice"
    scores = str(data / "scores.parquet")
    config = PairsConfig(scores=scores, queries=str(data), documents=str(data), out=str(tmp_path), rule=rule, m=M)
    summary = make_pairs(config, run_here)
    assert (summary["scored_pairs"], summary["passages"], summary["kept"]) == (138_598, 9345, KEPT[rule])
    rows = {row["doc_id"]: row for row in open_input(tmp_path).read().to_pylist()}
    for doc_id, scores in by_passage.items():
        expected = expected_queries(scores, rule)
        assert (doc_id in rows) == (expected is not None)
        if expected is None:
            continue
        low, high = min(scores.values()), max(scores.values())
        for name, queries in zip(("positives", "negatives"), expected, strict=True):
            stored = rows[doc_id][name]
            assert {q["query_id"] for q in stored} == set(queries)
            assert all(q["score"] == scores[q["query_id"]] for q in stored)
            assert all(abs(q["relevance"] - (q["score"] - low) / (high - low)) < 1e-6 for q in stored)


def test_labels_agree_with_the_teachers_scores(shared, tmp_path, by_passage):
    data = shared / "data/msmarco-v1-slice"
    chosen = {q: d for d in sorted(by_passage)[:400:10] for q in sorted(by_passage[d])[:1]}
    (tmp_path / "run.trec").write_text("".join(f"{q} Q0 {d} 1 1 x\n" for q, d in chosen.items()))
    config = LabelConfig(
        candidates=str(tmp_path / "run.trec"), queries=str(data), documents=str(data), out=str(tmp_path / "scores"),
        model=str(shared / "models/ms-marco-MiniLM-L-12-v2"), max_length=256, compute=Compute(threads=1))
    stage = LabelStage(config)
    run_here(stage, OutputFolder.begin(config.out, stage.name, identity(config), stage.inputs(), stage.models()))
    rows = open_input(config.out).read().to_pylist()
    ours, theirs = np.array([(row["score"], by_passage[row["doc_id"]][row["query_id"]]) for row in rows]).T
    assert len(rows) == len(chosen)
    assert np.abs(ours - theirs).max() < 0.3
    assert np.corrcoef(ours, theirs)[0, 1] > 0.999
