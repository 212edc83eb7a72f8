"""The page: everything gathered, handed to the template.

All text from data goes through Jinja's escaping; the page's policy forbids scripts and every outside address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import jinja2
import yaml
from markupsafe import Markup, escape

import readqg
from readqg import runs
from readqg.corpus import Documents
from readqg.evaluation.charts import signed
from readqg.evaluation.report import calibration, figures, verdict
from readqg.evaluation.report.calibration import Calibration
from readqg.evaluation.report.changes import Changes, changes, cut, titles
from readqg.evaluation.report.figures import Figure
from readqg.evaluation.report.learning import Learning, learning
from readqg.evaluation.report.measured import LABELS
from readqg.evaluation.report.verdict import Evidence
from readqg.evaluation.report.whole_grid import whole_grid
from readqg.evaluation.report.written import Grid, Mean, Written, quality, written
from readqg.frames import pl
from readqg.places import Place, place_of
from readqg.random_rows import in_order
from readqg.shards import open_input

_HELD_OUT_SHOWN = 5
_MOST_SCORES = 200_000


@dataclass(frozen=True)
class HeldOutChange:
    """A held-out document whose place for its own query changed."""

    title: str
    query: str
    before: float
    after: float


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    headline: str
    evidence: list[Evidence]
    comparisons: Figure
    cut: list[str]
    corpus: str
    counts: str
    use: str
    guard: dict[str, Any]
    evaluation: dict[str, Any] | None
    measures: list[str]
    rankings: Figure | None
    before_after: Figure | None
    changes: Changes | None
    held_out: list[HeldOutChange]
    calibration: Calibration | None
    reliability: list[Figure]
    scores: Figure | None
    written: Written
    control: list[Figure]
    grid: list[Figure]
    grid_documents: list[Grid]
    quality: list[tuple[str, Mean]]
    quality_facts: dict[str, Any] | None
    training: list[Figure]
    time: Figure
    fusion_weights: dict[str, float]
    config: str


def html(out: Place, summary: dict[str, Any]) -> str:
    """The page for what `readqg.pipeline` found; `summary` as in OUT/summary.json."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("readqg.evaluation.report", "."), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )
    environment.filters |= {"signed": signed, "with_code": _with_code, "g": lambda value: f"{value:g}"}
    return environment.get_template("report.html.j2").render(page=gather(out, summary), labels=LABELS, version=readqg.__version__)


def gather(out: Place, summary: dict[str, Any]) -> Page:
    """Everything on the page, from the folders of a finished run."""
    found, config = summary["evaluation"], summary["config"]
    measures = list(next(iter(found["runs"].values()))) if found else []
    learned = learning(out / "reranker")
    wrote, whole = written(out), whole_grid(out, out / summary["grid"]) if summary["grid"] else None
    per_query = found["per_query"] if found else None
    moved = changes(out, per_query)
    evidence = verdict.evidence(summary)
    calibrated = calibration.against_judgments(out) if found else None
    calibrated = calibrated or calibration.against_held_out(*learned.logits, len(learned.documents))
    return Page(
        headline=verdict.sentence(summary, evidence), evidence=evidence, comparisons=figures.comparisons(evidence), cut=summary["cut"],
        corpus="the sample (Cranfield abstracts)" if summary["sample"] else place_of(config["corpus"]).name, counts=_counts(summary),
        use=summary["use"], guard=summary["guard"], evaluation=found, measures=measures,
        rankings=figures.rankings(found, measures[0]) if found else None,
        before_after=_before_after(per_query, measures, learned), changes=moved,
        held_out=[] if per_query else _held_out(out, learned),
        calibration=calibrated, reliability=figures.reliability(calibrated) if calibrated else [], scores=_scores(out) if moved else None,
        written=wrote, control=figures.control(wrote.at), grid=figures.grid(whole) if whole else [],
        grid_documents=whole.documents if whole else [], quality=quality(out), quality_facts=summary["quality"],
        training=[*_growth(summary), *figures.training(learned)],
        time=figures.time(summary["seconds"], config["compute"]["workers"], config.get("price")),
        fusion_weights=summary["fusion_weight"],
        config=yaml.safe_dump(config, sort_keys=False, allow_unicode=True),
    )


def _growth(summary: dict[str, Any]) -> list[Figure]:
    rounds = summary.get("rounds")
    return [figures.growth(rounds, summary["config"]["max_documents"])] if rounds else []


def _counts(summary: dict[str, Any]) -> str:
    corpus = summary["corpus"]
    counts = [f"{corpus[name]:,} {name}" for name in ("documents", "queries", "judgments") if corpus.get(name)]
    if corpus.get("text_files"):
        counts[0] += f" (passages of {corpus['text_files']:,} files)"
    if corpus.get("rejected"):
        counts.append(f"{corpus['rejected']:,} set aside in corpus/_rejected.jsonl")
    return ", ".join(counts)


def _with_code(text: str) -> Markup:
    """What stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def _before_after(per_query: dict[str, dict[str, float]] | None, measures: list[str], learned: Learning) -> Figure | None:
    if per_query:
        return figures.before_after([(q["start"], q["tuned"]) for q in per_query.values()], measures[0], "judged queries")
    if learned.documents:
        return figures.before_after(list(learned.documents.values()), "nDCG@10", "held-out synthetic documents")
    return None


def _scores(out: Place) -> Figure | None:
    of = {name: [s for docs in runs.read_run(out / name).values() for s in docs.values()][:_MOST_SCORES] for name in ("start", "tuned")}
    return figures.scores(of) if all(of.values()) else None


def _held_out(out: Place, learned: Learning) -> list[HeldOutChange]:
    """The held-out documents that moved most, with the query that was written for each."""
    changed = [(doc_id, b, a) for doc_id, (b, a) in learned.documents.items() if a != b]
    moved = sorted(changed, key=lambda row: (-abs(row[2] - row[1]), row[0]))[:_HELD_OUT_SHOWN]
    named = titles(Documents.open(out / "corpus" / "documents"), [doc_id for doc_id, _, _ in moved])
    queries = _queries_at_one(out, {doc_id for doc_id, _, _ in moved})
    return [HeldOutChange(named[doc_id][0], cut(queries.get(doc_id, ""), 300), b, a) for doc_id, b, a in moved]


def _queries_at_one(out: Place, wanted: set[str]) -> dict[str, str]:
    """doc_id -> its first query at r = 1."""
    found: dict[str, str] = {}
    for _, table in in_order(open_input(out / "queries"), ["doc_id", "relevance", "query"]) if wanted else ():
        rows = pl.DataFrame(pl.from_arrow(table)).filter(pl.col("doc_id").is_in(list(wanted)), pl.col("relevance") == 1)
        for doc_id, _, query in rows.iter_rows():
            found.setdefault(doc_id, query or "")
    return found
