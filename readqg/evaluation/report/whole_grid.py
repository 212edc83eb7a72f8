"""Queries at every r from 0 to 1 for a few documents, as in the paper's Figure 1, and what start and tuned model make of them.

A run writes and scores them for the report alone (OUT/grid/NUMBER): training needs r = 1 and r = 0 only.
"""

from __future__ import annotations

from dataclasses import dataclass

from readqg.corpus import Documents
from readqg.evaluation.report.changes import titles
from readqg.evaluation.report.written import Grid, Mean, by_relevance, distance, mean_of, stems_of
from readqg.frames import pl
from readqg.places import Place
from readqg.shards import open_input
from readqg.start_scores import START_SCORE

MODELS = ("start", "tuned")


@dataclass(frozen=True)
class WholeGrid:
    """`scores`: r -> the mean logit of the queries at it with their documents, under start and tuned. `apart`: (title, mean pairwise
    Jaccard distance of the word stems of a document's queries, how many of these are distinct)."""

    documents: list[Grid]
    scores: dict[float, tuple[Mean, Mean]]
    apart: list[tuple[str, float, int]]


def whole_grid(out: Place, folder: Place) -> WholeGrid:
    """`out`: of the run; `folder`: its queries scored by both models."""
    start, tuned = (pl.DataFrame(pl.from_arrow(open_input(folder / name).read())) for name in MODELS)
    key = ["doc_id", "relevance", "sample"]
    rows = start.join(tuned.select(*key, tuned_score=START_SCORE), on=key).sort(key)
    ids = rows["doc_id"].unique(maintain_order=True).to_list()
    named = titles(Documents.open(out / "corpus" / "documents"), ids)
    scores = {}
    for r in sorted(rows["relevance"].unique().to_list()):
        mine = rows.filter(pl.col("relevance") == r)
        before, after = mean_of(mine[START_SCORE].drop_nulls()), mean_of(mine["tuned_score"].drop_nulls())
        if before is not None and after is not None:
            scores[round(r, 3)] = before, after
    documents, apart = [], []
    for doc_id in ids:
        mine = rows.filter(pl.col("doc_id") == doc_id)
        documents.append(Grid(doc_id, *named[doc_id], by_relevance(mine)))
        texts = [text for text in mine["query"].to_list() if text]
        if (found := distance([stems_of(text) for text in texts])) is not None:
            apart.append((named[doc_id][0] or doc_id, found, len({" ".join(text.lower().split()) for text in texts})))
    return WholeGrid(documents, scores, apart)
