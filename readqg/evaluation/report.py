"""The report of a whole run: what changed, how sure that is, and what was written; one HTML page that needs no network.

All text from data goes through Jinja's escaping; the page's policy forbids scripts and every outside address.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import jinja2
import numpy as np
import yaml

import readqg
from readqg import runs
from readqg.corpus import read_judgments, read_texts
from readqg.evaluation import charts, metrics, significance
from readqg.places import Place, place_of
from readqg.shards import open_input, stable_hash

LABELS = {
    "bm25": "BM25", "start": "start", "tuned": "tuned", "start-fused": "start + BM25", "tuned-fused": "tuned + BM25",
}
RUNS = tuple(LABELS)
_COMPARED = (
    ("tuned", "start"), ("tuned", "bm25"), ("start", "bm25"), ("start-fused", "start"), ("tuned-fused", "start-fused"),
)
_VALIDATION = (
    "nDCG@10 × 100 of the source document among BM25's top 20 and itself, for its r = 1 query; documents held out to choose the weights."
)
_SHOWN_DOCUMENTS, _SHOWN_QUERIES, _EXCERPT_CHARS = 10, 5, 600


def evaluation(out: Place, measures: tuple[str, ...]) -> dict[str, Any] | None:
    """Measures of BM25, start and tuned, alone and with BM25's scores added, over the judged queries that were run, with 95 %
    intervals, paired differences in the first measure, and its value for every query. None where the corpus has no judgments."""
    if not (out / "corpus" / "judgments").is_dir() or not (out / "tuned").is_dir():
        return None
    found = {name: runs.read_run(out / name) for name in RUNS}
    asked = set(runs.read_queries_beside(out / "bm25") or found["bm25"])  # those without any result count too
    judgments = {q: docs for q, docs in read_judgments(out / "corpus" / "judgments").items() if q in asked}
    if not judgments:
        return None
    values = {name: metrics.per_query(judgments, run, measures) for name, run in found.items()}
    main = {name: by[measures[0]] for name, by in values.items()}
    return {
        "queries": len(judgments),
        "runs": {name: {m: float(np.mean(list(by[m].values()))) for m in measures} for name, by in values.items()},
        "intervals": {name: list(significance.bootstrap_interval(np.array(list(v.values())))) for name, v in main.items()},
        "differences": [_difference(main, *pair) for pair in _COMPARED],
        "per_query": {q: {name: v[q] for name, v in main.items()} for q in judgments},
    }


def html(out: Place, summary: dict[str, Any]) -> str:
    """The page for what `readqg.pipeline` found; `summary` as in OUT/summary.json."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("readqg.evaluation", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    found = summary["evaluation"]
    log = _training_log(out / "reranker")
    measures = list(next(iter(found["runs"].values()))) if found else []
    documents, query_counts = _documents(out)
    headline, evidence = _verdict(summary, measures)
    return environment.get_template("report.html.j2").render(
        headline=headline, evidence=evidence, cut=summary["cut"], corpus_name=_corpus_name(summary), counts=_counts(summary),
        use=summary["use"], version=readqg.__version__, evaluation=found, measures=measures, labels=LABELS, guard=summary["guard"],
        charts=_charts(out, found, measures, log), extremes=_extremes(out, found), documents=documents, query_counts=query_counts,
        validation_caption=_VALIDATION, fusion_weights=summary["fusion_weight"],
        seconds=summary["seconds"], quality=_quality_rows(summary["quality"]),
        config=yaml.safe_dump(summary["config"], sort_keys=False, allow_unicode=True),
    )


def _difference(values: dict[str, dict[str, float]], of: str, against: str) -> dict[str, Any]:
    found = significance.compare(values[of], values[against])
    return {"of": of, "against": against, **asdict(found), "equal": found.queries - found.better - found.worse}


_QUALITY = {
    "diversity": "diversity (angular)", "rel_plus": "rel+, judge's probability at r = 1", "rel_minus": "rel−, at r = 0",
    "delta": "rel+ − rel−", "control": "control, Spearman of r and the judge's score",
}


def _quality_rows(quality: dict[str, Any] | None) -> list[tuple[str, str, int]]:
    """(what, mean, over how many documents)."""
    if quality is None:
        return []
    label = f" ({quality['label']})" if quality.get("label") else ""
    rows = [(_QUALITY[name] + (label if name != "diversity" else ""), facts) for name, facts in quality.items() if name in _QUALITY]
    return [(name, f"{facts['mean']:.3f}", facts["count"]) for name, facts in rows if facts["count"]]


def _verdict(summary: dict[str, Any], measures: list[str]) -> tuple[str, str]:
    found = summary["evaluation"]
    keep = "Keep the start: the tuned model is not better on held-out documents."
    use = "Use the tuned model." if summary["guard"]["use"] == "tuned" else keep
    if not found:
        return use, "The corpus has no judged queries, so this rests on held-out synthetic queries alone."
    d = found["differences"][0]
    text = (f"On {found['queries']} judged queries the tuned model changed {measures[0]} by {100 * d['mean']:+.1f} points "
            f"(95 % interval {100 * d['low']:+.1f} to {100 * d['high']:+.1f}, p = {d['p']:.3f}).")
    if d["low"] <= 0 <= d["high"]:
        text += " That is within what chance gives."
    return use, text


def _corpus_name(summary: dict[str, Any]) -> str:
    return "the sample (Cranfield abstracts)" if summary["sample"] else place_of(summary["config"]["corpus"]).name


def _counts(summary: dict[str, Any]) -> str:
    counts = {k: v for k, v in summary["corpus"].items() if k in ("documents", "queries", "judgments") and v}
    return ", ".join(f"{n:,} {name}" for name, n in counts.items())


def _training_log(model: Place) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (model / "training_log.jsonl").read_text().splitlines()]


def _charts(out: Place, found: dict[str, Any] | None, measures: list[str], log: list[dict[str, Any]]) -> dict[str, str | None]:
    drawn: dict[str, str | None] = {"scores": None, "validation": None, "loss": None}
    steps = [line for line in log if "loss" in line]
    checks = [line for line in log if "validation" in line and "score" in line["validation"]]
    if steps:
        found_in = {name: [line for line in steps if name in line] for name in ("loss", "bce", "mr")}
        parts = [(name, [line["step"] for line in lines], [line[name] for line in lines]) for name, lines in found_in.items() if lines]
        alt = f"Training loss, {steps[0]['loss']:.2f} at first, {steps[-1]['loss']:.2f} at last"
        drawn["loss"] = charts.lines(parts, "step", "loss", alt)
    if checks:
        ys = [100 * line["validation"]["score"] for line in checks]
        drawn["validation"] = charts.lines(
            [("held-out nDCG@10", [line["step"] for line in checks], ys)], "step", "nDCG@10 × 100",
            f"Held-out nDCG@10, {ys[0]:.1f} before training, {ys[-1]:.1f} after")
    if found:
        rows = [(LABELS[n], 100 * found["runs"][n][measures[0]], *(100 * v for v in found["intervals"][n])) for n in RUNS]
        alt = "; ".join(f"{name} {mean:.1f} ({low:.1f} to {high:.1f})" for name, mean, low, high in rows)
        drawn["intervals"] = charts.intervals(rows, f"{measures[0]} × 100", alt)
        deltas = [100 * (q["tuned"] - q["start"]) for q in found["per_query"].values()]
        d = found["differences"][0]
        alt = f"{d['better']} queries better, {d['equal']} equal, {d['worse']} worse"
        drawn["differences"] = charts.differences(deltas, "queries, best first", f"Δ {measures[0]} × 100", alt)
        scores = {n: [s for docs in runs.read_run(out / n).values() for s in docs.values()] for n in ("start", "tuned")}
        if all(scores.values()):
            series = [(LABELS[n], v) for n, v in scores.items()]
            drawn["scores"] = charts.histogram(series, "logit", "Distribution of scores before and after")
    return drawn


def _extremes(out: Place, found: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The queries that gained most and those that lost most."""
    if not found:
        return []
    texts = read_texts(out / "corpus" / "queries")
    ordered = sorted(found["per_query"].items(), key=lambda item: item[1]["start"] - item[1]["tuned"])
    moved = [item for item in ordered if item[1]["start"] != item[1]["tuned"]]
    chosen = dict(moved[:_SHOWN_QUERIES] + moved[-_SHOWN_QUERIES:])
    return [{"text": texts[q], "start": values["start"], "tuned": values["tuned"]} for q, values in chosen.items()]


def _documents(out: Place) -> tuple[list[dict[str, Any]], str]:
    """A few documents, drawn by a stable hash, with all their queries; and how many queries there are."""
    from readqg.corpus import Documents

    table = open_input(out / "queries").read()
    rows = table.to_pylist()
    ids = sorted({row["doc_id"] for row in rows}, key=stable_hash)[:_SHOWN_DOCUMENTS]
    texts = Documents.open(out / "corpus" / "documents").texts(ids)
    shown = []
    for doc_id, text in zip(ids, texts, strict=True):
        excerpt = text[:_EXCERPT_CHARS] + ("…" if len(text) > _EXCERPT_CHARS else "")
        shown.append({"doc_id": doc_id, "text": excerpt, "queries": [row for row in rows if row["doc_id"] == doc_id]})
    written = [row["query"] for row in rows if row["query"]]
    count = f"{len(written):,} queries for {len({row['doc_id'] for row in rows}):,} documents, {len(set(written)):,} of them distinct"
    failed = sum(row["error"] is not None for row in rows)
    return shown, count + (f"; {failed:,} could not be written" if failed else "") + "."
