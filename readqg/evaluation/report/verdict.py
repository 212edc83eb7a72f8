"""The sentence that a report opens with, and the comparisons that it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from readqg.evaluation.charts import signed
from readqg.evaluation.report.measured import LABELS
from readqg.reranker.selection import SURE

_OF_NOTE = 0.02
"""A difference in nDCG@10 that would matter; an interval that reaches further to both sides of 0 cannot tell."""
_FEWEST = 10
"""Below it a bootstrap interval is no guide."""
_BROKEN = {"not finite": "are not finite", "collapsed": "have collapsed"}
_ADVICE = {
    # guard, judged: what to do where the tuned model, with BM25's score added to both, is better, neither, worse
    ("tuned", "better"): ("Use the tuned model", "Use the tuned model", "Use the tuned model, but without BM25's score"),
    ("tuned", "neither"): ("Use the tuned model, with BM25's score added", "Use the tuned model, but do not count on a gain",
                           "Use the tuned model, but do not count on a gain, and not with BM25's score"),
    ("tuned", "worse"): ("Keep the start, though the guard does not, unless you add BM25's score",
                         "Keep the start, though the guard does not", "Keep the start, though the guard does not"),
    ("start", "better"): ("Consider the tuned model, though the guard does not", "Consider the tuned model, though the guard does not",
                          "Consider the tuned model, though the guard does not, but without BM25's score"),
    ("start", "neither"): ("Keep the start, unless you add BM25's score", "Keep the start", "Keep the start"),
    ("start", "worse"): ("Keep the start, unless you add BM25's score", "Keep the start", "Keep the start"),
}
_MATTERS = (("tuned", "start"), ("tuned-fused", "start-fused"), ("start-fused", "start"))


@dataclass(frozen=True)
class Evidence:
    """One paired comparison: nDCG@10 (or the first measure) of the second from the first, 95 % interval, and who won how often."""

    of: str
    against: str
    unit: str
    count: int
    before: float
    after: float
    mean: float
    low: float
    high: float
    p: float
    better: int
    worse: int
    one_sided: bool = False
    """`p` is that of a gain, and says whether there is one; else the interval does."""

    @property
    def equal(self) -> int:
        return self.count - self.better - self.worse

    @property
    def reading(self) -> str:
        """better, worse, no difference of note, or too few to tell."""
        gained = self.p <= SURE and self.mean > 0 if self.one_sided else self.low > 0
        if self.count >= _FEWEST and (gained or self.high < 0):
            return "better" if gained else "worse"
        if self.count >= _FEWEST and max(-self.low, self.high) <= _OF_NOTE:
            return "no difference of note"
        return "too few to tell"

    @property
    def points(self) -> str:
        """Difference, interval and reading, in words."""
        return f"{signed(100 * self.mean)} points ({self.interval}, {self.reading})"

    @property
    def interval(self) -> str:
        return f"{signed(100 * self.low)} to {signed(100 * self.high)}"

    @property
    def cells(self) -> list[str]:
        """Of its row in the table: over, before, after, difference, interval, p, better / equal / worse, reading."""
        return [f"{self.count} {self.unit}", f"{100 * self.before:.1f}", f"{100 * self.after:.1f}", signed(100 * self.mean), self.interval,
                f"{self.p:.3f}", f"{self.better} / {self.equal} / {self.worse}", self.reading]


def evidence(summary: Mapping[str, Any]) -> list[Evidence]:
    """Held-out synthetic documents (the guard) first, then what the judged queries say of tuned against start, with BM25's score
    added to both, and of adding it."""
    guard, found = summary["guard"], summary["evaluation"]
    low, high = guard["interval"]
    rows = [Evidence("tuned", "start", "held-out synthetic documents", guard["held_out_documents"], guard["before"], guard["after"],
                     guard["difference"], low, high, guard["p_value"], guard["better"], guard["worse"], one_sided=True)]
    for of, against in _MATTERS if found else ():
        d = next((d for d in found["differences"] if (d["of"], d["against"]) == (of, against)), None)
        if d is not None:
            before, after = (next(iter(found["runs"][name].values())) for name in (against, of))
            rows.append(Evidence(LABELS[of], LABELS[against], "judged queries", d["queries"], before, after, d["mean"], d["low"],
                                 d["high"], d["p"], d["better"], d["worse"]))
    return rows


def sentence(summary: Mapping[str, Any], rows: list[Evidence]) -> str:
    """Whether to use the tuned model and how sure that is, in one sentence."""
    held_out, judged, fused = rows[0], _row(rows, "tuned"), _row(rows, "tuned-fused")
    said = [f"by {held_out.points.replace('(', '(95 % interval ')} on {held_out.count} {held_out.unit}"]
    if judged:
        said.append(f"by {judged.points} on {judged.count} {judged.unit}")
    if fused:
        said.append(f"by {fused.points} with BM25's score added to both")
    changed = said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"
    advice = _advice(summary["guard"], held_out, judged.reading if judged else None, fused.reading if fused else None)
    return f"{advice}: the tuned model changes nDCG@10 {changed}."


def _advice(guard: Mapping[str, Any], held_out: Evidence, judged: str | None, fused: str | None) -> str:
    """The guard's word, and what the judged queries make of it."""
    broken = guard.get("broken")
    if broken:
        return f"Keep the start, for the tuned model's scores {_BROKEN[broken]}"
    use = guard["use"]
    if judged is None:
        weak = held_out.count < _FEWEST
        tuned = f"Use the tuned model, {'but the evidence is weak' if weak else 'on synthetic evidence alone'}"
        start = "Keep the start" if held_out.mean <= 0 else "Keep the start, for no gain is shown"
        return tuned if use == "tuned" else start
    better, neither, worse = _ADVICE[use, judged if judged in ("better", "worse") else "neither"]
    return {"better": better, "worse": worse}.get(fused or "", neither)


def _row(rows: list[Evidence], of: str) -> Evidence | None:
    return next((row for row in rows[1:] if row.of == LABELS[of]), None)
