"""The queries that a run wrote: how they move with the relevance r that was asked for, and a few documents with all of theirs.

Everything here is read or counted; no model runs. What needs one (a judge, a bi-encoder) is in OUT/quality, where that was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import Stemmer
from bm25s.stopwords import STOPWORDS_EN

from readqg.corpus import Documents
from readqg.evaluation.report.changes import cut, titles
from readqg.evaluation.significance import bootstrap_interval
from readqg.frames import pl
from readqg.places import Place
from readqg.random_rows import in_order
from readqg.shards import open_input, stable_hash

_SAMPLED, _SHOWN_DOCUMENTS, _SHOWN_SAMPLES = 400, 8, 2
_QUERY_CHARS = 300
_RESAMPLES = 1_000
_FOUND_AT = 10
_WORD = re.compile(r"[^\W_]+")
_STOP_WORDS = frozenset(STOPWORDS_EN)
_NONE = pl.Series([], dtype=pl.UInt64)


@dataclass(frozen=True)
class Mean:
    """Over documents, with a 95 % bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class AtRelevance:
    """Queries at one r. `words`: a query's length; `shared`: share of its word stems (stop words apart) that the document has;
    `log_likelihood`: nats a token under the generator at that r; `found`: share that finds its document among BM25's first ten;
    `judged`: the judge's probability. None where the run does not have it."""

    relevance: float
    queries: int
    words: Mean
    shared: Mean
    log_likelihood: Mean | None
    found: Mean | None
    judged: Mean | None


@dataclass(frozen=True)
class Grid:
    """A document with its queries: (r, the first few, how many more) from the highest r down."""

    doc_id: str
    title: str
    excerpt: str
    rows: list[tuple[float, list[str], int]]


@dataclass(frozen=True)
class Written:
    """`spread`: how much a document's queries differ in their words (mean pairwise Jaccard distance of stems; 0 all the same, 1 nothing
    shared). The means are over `sampled` documents, drawn by a stable hash."""

    rows: int
    queries: int
    documents: int
    distinct: int
    failed: int
    sampled: int
    at: list[AtRelevance]
    spread: Mean | None
    grids: list[Grid]


def written(out: Place) -> Written:
    """What OUT/queries holds (OUT/round-trip and OUT/quality add to it where they are there)."""
    folder = open_input(out / ("round-trip" if (out / "round-trip" / "_SUCCESS").exists() else "queries"))
    columns = ["doc_id", "relevance", "sample", "query", "log_likelihood", "n_tokens", "error"]
    columns += [name for name in ("rank",) if name in folder.schema.names]
    documents, texts = [_NONE], [_NONE]  # 8 bytes a row
    queries = failed = 0
    kept = pl.DataFrame()
    for _, table in in_order(folder, columns):
        chunk = pl.DataFrame(pl.from_arrow(table))
        filled = chunk["query"].drop_nulls()
        texts.append(filled.filter(filled != "").hash())
        queries += len(texts[-1])
        failed += len(chunk) - chunk["error"].null_count()
        ids = chunk["doc_id"].unique()
        keys = pl.DataFrame({"doc_id": ids, "key": pl.Series([stable_hash(doc_id) for doc_id in ids], dtype=pl.UInt64)})
        documents.append(keys["key"])
        kept = _lowest(pl.concat([kept, chunk.join(keys, on="doc_id")], how="diagonal"))
    at, spread = _statistics(kept, out) if len(kept) else ([], None)
    return Written(
        folder.rows, queries, pl.concat(documents).n_unique(), pl.concat(texts).n_unique(), failed,
        kept["doc_id"].n_unique() if len(kept) else 0, at, spread, _grids(kept, out))


def quality(out: Place) -> list[tuple[str, Mean]]:
    """(measure, mean) of OUT/quality, where the run has it."""
    if not (out / "quality" / "_SUCCESS").exists():
        return []
    table = open_input(out / "quality").read(columns=list(_QUALITY))
    found = [(label, mean_of(table[name].drop_null().to_pylist())) for name, label in _QUALITY.items()]
    return [(label, mean) for label, mean in found if mean is not None]


_QUALITY = {
    "diversity": "diversity: mean angular distance of a document's queries", "rel_plus": "rel+: the judge's probability at r = 1",
    "rel_minus": "rel−: at r = 0", "delta": "rel+ − rel−", "control": "control: Spearman of r and the judge's probability",
}


def _lowest(rows: pl.DataFrame) -> pl.DataFrame:
    """Those of the `_SAMPLED` documents with the lowest keys."""
    keys = rows["key"].unique().sort().head(_SAMPLED)
    return rows.filter(pl.col("key").is_in(keys.implode()))


def _statistics(rows: pl.DataFrame, out: Place) -> tuple[list[AtRelevance], Mean | None]:
    rows = rows.filter(pl.col("query").fill_null("") != "")
    ids = rows["doc_id"].unique().sort().to_list()
    of_document = dict(zip(ids, map(stems_of, Documents.open(out / "corpus" / "documents").texts(ids)), strict=True))
    stems = [stems_of(text) for text in rows["query"]]
    shared = [len(s & of_document[d]) / len(s) if s else None for s, d in zip(stems, rows["doc_id"], strict=True)]
    per_token = pl.col("log_likelihood") / pl.col("n_tokens")
    found = (pl.col("rank") <= _FOUND_AT).fill_null(False).cast(pl.Float64) if "rank" in rows.columns else pl.lit(None, pl.Float64)
    rows = rows.with_columns(
        words=pl.Series([len(text.split()) for text in rows["query"]], dtype=pl.Float64), shared=pl.Series(shared, dtype=pl.Float64),
        per_token=per_token, found=found, stems=pl.Series(range(len(rows))))
    judged = _judged(out)
    at = []
    for relevance in sorted(rows["relevance"].unique().to_list(), reverse=True):
        mine = rows.filter(pl.col("relevance") == relevance)
        by_document = mine.group_by("doc_id").agg(pl.col("words", "shared", "per_token", "found").mean()).sort("doc_id")
        means = {name: mean_of(by_document[name].drop_nulls().to_list()) for name in ("words", "shared", "per_token", "found")}
        words = means["words"]
        assert words is not None  # every row here has a query
        at.append(AtRelevance(relevance, len(mine), words, means["shared"] or Mean(0.0, 0.0, 0.0, 0), means["per_token"], means["found"],
                              mean_of(judged.get(round(relevance, 3), []))))
    first = rows.filter(pl.col("sample") == pl.col("sample").min().over("doc_id"))
    distances = [distance([stems[i] for i in group]) for group in first.group_by("doc_id").agg("stems").sort("doc_id")["stems"]]
    return at, mean_of([d for d in distances if d is not None])


def _judged(out: Place) -> dict[float, list[float]]:
    """r -> the judge's probability of each document's queries there, of as many documents as are sampled."""
    if not (out / "quality" / "_SUCCESS").exists():
        return {}
    folder = open_input(out / "quality")
    if "judged" not in folder.schema.names:
        return {}
    found: dict[float, list[float]] = {}
    for document in folder.read(0, _SAMPLED, ["judged"])["judged"].drop_null().to_pylist():
        for point in document:
            found.setdefault(round(point["relevance"], 3), []).append(point["probability"])
    return found


def _grids(rows: pl.DataFrame, out: Place) -> list[Grid]:
    if not len(rows):
        return []
    ids = rows.sort("key")["doc_id"].unique(maintain_order=True).head(_SHOWN_DOCUMENTS).to_list()
    texts = titles(Documents.open(out / "corpus" / "documents"), ids)
    return [Grid(doc_id, *texts[doc_id], by_relevance(rows.filter(pl.col("doc_id") == doc_id))) for doc_id in ids]


def by_relevance(rows: pl.DataFrame) -> list[tuple[float, list[str], int]]:
    found: dict[float, list[str]] = {}
    for row in rows.sort("relevance", "sample", descending=[True, False]).to_dicts():
        found.setdefault(row["relevance"], []).append(_said(row))
    return [(relevance, said[:_SHOWN_SAMPLES], max(len(said) - _SHOWN_SAMPLES, 0)) for relevance, said in found.items()]


def _said(row: dict[str, Any]) -> str:
    if row["error"] is not None:
        return cut(f"(could not be written: {row['error']})", _QUERY_CHARS)
    return cut(row["query"], _QUERY_CHARS) if row["query"] else "(empty)"


def stems_of(text: str) -> frozenset[str]:
    return frozenset(_STEMMER.stemWords([word for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS]))


_STEMMER = Stemmer.Stemmer("porter")


def distance(sets: list[frozenset[str]]) -> float | None:
    """Mean over pairs of 1 - |shared| / |all|."""
    pairs = [1 - len(a & b) / len(a | b) for a, b in combinations(sets, 2) if a | b]
    return float(np.mean(pairs)) if pairs else None


def mean_of(values: Iterable[float]) -> Mean | None:
    array = np.array(list(values), dtype=np.float64)
    return Mean(float(array.mean()), *bootstrap_interval(array, _RESAMPLES), len(array)) if len(array) else None
