"""The pictures of a report, each with its caption and the figures behind it as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from readqg.evaluation import charts
from readqg.evaluation.charts import Series, signed
from readqg.evaluation.report.calibration import Calibration
from readqg.evaluation.report.changes import cut
from readqg.evaluation.report.learning import Learning
from readqg.evaluation.report.measured import LABELS
from readqg.evaluation.report.verdict import Evidence
from readqg.evaluation.report.whole_grid import WholeGrid
from readqg.evaluation.report.written import AtRelevance, Mean
from readqg.progress import duration

STYLES = {"bm25": "s0", "first": "s0 hollow", "start": "s1", "tuned": "s2", "start-fused": "s1 hollow", "tuned-fused": "s2 hollow"}
_TABLE_ROWS = 40
_UNIT = (0.0, 1.0)
_HISTOGRAM_BINS = 30
_NAME_CHARS = 23


@dataclass(frozen=True)
class Figure:
    """`columns` and `rows`: what the picture shows, for whoever cannot see it; texts, numbers already written out."""

    title: str
    svg: Markup
    caption: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def comparisons(rows: Sequence[Evidence]) -> Figure:
    """The differences that the verdict rests on, in points."""
    drawn = [(_versus(e), 100 * e.mean, 100 * e.low, 100 * e.high, "s2" if i == 0 else "s1") for i, e in enumerate(rows)]
    alt = "; ".join(f"{_versus(e)}: {e.points}" for e in rows)
    return Figure(
        "Differences in nDCG@10", charts.intervals(drawn, "difference in nDCG@10 × 100", alt, level=0),
        "Means of paired differences with 95 % bootstrap intervals. One that crosses the broken line is within what chance gives.", (), [])


def rankings(found: Mapping[str, Any], measure: str) -> Figure:
    """The mean of every run."""
    rows = [(LABELS[n], 100 * values[measure], *(100 * v for v in found["intervals"][n]), STYLES[n]) for n, values in found["runs"].items()]
    alt = "; ".join(f"{name} {mean:.1f} ({low:.1f} to {high:.1f})" for name, mean, low, high, _ in rows)
    caption = (f"Mean {measure} × 100 over {found['queries']} judged queries with 95 % bootstrap intervals over queries. These overlap "
               "even where paired differences are clear: queries differ more from one another than rankings do.")
    return Figure(f"{measure} of every ranking", charts.intervals(rows, f"{measure} × 100", alt), caption, (), [])


def before_after(pairs: Sequence[tuple[float, float]], measure: str, unit: str) -> Figure:
    """(before, after) of every query or held-out document, equal ones together."""
    counts = Counter((round(before, 3), round(after, 3)) for before, after in pairs)
    better, worse = (sum(1 for b, a in pairs if (a - b) * sign > 0) for sign in (1, -1))
    said = f"{better} better, {len(pairs) - better - worse} equal, {worse} worse"
    points = [(before, after, count) for (before, after), count in counts.items()]
    moved = sorted((p for p in points if p[0] != p[1]), key=lambda p: -abs(p[1] - p[0]))[:_TABLE_ROWS]
    return Figure(
        f"{measure} before and after", charts.bubbles(points, (-0.06, 1.06), f"start, {measure}", f"tuned, {measure}", f"{unit}: {said}"),
        f"{len(pairs)} {unit}: {said}. Above the line the tuned model is better; a larger dot is more of them.",
        ("start", "tuned", "how many"), [(f"{b:.3f}", f"{a:.3f}", str(n)) for b, a, n in moved])


def scores(of: Mapping[str, Sequence[float]]) -> Figure:
    """Distributions of logits. `of`: run -> scores."""
    low, high = min(map(min, of.values())), max(map(max, of.values()))
    edges = np.linspace(low, high if high > low else low + 1, _HISTOGRAM_BINS + 1)
    outlines = {name: charts.outline(values, edges) for name, values in of.items()}
    series = [Series(LABELS[name], xs, ys, style=STYLES[name], steps=True, filled=True) for name, (xs, ys) in outlines.items()]
    rows = [(LABELS[name], *(f"{q:.2f}" for q in np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]))) for name, values in of.items()]
    return Figure(
        "Scores", charts.plot(series, "logit", "share of candidates, %", "Distribution of logits; quantiles in the table"),
        "Logits of all re-ranked candidates.", ("", "5 %", "25 %", "median", "75 %", "95 %"), [tuple(row) for row in rows])


def reliability(found: Calibration) -> list[Figure]:
    """One picture a model."""
    figures = []
    for model in found.models:
        bins = model.bins
        dots = Series("pairs of like score", [b.predicted for b in bins], [b.observed for b in bins], style=STYLES[model.name], dots=True,
                      line=False)
        curve = Series("isotonic fit", [x for x, _ in model.isotonic], [y for _, y in model.isotonic], style=STYLES[model.name])
        whiskers = [Series("", [b.predicted] * 2, [b.low, b.high], style=f"whisker {STYLES[model.name]}") for b in bins]
        alt = f"Reliability of the {LABELS[model.name]}: Brier score {model.brier:.3f}, of it miscalibration {model.miscalibration:.3f}"
        figures.append(Figure(
            f"Calibration: {LABELS[model.name]}",
            charts.plot([curve, dots], "sigmoid of the score", "share that is relevant", alt, _UNIT, _UNIT, diagonal=True, under=whiskers),
            f"Brier score {model.brier:.3f} (0 is perfect), of it miscalibration {model.miscalibration:.3f}. On the broken line 7 of 10 "
            "pairs at 0.7 are relevant; below it the model is too sure.",
            ("mean sigmoid", "share relevant", "95 % interval", "pairs"),
            [(f"{b.predicted:.3f}", f"{b.observed:.3f}", f"{b.low:.3f} to {b.high:.3f}", str(b.pairs)) for b in bins]))
    return figures


_CONTROL = (
    ("judged", "The judge's probability", "probability", "The judge's probability for document and query. It should rise with r."),
    ("found", "Finds its document", "share in BM25's first 10", "Share of queries that find their own document among BM25's first ten."),
    ("shared", "Words shared with the document", "share of a query's words",
     "Share of a query's word stems, stop words apart, that its document has: no model has a part in it. r = 1 should lie above r = 0."),
    ("log_likelihood", "Likelihood", "nats a token",
     "Log-likelihood a token under the generator at that r: how much of a surprise its own queries are to it."),
)


def control(at: Sequence[AtRelevance]) -> list[Figure]:
    """How queries move with the r that was asked for; those of them that the run can tell."""
    figures = []
    for name, title, y_label, caption in _CONTROL:
        points: list[tuple[float, Mean]] = [(a.relevance, getattr(a, name)) for a in reversed(at) if getattr(a, name) is not None]
        if len(points) < 2:
            continue
        xs, means = [r for r, _ in points], [mean for _, mean in points]
        series = Series("", xs, [m.mean for m in means], [m.low for m in means], [m.high for m in means], style="s2", dots=True)
        alt = f"{title} from {means[0].mean:.2f} at r = {xs[0]:g} to {means[-1].mean:.2f} at r = {xs[-1]:g}"
        figures.append(Figure(
            title, charts.plot([series], "r, the relevance asked for", y_label, alt, x=(0, 1)),
            f"{caption} Band: 95 % interval over {means[0].count} documents.", ("r", y_label, "95 % interval"),
            [(f"{r:g}", f"{m.mean:.3f}".replace("-", "−"), f"{m.low:.3f} to {m.high:.3f}".replace("-", "−")) for r, m in points]))
    return figures


def grid(found: WholeGrid) -> list[Figure]:
    """How scores move with r before and after, and how a document's queries differ."""
    rs, documents = list(found.scores), len(found.documents)
    figures = []
    if len(rs) > 1:
        series = [
            Series(LABELS[name], rs, [found.scores[r][i].mean for r in rs], [found.scores[r][i].low for r in rs],
                   [found.scores[r][i].high for r in rs], style=STYLES[name], dots=True) for i, name in enumerate(("start", "tuned"))]
        rows = [(f"{r:g}", *(f"{m.mean:.2f} ({m.low:.2f} to {m.high:.2f})".replace("-", "−") for m in found.scores[r])) for r in rs]
        alt = f"Mean logit from r = {rs[0]:g} to {rs[-1]:g}: start {rows[0][1]} to {rows[-1][1]}; tuned {rows[0][2]} to {rows[-1][2]}"
        figures.append(Figure(
            "Score against r", charts.plot(series, "r, the relevance asked for", "mean logit", alt, x=(0, 1)),
            "What start and tuned model make of queries at every r, with the document that they were written for. Both should rise. "
            f"Bands: 95 % intervals over {documents} documents.", ("r", "start", "tuned"), rows))
    if found.apart:
        drawn = [(cut(title, _NAME_CHARS), value, f"{value:.2f}, {distinct} distinct") for title, value, distinct in found.apart]
        alt = "; ".join(f"{title} {text}" for title, _, text in drawn)
        figures.append(Figure(
            "Query diversity", charts.bars(drawn, alt),
            "How far apart a document's eleven queries are in their words: mean pairwise Jaccard distance of word stems, 0 the same words, "
            "1 none in common.", ("document", "distance", "distinct queries"),
            [(title, f"{value:.2f}", str(distinct)) for title, value, distinct in found.apart]))
    return figures


def training(found: Learning) -> list[Figure]:
    """The held-out documents, the loss, the scores."""
    figures = []
    if len(found.checks) > 1:
        checks = found.checks
        series = Series("", [c.step for c in checks], [100 * c.difference for c in checks], [100 * c.low for c in checks],
                        [100 * c.high for c in checks], style="s2", dots=True)
        alt = f"Held-out nDCG@10 differs from the start's by {signed(100 * checks[-1].difference)} points at the last step"
        figures.append(Figure(
            "Held-out documents", charts.plot([series], "step", "difference to the start, × 100", alt, level=0),
            f"nDCG@10 × 100 of a held-out document for its own r = 1 query among BM25's top 20 and itself, less the start's "
            f"({100 * checks[0].score:.1f}); band: 95 % interval over {len(found.documents)} documents. Weights kept: step {found.chosen}.",
            ("step", "nDCG@10 × 100", "difference", "95 % interval"),
            [(str(c.step), f"{100 * c.score:.1f}", signed(100 * c.difference), f"{signed(100 * c.low)} to {signed(100 * c.high)}")
             for c in checks]))
    for title, curves, y_label, caption in (
        ("Loss", found.losses, "loss", "Loss on what is trained on, a running mean. It says little of use: the held-out documents do."),
        ("Scores in training", found.scores, "mean logit", "Mean logits of the pairs of each step, a running mean: they should part."),
    ):
        if not curves:
            continue
        drawn = [Series(c.name, c.steps, c.ys, style=f"s{(2, 1, 0)[i % 3]}", dots=len(c.steps) < 3) for i, c in enumerate(curves)]
        pale = [Series("", c.steps, c.raw, style=f"raw s{(2, 1, 0)[i % 3]}") for i, c in enumerate(curves[:1])]
        alt = "; ".join(f"{c.name} from {c.ys[0]:.2f} to {c.ys[-1]:.2f}" for c in curves)
        at = charts.thinned(len(curves[0].steps), 12)
        figures.append(Figure(
            title, charts.plot(drawn, "step", y_label, alt, under=pale), caption, ("step", *(c.name for c in curves)),
            [(f"{curves[0].steps[i]:g}", *(f"{c.ys[min(i, len(c.ys) - 1)]:.3f}".replace("-", "−") for c in curves)) for i in at]))
    return figures


def growth(rounds: Sequence[Mapping[str, Any]], chosen: int) -> Figure:
    """What more documents gained; a round as in `summary.json`."""
    sizes = [r["documents"] for r in rounds]
    series = Series("tuned", sizes, [100 * r["score"] for r in rounds], style="s2", dots=True)
    start = Series("start", sizes, [100 * r["start"] for r in rounds], style="s1")
    gains = [[signed(100 * r[name]) for name in ("gain", "low", "high")] for r in rounds]
    rows: list[tuple[str, ...]] = [
        (f"{r['documents']:,}", f"{100 * r['score']:.1f}", gain, f"{low} to {high}")
        for r, (gain, low, high) in zip(rounds, gains, strict=True)
    ]
    alt = "; ".join(f"{row[0]} documents: {row[1]} ({row[2]})" for row in rows)
    return Figure(
        "How many documents", charts.plot([series, start], "documents that queries were written for", "held-out nDCG@10 × 100", alt),
        f"A model for each size, judged on the same {rounds[0]['held_out']} held-out documents. Chosen: {chosen:,}; a doubling that gains "
        "too little ends the search.",
        ("documents", "nDCG@10 × 100", "gain on the size before (first: on the start)", "95 % interval"), rows)


def time(seconds: Mapping[str, float], workers: int, price: float | None) -> Figure:
    """Seconds a stage, and what they cost at `price` dollars a worker and hour."""
    cost = {name: workers * value / 3600 * (price or 0.0) for name, value in seconds.items()}
    rows = [(name, value, duration(value)) for name, value in seconds.items()]
    total = sum(seconds.values())
    caption = f"{duration(total)} in all ({total / 3600:.2f} hours" + (f" on {workers} workers" if workers > 1 else "") + ")"
    caption += f", ${sum(cost.values()):,.2f} at ${price:g} a worker and hour." if price is not None else "."
    columns = ("stage", "seconds") + (("cost",) if price is not None else ())
    table: list[tuple[str, ...]] = [
        (name, f"{value:,.1f}", *((f"${cost[name]:,.2f}",) if price is not None else ())) for name, value in seconds.items()
    ]
    return Figure("Time", charts.bars(rows, f"{caption} " + ", ".join(f"{name} {text}" for name, _, text in rows)), caption, columns, table)


def _versus(e: Evidence) -> str:
    return "held out: tuned − start" if e.unit.startswith("held") else f"{e.of} − {e.against}"
