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

import polars as pl

Rule = Literal["paper", "authors", "spread"]

AUTHORS_MIN_A_SIDE = 2
AUTHORS_STORED_A_SIDE = 10
REASONS = ("too_few_queries", "equal_scores", "too_few_positives", "too_few_negatives")


def choose(scored: pl.DataFrame, rule: Rule, m: int) -> tuple[pl.DataFrame, dict[str, int]]:
    """Apply a rule to `scored` (doc_id, query_id, score: float32; each (doc_id, query_id) once).

    Returns the chosen rows (doc_id, query_id, score, relevance: float32 in [0, 1], positive: bool), sorted by doc_id, positives
    first, each side with its extreme first; and the number of passages dropped, by reason (`REASONS`). A passage counts under
    the first reason that fits."""
    ranked = _with_places(scored)
    first_of_passage = ranked.filter(pl.col("place") == 0)
    reason = _reason(rule, m)
    dropped = dict.fromkeys(REASONS, 0)
    dropped.update(first_of_passage.select(reason=reason).drop_nulls().group_by("reason").len().iter_rows())
    chosen = ranked.filter(reason.is_null()).filter(_is_stored(rule, m))
    chosen = chosen.with_columns(
        relevance=((pl.col("score") - pl.col("low")) / (pl.col("high") - pl.col("low"))).cast(pl.Float32),
        extreme_first=pl.when("positive").then(-pl.col("score")).otherwise(pl.col("score")),
        score=pl.col("score").cast(pl.Float32),
    )
    chosen = chosen.sort("passage", ~pl.col("positive"), "extreme_first", "row")
    return chosen.select("doc_id", "query_id", "score", "relevance", "positive"), dropped


def _with_places(scored: pl.DataFrame) -> pl.DataFrame:
    """Adds what a rule looks at: of the passage n, n_positive, low, high; of the row its place by falling score (0 is the
    highest), its place among the positives, and among the negatives from above and from below."""
    # Ids are sorted once; from then on numbers stand for them, which sort ten times faster.
    rows = scored.with_columns(pl.col("score").cast(pl.Float64)).sort("doc_id", "query_id")
    rows = rows.with_columns(row=pl.int_range(pl.len()), passage=pl.col("doc_id").rle_id())
    # From below, too, the lowest place among equal scores goes to the lowest query_id: hence two sorts, not one reversed.
    rising = rows.sort("passage", "score", "row").with_columns(from_below=pl.int_range(pl.len()).over("passage"))
    falling = rising.sort("passage", "score", "row", descending=[False, True, False])
    return falling.with_columns(
        positive=pl.col("score") > 0,
        place=pl.int_range(pl.len()).over("passage"),
        n=pl.len().over("passage").cast(pl.Int64),
        n_positive=(pl.col("score") > 0).sum().over("passage").cast(pl.Int64),
        low=pl.col("score").min().over("passage"),
        high=pl.col("score").max().over("passage"),
    )


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
