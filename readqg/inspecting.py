"""`readqg inspect`: generated queries, or documents, sorted so that the bad ones come first, with filters. Parts are scanned, not
loaded."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from readqg.config import InspectConfig
from readqg.errors import ConfigError, InputError
from readqg.fetching import local_file
from readqg.frames import pl
from readqg.reranker.sampling import SAME_RELEVANCE
from readqg.shards import InputFolder, open_input

_BEGINNING_CHARS = 100
_NUMBERS = ("r", "nats/token", "times", "score", "words", "rank", "ratio", "start's score")
_DOCUMENT = ("doc_id", "title", "text")
_ADDED: dict[str, type[pl.DataType]] = {"rank": pl.Int32, "ratio": pl.Float32, "start_score": pl.Float32}
_MADE_BY = {"rank": "round-trip", "ratio": "ratio", "start_score": "score-queries"}
_NOT_FOUND = 1_000_000
_COLUMNS = ("doc_id", "relevance", "sample", "query", "log_likelihood", "n_tokens", "error")


def inspect(config: InspectConfig) -> dict[str, Any]:
    """Print the queries, or documents, that fit, at most `limit`, as a table on standard error, and return, of queries,

    `queries` of the folder, of them `distinct` (case and spaces aside), `empty` and with `errors`; `matching`; and `rows`, those
    shown: doc_id, relevance, sample, query, `per_token` (log-likelihood a token, nats), `times` that the query occurs, `score`
    (null without `quality`), `rank`, `ratio` and `start_score` (null where the folder has not what `readqg round-trip`, `ratio` and
    `score-queries` add), `beginning` of the document (null without `documents`), error; of documents `documents`, of them `empty`
    (neither title nor text), `median_words`, `matching` and `rows`: doc_id, words, title, beginning. Raises `InputError` where a folder
    cannot be read, `ConfigError` for a pattern that is none."""
    if set(_DOCUMENT) <= set(open_input(config.queries).schema.names):
        return _documents(config)
    folder = open_input(config.queries, _COLUMNS)
    added = {name: dtype for name, dtype in _ADDED.items() if name in folder.schema.names}
    if config.sort in _ADDED and config.sort not in added:
        raise ConfigError(f"--sort {config.sort}: {config.queries} has no such column; give what `readqg {_MADE_BY[config.sort]}` made of "
                          "it.")
    queries = _scan(folder, (*_COLUMNS, *added)).with_columns(
        *(pl.lit(None, dtype).alias(name) for name, dtype in _ADDED.items() if name not in added),
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
    rank = pl.col("rank").fill_null(_NOT_FOUND).cast(pl.Int64)
    upside = pl.when(pl.col("relevance") < 0.5).then(-1).otherwise(1)
    order = {
        "likelihood": [pl.col("per_token"), -pl.col("times").cast(pl.Int64)],  # of queries made elsewhere there is no likelihood
        "score": [pl.col("score") * upside],
        "times": [-pl.col("times").cast(pl.Int64), pl.col("same")],
        "rank": [-pl.when(pl.col("same") != "").then(pl.when(pl.col("relevance") < 0.5).then(_NOT_FOUND - rank).otherwise(rank))],
        "ratio": [pl.col("ratio") * upside],
        "start_score": [pl.col("start_score") * upside],
    }["times" if config.duplicates and config.sort == "likelihood" else config.sort]
    shown = kept.sort(*order, "doc_id", "relevance", "sample", nulls_last=True)
    shown = (shown.head(config.limit) if config.limit else shown).select(
        "doc_id", "relevance", "sample", "query", "per_token", "times", "score", *_ADDED, "error")
    totals = queries.select(
        queries=pl.len(), distinct=pl.col("hash").filter(pl.col("same") != "").n_unique(), empty=(pl.col("same") == "").sum(),
        errors=pl.col("error").is_not_null().sum(),
    )
    facts, matching, rows = pl.collect_all([totals, kept.select(pl.len()), shown])
    rows = _with_beginnings(rows, config.documents)
    _table(rows)
    return {**facts.row(0, named=True), "matching": matching.item(), "rows": rows.to_dicts()}


def _with_beginnings(rows: pl.DataFrame, documents: str | None) -> pl.DataFrame:
    """With the beginning of each document. Raises `InputError` where the folder has none of them."""
    if documents is None:
        return rows.with_columns(beginning=pl.lit(None, pl.String))
    texts = _scan(open_input(documents, _DOCUMENT), _DOCUMENT).filter(pl.col("doc_id").is_in(rows["doc_id"].unique().to_list()))
    found = texts.select("doc_id", beginning=_beginning("title", "text")).collect()
    if rows.height and not found.height:
        raise InputError(f"{documents} has none of these queries' documents, such as {rows['doc_id'][0]}. Is it the right folder?")
    return rows.join(found, on="doc_id", how="left", maintain_order="left")


def _documents(config: InspectConfig) -> dict[str, Any]:
    asked = config.model_fields_set - {"queries", "grep", "limit"}
    if other := sorted(name for name in asked if getattr(config, name) != type(config).model_fields[name].default):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in other)
        raise ConfigError(f"{flags}: for a queries folder, and {config.queries} is a documents folder. There: --grep and --limit.")
    documents = _scan(open_input(config.queries, _DOCUMENT), _DOCUMENT).with_columns(
        words=pl.col("text").str.count_matches(r"\S+"), beginning=_beginning("text"))
    kept = documents.filter(_found(config.grep, pl.concat_str("title", "text", separator=" ")) if config.grep else pl.lit(True))
    shown = kept.sort("words", "doc_id")
    shown = (shown.head(config.limit) if config.limit else shown).select("doc_id", "words", "title", "beginning")
    totals = documents.select(documents=pl.len(), empty=(_beginning("title", "text") == "").sum(), median_words=pl.col("words").median())
    facts, matching, rows = pl.collect_all([totals, kept.select(pl.len()), shown])
    told = [tuple("" if cell is None else str(cell) for cell in row) for row in rows.iter_rows()]
    _print(("document", "words", "title", "begins"), told, "No document fits.")
    return {**facts.row(0, named=True), "matching": matching.item(), "rows": rows.to_dicts()}


def _beginning(*columns: str) -> pl.Expr:
    text = pl.concat_str(*columns, separator=" ").str.strip_chars()
    cut = text.str.slice(0, _BEGINNING_CHARS)
    return pl.when(text.str.len_chars() > _BEGINNING_CHARS).then(cut + "…").otherwise(cut)


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
        found.append(_found(config.grep, pl.col("query")))
    return found or [pl.lit(True)]


def _found(grep: str, column: pl.Expr) -> pl.Expr:
    pattern = f"(?i){grep}"
    try:
        pl.Series([""]).str.contains(pattern)
    except pl.exceptions.ComputeError as error:
        raise ConfigError(f"--grep {grep!r} is no regular expression: {error}") from None
    return column.str.contains(pattern)


def _table(rows: pl.DataFrame) -> None:
    columns = {"document": "doc_id", "r": "relevance", "nats/token": "per_token", "times": "times", "score": "score", "rank": "rank",
               "ratio": "ratio", "start's score": "start_score", "query": "query", "the document begins": "beginning"}
    always = ("doc_id", "relevance", "times", "query")
    there = {title: name for title, name in columns.items() if name in always or rows[name].is_not_null().any()}
    told = [tuple(_cell(name, row) for name in there.values()) for row in rows.iter_rows(named=True)]
    _print(tuple(there), told, "No query fits.")


def _cell(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if name == "query":
        return (row["error"] if value is None else value) or ""
    if name == "relevance":
        return f"{value:g}"
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


def _print(titles: tuple[str, ...], rows: list[tuple[str, ...]], none: str) -> None:
    console = Console(stderr=True)
    if not rows:
        console.print(none)
        return
    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in titles:
        table.add_column(title, justify="right" if title in _NUMBERS else "left")
    for row in rows:
        # Texts come from a corpus and a model: no markup, no control characters that a terminal would obey.
        table.add_row(*(Text("".join(c if c.isprintable() else "·" for c in cell)) for cell in row))
    console.print(table)
