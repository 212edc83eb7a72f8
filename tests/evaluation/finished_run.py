"""The folders of a finished `readqg run`, written by hand: a few documents, queries, judgments and rankings that a test can check."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from readqg.config import RunConfig, make
from readqg.corpus.rows import SCHEMAS
from readqg.evaluation import report
from readqg.generator.generate import QUERIES
from readqg.pipeline import MEASURES
from readqg.places import place_of
from readqg.ranking import RUN
from readqg.reranker.selection import HeldOut, verdict_from_log
from readqg.runs import write_queries_beside
from readqg.start_scores import START_SCORE
from tests.builders import write_folder

WORDS = ["wing", "flow", "boundary", "layer", "shock", "heat", "body", "plate"]
_SCORED = QUERIES.append(pa.field(START_SCORE, pa.float32()))
SCRIPT = "<script>alert(1)</script>"


def finished_run(
    out: Path, documents: int = 40, queries: int = 12, depth: int = 10, relevances=(1.0, 0.5, 0.0), judged: bool = True,
    fused: bool = True, words: int = 12,
) -> Path:
    """A run whose tuned model puts the relevant document of an even query first and that of an odd one last. `queries` 0: a corpus without
    any. Document and query texts carry markup."""
    ids = [f"d{i}" for i in range(documents)]
    texts = [" ".join(WORDS[(i * 7 + k * (i % 5 + 1)) % 8] for k in range(words)) for i in range(documents)]
    rows = [{"doc_id": d, "title": f"{SCRIPT} about {d}" if i % 2 else "", "text": f"{t} <b>&amp;"} for i, (d, t) in
            enumerate(zip(ids, texts, strict=True))]
    write_folder(out / "corpus" / "documents", rows, SCHEMAS["documents"])
    written = [
        {"doc_id": d, "relevance": r, "sample": 0, "query": f"{' '.join(t.split()[: round(4 * r)])} zzz{SCRIPT}", "log_likelihood": -6.0,
         "n_tokens": 3, "error": None}
        for d, t in zip(ids, texts, strict=True) for r in relevances
    ]
    write_folder(out / "queries", written, QUERIES)
    for name, more in (("start", 0.0), ("tuned", 1.0)):
        write_folder(out / "grid" / "2" / name, [_at(d, k, more) for d in ids[:2] for k in range(11)], _SCORED)
    if queries:
        _rank(out, ids, queries, depth, judged, fused)
    _train(out / "reranker", ids[:20])
    return out


def summary_of(out: Path, **config) -> dict:
    """What `readqg.pipeline` would write to OUT/summary.json."""
    ranked = (out / "tuned").is_dir()
    return {
        "sample": False, "corpus": {"documents": 40, "queries": 12 if ranked else 0, "judgments": 12}, "cut": [SCRIPT],
        "seconds": {"import": 1.0, "train": 7200.0}, "guard": json.loads((out / "reranker" / "guard.json").read_text()),
        "evaluation": report.evaluation(place_of(out), MEASURES), "quality": None, "grid": "grid/2", "use": "the start",
        "fusion_weight": {"start": 0.5, "tuned": 0.7} if (out / "tuned-fused").is_dir() else {},
        "config": make(RunConfig, {"corpus": str(out / "corpus"), **config}).model_dump(mode="json"),
    }


def _at(doc_id: str, tenth: int, more: float) -> dict:
    """The query at r = tenth / 10; of d1 the last one failed."""
    failed = doc_id == "d1" and tenth == 10
    return {"doc_id": doc_id, "relevance": tenth / 10, "sample": 0, "query": None if failed else f"{WORDS[tenth % 8]} of {doc_id} {SCRIPT}",
            "log_likelihood": None, "n_tokens": 3, "error": "nothing was written" if failed else None,
            START_SCORE: None if failed else tenth / 10 + more + (doc_id == "d1")}


def _rank(out: Path, ids: list[str], queries: int, depth: int, judged: bool, fused: bool) -> None:
    names = [f"q{i}" for i in range(queries)]
    texts = [{"query_id": q, "text": f"what is {WORDS[i % 8]} {SCRIPT}"} for i, q in enumerate(names)]
    write_folder(out / "corpus" / "queries", texts, SCHEMAS["queries"])
    found = {q: [ids[(i * 3 + k) % len(ids)] for k in range(depth)] for i, q in enumerate(names)}
    if judged:
        rows = [{"query_id": q, "doc_id": found[q][1], "relevance": 2} for q in names]
        write_folder(out / "corpus" / "judgments", rows, SCHEMAS["judgments"])
    tuned = {q: [docs[1], docs[0], *docs[2:]] if i % 2 == 0 else [docs[0], *docs[2:], docs[1]] for i, (q, docs) in enumerate(found.items())}
    orders = {"bm25": found, "start": found, "tuned": tuned}
    if fused:
        orders |= {"start-fused": found, "tuned-fused": found}
    for name, order in orders.items():
        rows = [{"query_id": q, "doc_id": d, "rank": k, "score": 3.0 - k, "error": None} for q, docs in order.items()
                for k, d in enumerate(docs, 1)]
        write_folder(out / name, rows, RUN)
        write_queries_beside(out / name, names)


def _train(model: Path, ids: list[str]) -> None:
    """A log of six steps with three validations, the second the best."""
    model.mkdir()
    rng = np.random.default_rng(0)
    candidates = {d: [d, *(o for o in ids if o != d)] for d in ids}
    held_out = HeldOut(ids, list(candidates.values()), ["query"] * len(ids))
    own = np.array([d == source for source, docs in candidates.items() for d in docs])
    noise = rng.normal(size=len(own))
    log = [{"step": s, "loss": 1 / (s + 1), "bce": 1 / (s + 1), "own_score": float(s), "hardest_score": -1.0} for s in range(1, 7)]
    log += [{"step": s, "validation": held_out.judge(noise + gain * own).to_log()} for s, gain in ((0, 1.0), (3, 3.0), (6, 2.0))]
    log.sort(key=lambda line: line["step"])
    (model / "training_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    verdict_from_log(log).write(model, "the start")
