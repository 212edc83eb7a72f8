"""Before and after, query by query: where the tuned model gained and lost, and the documents that it put on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from readqg import runs
from readqg.corpus import Documents, read_texts
from readqg.evaluation.report.measured import asked_judgments
from readqg.places import Place

_SHOWN = 5
_TOP = 5
_DEPTH = 10
_PERSISTENCE = 0.9
_TITLE_CHARS, _EXCERPT_CHARS, _QUERY_CHARS = 140, 150, 400


@dataclass(frozen=True)
class Ranked:
    """A document at its place. `before`: its place under the start, None where that did not rank it; `grade`: None where nobody judged
    it."""

    rank: int
    doc_id: str
    title: str
    excerpt: str
    score: float
    grade: int | None
    before: int | None


@dataclass(frozen=True)
class Found:
    """A relevant document's places under start and tuned; None: not among the candidates."""

    doc_id: str
    title: str
    grade: int
    before: int | None
    after: int | None


@dataclass(frozen=True)
class Change:
    """A query whose ranking changed. `before`, `after`: its measure, None without judgments; `overlap`: rank-biased overlap."""

    query_id: str
    query: str
    before: float | None
    after: float | None
    overlap: float
    top_before: list[Ranked]
    top_after: list[Ranked]
    relevant: list[Found]


@dataclass(frozen=True)
class Changes:
    """`gained` and `lost` where there are judgments; else `moved`: the queries whose top changed most. `unchanged`: queries with the
    same top 10 in the same order, of `queries`."""

    queries: int
    unchanged: int
    gained: list[Change]
    lost: list[Change]
    moved: list[Change]


def changes(out: Place, per_query: Mapping[str, Mapping[str, float]] | None) -> Changes | None:
    """Queries that changed most. `per_query`: query_id -> run -> measure, where there are judgments. None where nothing was ranked."""
    if not (out / "start").is_dir() or not (out / "tuned").is_dir():
        return None
    orders = {name: {q: runs.ranked(docs) for q, docs in runs.read_run(out / name).items()} for name in ("start", "tuned")}
    ids = {name: {q: [doc_id for doc_id, _ in ranked] for q, ranked in order.items()} for name, order in orders.items()}
    queries = list(ids["start"])
    overlaps = {q: rank_biased_overlap(ids["start"][q][:_DEPTH], ids["tuned"].get(q, [])[:_DEPTH]) for q in queries}
    unchanged = {q for q in queries if ids["start"][q][:_DEPTH] == ids["tuned"].get(q, [])[:_DEPTH]}
    describe = _Describer(out, orders, ids, overlaps, per_query)
    if per_query is None:
        moved = sorted(set(queries) - unchanged, key=lambda q: (overlaps[q], q))
        return Changes(len(queries), len(unchanged), [], [], describe(moved[:_SHOWN]))
    delta = {q: values["tuned"] - values["start"] for q, values in per_query.items()}
    ordered = sorted(delta, key=lambda q: (-delta[q], q))
    gained = [q for q in ordered if delta[q] > 0][:_SHOWN]
    lost = [q for q in reversed(ordered) if delta[q] < 0][:_SHOWN]
    return Changes(len(queries), len(unchanged), describe(gained), describe(lost), [])


def rank_biased_overlap(first: Sequence[str], second: Sequence[str], p: float = _PERSISTENCE) -> float:
    """How alike the tops of two rankings are, the first places counting most: 1 the same, 0 disjoint. RBO_EXT of Webber, Moffat and
    Zobel (TOIS 2010) at the depth of the longer list; places that the shorter one lacks agree with nothing."""
    depth = max(len(first), len(second))
    if not depth:
        return 1.0
    seen_first: set[str] = set()
    seen_second: set[str] = set()
    total = agreement = 0.0
    for d in range(1, depth + 1):
        seen_first.update(first[d - 1:d])
        seen_second.update(second[d - 1:d])
        agreement = len(seen_first & seen_second) / d
        total += agreement * p**d
    return agreement * p**depth + (1 - p) / p * total


class _Describer:
    """Chosen queries with the texts of their documents, which are read together."""

    def __init__(self, out: Place, orders: Mapping[str, Mapping[str, list[tuple[str, float]]]],
                 ids: Mapping[str, Mapping[str, list[str]]], overlaps: Mapping[str, float],
                 per_query: Mapping[str, Mapping[str, float]] | None) -> None:
        self._orders, self._ids, self._overlaps, self._values = orders, ids, overlaps, per_query or {}
        self._queries = read_texts(out / "corpus" / "queries")
        self._judgments = asked_judgments(out)
        self._documents = Documents.open(out / "corpus" / "documents")

    def __call__(self, queries: Sequence[str]) -> list[Change]:
        wanted = {doc_id for q in queries for name in ("start", "tuned") for doc_id in self._ids[name].get(q, [])[:_TOP]}
        wanted |= {doc_id for q in queries for doc_id in self._relevant(q) if doc_id in self._documents}
        texts = titles(self._documents, sorted(wanted))
        return [self._change(q, texts) for q in queries]

    def _change(self, query: str, texts: Mapping[str, tuple[str, str]]) -> Change:
        places = {name: {doc_id: place for place, doc_id in enumerate(self._ids[name].get(query, []), 1)} for name in self._ids}
        values = self._values.get(query, {})
        relevant = [
            Found(doc_id, texts.get(doc_id, ("", ""))[0], grade, places["start"].get(doc_id), places["tuned"].get(doc_id))
            for doc_id, grade in self._relevant(query).items()
        ]
        return Change(
            query, cut(self._queries.get(query, ""), _QUERY_CHARS), values.get("start"), values.get("tuned"),
            self._overlaps.get(query, 1.0), self._top("start", query, texts, places["start"]),
            self._top("tuned", query, texts, places["start"]), relevant)

    def _top(self, name: str, query: str, texts: Mapping[str, tuple[str, str]], before: Mapping[str, int]) -> list[Ranked]:
        grades = self._judgments.get(query, {})
        return [
            Ranked(rank, doc_id, *texts[doc_id], score, grades.get(doc_id), before.get(doc_id))
            for rank, (doc_id, score) in enumerate(self._orders[name].get(query, [])[:_TOP], 1)
        ]

    def _relevant(self, query: str) -> dict[str, int]:
        """The most relevant ones, a few."""
        grades = sorted(self._judgments.get(query, {}).items(), key=lambda item: (-item[1], item[0]))
        return {doc_id: grade for doc_id, grade in grades[:_TOP] if grade > 0}


def titles(documents: Documents, ids: Sequence[str]) -> dict[str, tuple[str, str]]:
    """doc_id -> (title, beginning of the text); of a document without a title, its first words stand for one."""
    found: dict[str, tuple[str, str]] = {}
    for row in documents.table(ids).to_pylist() if ids else []:
        title, text = (row["title"] or "").strip(), (row["text"] or "").strip()
        found[row["doc_id"]] = (cut(title or text, _TITLE_CHARS), cut(text, _EXCERPT_CHARS) if title else "")
    return found


def cut(text: str, characters: int) -> str:
    """At most so many characters, with a mark where it was longer."""
    return text if len(text) <= characters else text[:characters].rstrip() + "…"
