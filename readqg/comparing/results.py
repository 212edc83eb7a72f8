"""What the judgments say, and the files that other commands read.

```
OUT/qrels/test.tsv    single documents that were graded, as BEIR has it; OUT/qrels.trec, as TREC has it
OUT/queries.jsonl     the queries that something was said of
OUT/preferences.tsv   query_id, query, preferred (a, b or tie), from the end on: before it, nobody is to know
OUT/a.trec, b.trec    what was shown for them: `readqg evaluate --run OUT/b.trec --against OUT/a.trec --qrels OUT/qrels/test.tsv`
OUT/summary.json      the counts
```
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from readqg.comparing.judgments import Judgments, Side
from readqg.comparing.rankings import SIDES, Rankings
from readqg.comparing.statistics import LEVEL, Preference, needed, preference
from readqg.config import CompareConfig
from readqg.corpus import write_qrels
from readqg.runs import Run, write_trec
from readqg.shards import explained, write_whole

Enough = Literal["too few", "difference", "ruled out", "not settled"]


def progress(config: CompareConfig, judgments: Judgments) -> dict[str, Any]:
    """How far the work is, in counts that do not say who is ahead."""
    decided, wanted = len(judgments.winners), needed(config.share, config.power)
    enough = _enough(config, judgments)
    return {
        "judged": decided + judgments.count("tie"), "decided": decided, "ties": judgments.count("tie"),
        "skipped": judgments.count("skip"), "graded": sum(map(len, judgments.grades.values())), "needed": wanted,
        "enough": enough, "sentence": _sentence(enough, config, decided - wanted),
    }


def result(config: CompareConfig, judgments: Judgments) -> dict[str, Any]:
    """Who is ahead, and how sure that is. The wins are of all queries; `share_b`, its interval `low` to `high` and `p` of the first
    `tested` without a tie, no more than were planned: figures looked at until they please are no longer what they say. Before the end no
    more than how far one is ahead of the other, for whoever sees A's count grow after a click knows where A stood; and no p before as many
    are judged as were planned."""
    wins_a, wins_b = judgments.wins("a"), judgments.wins("b")
    planned = _planned(config, judgments)
    found = _preference(planned)
    if not judgments.ended:
        tested = len(planned) == needed(config.share, config.power)
        return {"more_wins": max(wins_a, wins_b), "fewer_wins": min(wins_a, wins_b), "p": found.p if tested else None,
                "tested": len(planned) if tested else 0}
    return {"wins_a": wins_a, "wins_b": wins_b, "share_b": found.share, "low": found.low, "high": found.high, "p": found.p,
            "tested": len(planned)}


def summary(config: CompareConfig, rankings: Rankings, judgments: Judgments) -> dict[str, Any]:
    """Both, with the names and what follows from them."""
    counts, found = progress(config, judgments), result(config, judgments)
    planned, odds = _planned(config, judgments), _odds(config.share)
    leader = "B" if planned.count("b") > planned.count("a") else "A"
    verdict = {
        "too few": "too few to tell", "difference": f"{leader if judgments.ended else 'one'} is better",
        "ruled out": f"a difference of {odds} is ruled out", "not settled": f"not settled: the interval still holds {odds}",
    }[counts["enough"]]
    return {
        "out": config.out, "a": rankings.name("a"), "b": rankings.name("b"), "ended": judgments.ended,
        **counts, **found, "verdict": verdict,
    }


def beforehand(config: CompareConfig) -> str:
    """How many judgments it takes, in words."""
    count = needed(config.share, config.power)
    return f"To tell {_odds(config.share)} from a coin with {config.power:.0%} power: {count} judged queries without a tie."


def table_of_needs(config: CompareConfig) -> list[tuple[str, int]]:
    """(odds, queries without a tie) for the share asked for and some others."""
    shares = sorted({0.55, 0.6, 0.65, 0.7, 0.8, config.share})
    return [(_odds(share), needed(share, config.power)) for share in shares]


def write_judgments(out: Path, judgments: Judgments) -> None:
    """The queries, what was shown for them and the grades. Raises `FolderError` where the disk is full."""
    told = {query_id: shown for query_id, shown in judgments.shown.items()
            if query_id in judgments.choices or judgments.grades.get(query_id)}
    with explained(f"writing {out}"):
        (out / "qrels").mkdir(parents=True, exist_ok=True)
    graded = [(query_id, doc_id, grade) for query_id in told for doc_id, grade in judgments.grades.get(query_id, {}).items()]
    write_qrels(out / "qrels" / "test.tsv", graded)
    write_whole(out / "qrels.trec", "".join(f"{q} 0 {d} {grade}\n" for q, d, grade in graded))
    write_whole(out / "queries.jsonl", "".join(json.dumps({"_id": q, "text": shown.query}) + "\n" for q, shown in told.items()))
    if judgments.ended:
        said = [f"{q}\t{judgments.shown[q].query}\t{judgments.winner(q) or 'tie'}\n" for q, choice in judgments.choices.items()
                if choice != "skip"]
        write_whole(out / "preferences.tsv", "query_id\tquery\tpreferred\n" + "".join(said))
    for side in SIDES:
        run: Run = {query_id: {doc_id: 1 / rank for rank, doc_id in enumerate(shown.a if side == "a" else shown.b, 1)}
                    for query_id, shown in told.items()}
        write_trec(out / f"{side}.trec", run)


def _enough(config: CompareConfig, judgments: Judgments) -> Enough:
    """Said once, of as many queries as were planned: looking after each click finds differences that are none, and rules out others."""
    if len(judgments.winners) < needed(config.share, config.power):
        return "too few"
    found = _preference(_planned(config, judgments))
    if found.p < LEVEL:
        return "difference"
    return "ruled out" if 1 - config.share < found.low and found.high < config.share else "not settled"


def _planned(config: CompareConfig, judgments: Judgments) -> list[Side]:
    return judgments.winners[: needed(config.share, config.power)]


def _preference(winners: list[Side]) -> Preference:
    return preference(winners.count("a"), winners.count("b"))


def _sentence(enough: Enough, config: CompareConfig, beyond: int) -> str:
    """`beyond`: queries without a tie past those planned."""
    odds = _odds(config.share)
    if enough == "too few":
        return f"Too few to tell: {-beyond} more without a tie to tell {odds} from a coin."
    said = {
        "difference": "Enough to tell: one of the two is better.",
        "ruled out": f"Enough to tell: if there is a difference, it is smaller than {odds}.",
        "not settled": f"As many as planned, and no difference shows; {odds} is not ruled out either.",
    }[enough]
    return said + (f" {beyond} beyond the plan: they are counted, and are no new test." if beyond else "")


def _odds(share: float) -> str:
    return f"{100 * share:g}:{100 * (1 - share):g}"
