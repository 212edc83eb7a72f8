"""The sentence that a report opens with, and the comparisons that it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from readqg.evaluation.charts import signed
from readqg.evaluation.report.measured import LABELS

_OF_NOTE = 0.02
"""A difference in nDCG@10 that would matter; an interval that reaches further to both sides of 0 cannot tell."""
_FEWEST = 10
"""Below it a bootstrap interval is no guide."""
_SURE = 0.05
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

    @property
    def equal(self) -> int:
        return self.count - self.better - self.worse

    @property
    def reading(self) -> str:
        """better, worse, no difference of note, or too few to tell."""
        if self.count >= _FEWEST and (self.low > 0 or self.high < 0):
            return "better" if self.low > 0 else "worse"
        if self.count >= _FEWEST and max(-self.low, self.high) <= _OF_NOTE:
            return "no difference of note"
        return "too few to tell"

    @property
    def points(self) -> str:
        return f"{signed(100 * self.mean)} points (95 % interval {self._interval})"

    @property
    def _interval(self) -> str:
        return f"{signed(100 * self.low)} to {signed(100 * self.high)}"

    @property
    def cells(self) -> list[str]:
        """Of its row in the table: over, before, after, difference, interval, p, better / equal / worse, reading."""
        return [f"{self.count} {self.unit}", f"{100 * self.before:.1f}", f"{100 * self.after:.1f}", signed(100 * self.mean), self._interval,
                f"{self.p:.3f}", f"{self.better} / {self.equal} / {self.worse}", self.reading]


def evidence(summary: Mapping[str, Any]) -> list[Evidence]:
    """Held-out synthetic documents (the guard) first, then what the judged queries say of tuned against start, with BM25's score
    added to both, and of adding it."""
    guard, found = summary["guard"], summary["evaluation"]
    low, high = guard["interval"]
    rows = [Evidence("tuned", "start", "held-out synthetic documents", guard["held_out_documents"], guard["before"], guard["after"],
                     guard["difference"], low, high, guard["p_value"], guard["better"], guard["worse"])]
    for of, against in _MATTERS if found else ():
        d = next((d for d in found["differences"] if (d["of"], d["against"]) == (of, against)), None)
        if d is not None:
            before, after = (next(iter(found["runs"][name].values())) for name in (against, of))
            rows.append(Evidence(LABELS[of], LABELS[against], "judged queries", d["queries"], before, after, d["mean"], d["low"],
                                 d["high"], d["p"], d["better"], d["worse"]))
    return rows


def sentence(summary: Mapping[str, Any], rows: list[Evidence]) -> str:
    """Whether to use the tuned model and how sure that is, in one sentence."""
    guard, for_it = summary["guard"], summary["guard"]["use"] == "tuned"
    held_out, judged = rows[0], next((row for row in rows[1:] if row.of == LABELS["tuned"]), None)
    if judged is None:
        return _on_synthetic_alone(guard, held_out)
    measure = next(iter(summary["evaluation"]["runs"]["start"]))
    documents = f"{held_out.count} {held_out.unit}"
    changed = f"on {judged.count} judged queries it changes {measure} by {judged.points}"
    fused = next((row for row in rows if row.of == LABELS["tuned-fused"]), None)
    also = f" (with BM25's score added to both, by {fused.points})" if fused else ""
    match judged.reading, for_it:
        case "better", True:
            return f"Use the tuned model: {changed}{also}, and the {documents} agree."
        case "better", False:
            return (f"Consider the tuned model, though the guard does not: {changed}{also}, while the {documents} speak against it; trust "
                    "the judged queries as far as yours are like them.")
        case "worse", True:
            return f"Keep the start, though the guard does not: the {documents} speak for the tuned model, but {changed}{also}."
    if for_it:
        weakly = " weakly" if held_out.p > _SURE else ""
        return f"Use the tuned model, but do not count on a gain: the {documents} speak for it{weakly}; {changed}, {judged.reading}{also}."
    so = "" if judged.reading == "worse" else f", {judged.reading}"
    return f"Keep the start: {_against(guard, held_out)}; {changed}{so}{also}."


def _on_synthetic_alone(guard: Mapping[str, Any], held_out: Evidence) -> str:
    if guard["use"] != "tuned":
        return f"Keep the start: {_against(guard, held_out)}; there are no judged queries to say otherwise."
    sure = "too little to be sure" if held_out.p > _SURE or held_out.count < _FEWEST else "and no judged query confirms it"
    return (f"Use the tuned model, on synthetic evidence alone: on {held_out.count} {held_out.unit} it changes nDCG@10 by "
            f"{held_out.points}, {sure}.")


def _against(guard: Mapping[str, Any], held_out: Evidence) -> str:
    if held_out.mean > 0:  # better, and yet not to be used: the scores are broken
        return str(guard["reason"])[0].lower() + str(guard["reason"])[1:].rstrip(".")
    return f"on {held_out.count} {held_out.unit} the tuned model is not better ({held_out.points})"
