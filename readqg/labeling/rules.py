"""Which queries of a passage become its positives and negatives (method, section 1), over many passages at once.

Every rule sees all the queries that a passage was scored with. A score above 0 is positive, any other negative; relevance is
the score rescaled over all of the passage's scores, before any cut: r = (s - min) / (max - min).

| rule | kept if | positives stored | negatives stored |
| --- | --- | --- | --- |
| `paper` | >= 2m queries, one positive and one negative at least | the m highest | the m lowest |
| `authors` | >= 2 positives and >= 2 negatives | the 10 highest | the 10 highest-scored negatives |
| `spread` | as `paper` | 2m queries at equal quantiles of r, signs as they fall | the same |

Stored lists begin with the extreme one: positives fall in score, negatives rise. Equal scores stand in the order of query_id,
so nothing depends on the order of the input.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from readqg.frames import pl

Rule = Literal["paper", "authors", "spread"]

AUTHORS_MIN_A_SIDE = 2
AUTHORS_STORED_A_SIDE = 10
REASONS = ("too_few_queries", "equal_scores", "too_few_positives", "too_few_negatives")


def choose(scored: pl.DataFrame, rule: Rule, m: int) -> tuple[pl.DataFrame, dict[str, int]]:
    """Apply a rule to `scored` (doc_id, query_id, score: float32; each (doc_id, query_id) once).

    Returns the chosen rows (doc_id, query_id, score, relevance: float32 in [0, 1], positive: bool), sorted by doc_id, positives
    first, each side with its extreme first; and the number of passages dropped, by reason (`REASONS`). A passage counts under
    the first reason that fits."""
    rows, passages = _ranked(scored)
    passages = passages.with_columns(reason=_reason(rule, m))
    dropped = dict.fromkeys(REASONS, 0)
    dropped.update(passages.select("reason").drop_nulls().group_by("reason").len().iter_rows())
    kept = rows.filter(passages["reason"].is_null().gather(rows["passage"]))
    kept = kept.with_columns(passages.drop("reason")[kept["passage"]])
    chosen = kept.filter(_is_stored(rule, m)).with_columns(
        relevance=((pl.col("score") - pl.col("low")) / (pl.col("high") - pl.col("low"))).cast(pl.Float32),
        score=pl.col("score").cast(pl.Float32),
    )
    extreme_first = pl.when("positive").then("place").otherwise("from_below")
    chosen = chosen.sort("passage", ~pl.col("positive"), extreme_first)
    return chosen.select("doc_id", "query_id", "score", "relevance", "positive"), dropped


def _ranked(scored: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """What a rule looks at. A row a score, by passage and falling score: the passage's number, the score's place by falling score
    (0 is the highest) and by rising score (`from_below`), equal ones in the order of query_id both ways. A row a passage: n,
    n_positive, low, high."""
    rows = scored.with_columns(pl.col("score").cast(pl.Float64)).sort("doc_id", "score", "query_id", descending=[False, True, False])
    rows = rows.with_columns(passage=pl.col("doc_id").rle_id(), positive=pl.col("score") > 0)
    score, passage, at = rows["score"].to_numpy(), rows["passage"].to_numpy(), np.arange(rows.height)
    begins = np.append(True, passage[1:] != passage[:-1])[: rows.height]
    first, n = _runs(begins)
    tie_first, tie_n = _runs(begins | np.append(True, score[1:] != score[:-1])[: rows.height])
    place, in_tie = at - np.repeat(first, n), at - np.repeat(tie_first, tie_n)
    passages = pl.DataFrame({
        "n": n, "n_positive": np.add.reduceat(rows["positive"].to_numpy().astype(np.int64), first),
        "low": score[first + n - 1], "high": score[first]})
    # From below, a tie stands as many places from the end as it does from the start from above.
    from_below = np.repeat(n, n) - (place - in_tie) - np.repeat(tie_n, tie_n) + in_tie
    return rows.with_columns(place=place, from_below=from_below), passages


def _runs(begins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First row and length of every run, of (rows,) bool that is true where one begins."""
    first = np.flatnonzero(begins)
    return first, np.diff(first, append=len(begins))


def _reason(rule: Rule, m: int) -> pl.Expr:
    """Why a passage is dropped; null where it is kept."""
    a_side, queries = (AUTHORS_MIN_A_SIDE, 2 * AUTHORS_MIN_A_SIDE) if rule == "authors" else (1, 2 * m)
    return (
        pl.when(pl.col("n") < queries).then(pl.lit("too_few_queries"))
        .when(pl.col("high") <= pl.col("low")).then(pl.lit("equal_scores"))
        .when(pl.col("n_positive") < a_side).then(pl.lit("too_few_positives"))
        .when(pl.col("n") - pl.col("n_positive") < a_side).then(pl.lit("too_few_negatives"))
    )


def _is_stored(rule: Rule, m: int) -> pl.Expr:
    if rule == "paper":
        return pl.when("positive").then(pl.col("place") < m).otherwise(pl.col("from_below") < m)
    if rule == "authors":
        among_negatives = pl.col("place") - pl.col("n_positive")
        return pl.when("positive").then(pl.col("place")).otherwise(among_negatives) < AUTHORS_STORED_A_SIDE
    # Quantile j of 0 ... 2m - 1 is the query at place j (n - 1) / (2m - 1), rounded half up. Place p is one of these where
    # the quantile next above p - 1/2 rounds to p; whole numbers, so that no rounding error can lose or double one.
    gaps = 2 * m - 1
    quantile = (pl.col("place") * 2 - 1) * gaps
    quantile = (quantile + 2 * (pl.col("n") - 1) - 1) // (2 * (pl.col("n") - 1))
    rounded = (2 * quantile * (pl.col("n") - 1) + gaps) // (2 * gaps)
    return rounded == pl.col("place")
