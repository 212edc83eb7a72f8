"""What the judgments say, and the files that other commands read.

```
OUT/qrels/test.tsv    single documents that were graded, as BEIR has it
OUT/queries.jsonl     the queries that something was said of
OUT/a.trec, b.trec    what was shown for them: `readqg evaluate --run OUT/b.trec --against OUT/a.trec --qrels OUT/qrels/test.tsv`
OUT/summary.json      the counts
```
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from readqg.comparing.judgments import Judgments
from readqg.comparing.rankings import SIDES, Rankings
from readqg.comparing.statistics import LEVEL, needed, preference
from readqg.config import CompareConfig
from readqg.runs import Run, write_trec
from readqg.shards import explained, write_whole

Enough = Literal["too few", "early", "difference", "no difference"]


def progress(config: CompareConfig, judgments: Judgments) -> dict[str, Any]:
    """How far the work is, in counts that do not say who is ahead."""
    wins = judgments.wins("a"), judgments.wins("b")
    wanted = needed(config.share, config.power)
    enough = _enough(*wins, wanted)
    return {
        "judged": sum(wins) + judgments.count("tie"), "decided": sum(wins), "ties": judgments.count("tie"),
        "skipped": judgments.count("skip"), "graded": sum(map(len, judgments.grades.values())), "needed": wanted,
        "enough": enough, "sentence": _sentence(enough, config, wanted - sum(wins)),
    }


def result(judgments: Judgments) -> dict[str, Any]:
    """Who is ahead, and how sure that is. `share_b`: of the queries without a tie."""
    wins_a, wins_b = judgments.wins("a"), judgments.wins("b")
    found = preference(wins_a, wins_b)
    return {"wins_a": wins_a, "wins_b": wins_b, "share_b": found.share, "low": found.low, "high": found.high, "p": found.p}


def summary(config: CompareConfig, rankings: Rankings, judgments: Judgments) -> dict[str, Any]:
    """Both, with the names and what follows from them."""
    counts, found = progress(config, judgments), result(judgments)
    leader = "B" if found["wins_b"] > found["wins_a"] else "A"
    verdict = {
        "too few": "too few to tell", "early": f"{leader} is ahead", "difference": f"{leader} is better",
        "no difference": "no difference was found",
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
    rows = [f"{query_id}\t{doc_id}\t{grade}\n" for query_id in told for doc_id, grade in judgments.grades.get(query_id, {}).items()]
    write_whole(out / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\n" + "".join(rows))
    write_whole(out / "queries.jsonl", "".join(json.dumps({"_id": q, "text": shown.query}) + "\n" for q, shown in told.items()))
    for side in SIDES:
        run: Run = {query_id: {doc_id: 1 / rank for rank, doc_id in enumerate(shown.a if side == "a" else shown.b, 1)}
                    for query_id, shown in told.items()}
        write_trec(out / f"{side}.trec", run)


def _enough(wins_a: int, wins_b: int, wanted: int) -> Enough:
    clear, many = preference(wins_a, wins_b).p < LEVEL, wins_a + wins_b >= wanted
    if clear:
        return "difference" if many else "early"
    return "no difference" if many else "too few"


def _sentence(enough: Enough, config: CompareConfig, lacking: int) -> str:
    match enough:
        case "too few":
            return f"Too few to tell: {lacking} more without a tie to tell {_odds(config.share)} from a coin."
        case "early":
            return (f"One is ahead by more than chance gives, if you meant to stop here all along. Looking again and again finds "
                    f"differences that are none: {lacking} more, as planned, make it sure.")
        case "difference":
            return "Enough to tell: one of the two is better."
        case "no difference":
            return f"Enough to tell: {_odds(config.share)} or more would probably have shown, and has not."


def _odds(share: float) -> str:
    return f"{100 * share:g}:{100 * (1 - share):g}"
