"""`readqg inspect`: generated queries sorted so that the bad ones come first, with filters. Parts are scanned, not loaded."""

from __future__ import annotations

from typing import Any

import polars as pl
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from readqg.config import InspectConfig
from readqg.errors import ConfigError
from readqg.fetching import local_file
from readqg.reranker.sampling import SAME_RELEVANCE
from readqg.shards import InputFolder, open_input

_COLUMNS = ("doc_id", "relevance", "sample", "query", "log_likelihood", "n_tokens", "error")


def inspect(config: InspectConfig) -> dict[str, Any]:
    """Print the queries that fit, at most `limit`, as a table on standard error, and return

    `queries` of the folder, of them `distinct` (case and spaces aside), `empty` and with `errors`; `matching`; and `rows`, those
    shown: doc_id, relevance, sample, query, `per_token` (log-likelihood a token, nats), `times` that the query occurs, `score`
    (null without `quality`), error. Raises `InputError` where a folder cannot be read, `ConfigError` for a pattern that is none."""
    folder = open_input(config.queries, _COLUMNS)
    queries = _scan(folder, _COLUMNS).with_columns(
        per_token=pl.col("log_likelihood") / pl.col("n_tokens"),
        same=pl.col("query").str.to_lowercase().str.replace_all(r"\s+", " ").str.strip_chars(),
    )
    counts = queries.filter(pl.col("same") != "").group_by(pl.col("same").hash().alias("hash")).agg(times=pl.len())
    queries = queries.with_columns(hash=pl.col("same").hash()).join(counts, on="hash", how="left")
    if config.quality is None:
        queries = queries.with_columns(score=pl.lit(None, pl.Float32))
    else:
        queries = _scored(queries, open_input(config.quality, ("doc_id", "rel_plus", "rel_minus")))
    kept = queries.filter(*_filters(config))
    order = {
        "likelihood": [pl.col("per_token")],
        "score": [pl.col("score") * pl.when(pl.col("relevance") < 0.5).then(-1).otherwise(1)],
        "times": [-pl.col("times").cast(pl.Int64), pl.col("same")],
    }["times" if config.duplicates and config.sort == "likelihood" else config.sort]
    shown = kept.sort(*order, "doc_id", "relevance", "sample", nulls_last=True)
    shown = (shown.head(config.limit) if config.limit else shown).select(
        "doc_id", "relevance", "sample", "query", "per_token", "times", "score", "error")
    totals = queries.select(
        queries=pl.len(), distinct=pl.col("hash").filter(pl.col("same") != "").n_unique(), empty=(pl.col("same") == "").sum(),
        errors=pl.col("error").is_not_null().sum(),
    )
    facts, matching, rows = pl.collect_all([totals, kept.select(pl.len()), shown])
    _table(rows)
    return {**facts.row(0, named=True), "matching": matching.item(), "rows": rows.to_dicts()}


def _scan(folder: InputFolder, columns: tuple[str, ...]) -> pl.LazyFrame:
    return pl.scan_parquet([local_file(part) for part in folder.parts]).select(columns)


def _scored(queries: pl.LazyFrame, quality: InputFolder) -> pl.LazyFrame:
    """With the judge's probability: the document's mean at r = 1 or r = 0, null at any other."""
    judged = _scan(quality, ("doc_id", "rel_plus", "rel_minus"))
    relevance = pl.col("relevance")
    score = pl.when(relevance == 1).then("rel_plus").when(relevance == 0).then("rel_minus")
    return queries.join(judged, on="doc_id", how="left").with_columns(score=score)


def _filters(config: InspectConfig) -> list[pl.Expr]:
    found: list[pl.Expr] = []
    if config.relevance is not None:
        found.append((pl.col("relevance") - config.relevance).abs() < SAME_RELEVANCE)
    if config.min_likelihood is not None:
        found.append(pl.col("per_token") >= config.min_likelihood)
    if config.max_likelihood is not None:
        found.append(pl.col("per_token") <= config.max_likelihood)
    if config.duplicates:
        found.append(pl.col("times") > 1)
    if config.errors:
        found.append(pl.col("error").is_not_null())
    if config.grep is not None:
        pattern = f"(?i){config.grep}"
        try:
            pl.Series([""]).str.contains(pattern)
        except pl.exceptions.ComputeError as error:
            raise ConfigError(f"--grep {config.grep!r} is no regular expression: {error}") from None
        found.append(pl.col("query").str.contains(pattern))
    return found or [pl.lit(True)]


def _table(rows: pl.DataFrame) -> None:
    if rows.is_empty():
        Console(stderr=True).print("No query fits.")
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("document")
    for name in ("r", "nats/token", "times", "score"):
        table.add_column(name, justify="right")
    table.add_column("query")
    for row in rows.iter_rows(named=True):
        said = row["error"] if row["query"] is None else row["query"]
        numbers = (f"{row['relevance']:g}", _number(row["per_token"]), str(row["times"] or ""), _number(row["score"]))
        cells = (row["doc_id"], *numbers, said or "")
        # Texts come from a corpus and a model: no markup, no control characters that a terminal would obey.
        table.add_row(*(Text("".join(c if c.isprintable() else "·" for c in cell)) for cell in cells))
    Console(stderr=True).print(table)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
