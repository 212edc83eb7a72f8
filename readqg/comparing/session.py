"""One person's comparison: what is asked next, what the page may know of it, and what is kept. Nothing here knows of HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from readqg.comparing import results
from readqg.comparing.excerpts import excerpt
from readqg.comparing.judgments import Choice, End, Event, Grade, Judgments, Said, Shown, Undo
from readqg.comparing.rankings import Rankings
from readqg.config import CompareConfig
from readqg.words import Marker


class Session:
    """The page's view is blind: it says left and right, and whose ranking that is only after the end."""

    def __init__(self, config: CompareConfig, rankings: Rankings, judgments: Judgments) -> None:
        self.config, self.rankings, self.judgments = config, rankings, judgments
        self.out = Path(config.out)
        results.write_judgments(self.out, judgments)  # a kill may have come between a judgment and these

    def query(self, query_id: str) -> str:
        """Its text. Raises `KeyError` for one that was neither loaded nor shown."""
        shown = self.judgments.shown.get(query_id)
        return shown.query if shown is not None else self.rankings.queries[query_id]

    def upcoming(self, count: int = 1) -> list[str]:
        """The next loaded queries of which nothing has been said."""
        found = (query_id for query_id in self.rankings.queries if query_id not in self.judgments.choices)
        return [query_id for query_id, _ in zip(found, range(count), strict=False)]

    def show(self, shown: Shown) -> None:
        """Keep what is shown; what has been shown of a query stays as it was."""
        if shown.query_id not in self.judgments.shown:
            self.judgments.add(shown)

    def view(self, query_id: str) -> dict[str, Any]:
        """Two columns of documents for the page, and what has been said of them."""
        shown = self.judgments.shown[query_id]
        marker = Marker(shown.query)
        sides = {"left": shown.a if shown.left == "a" else shown.b, "right": shown.b if shown.left == "a" else shown.a}
        rows = {row["doc_id"]: row for row in self.rankings.documents.table(list(dict.fromkeys((*shown.a, *shown.b)))).to_pylist()}
        return {
            "query_id": query_id, "query": shown.query, "loaded": query_id in self.rankings.queries, "same": shown.same,
            "documents": {doc_id: excerpt(marker, row) for doc_id, row in rows.items()},
            **{side: list(ids) for side, ids in sides.items()},
            "choice": self.judgments.choices.get(query_id), "grades": self.judgments.grades.get(query_id, {}),
        }

    def progress(self) -> dict[str, Any]:
        left = sum(query_id not in self.judgments.choices for query_id in self.rankings.queries)
        return {**results.progress(self.config, self.judgments), "left_over": left, "undoable": bool(self.judgments.choices)}

    def choose(self, query_id: str, choice: Said) -> None:
        self._keep(Choice(query_id=query_id, choice=choice))

    def grade(self, query_id: str, doc_id: str, relevance: Any) -> None:
        self._keep(Grade(query_id=query_id, doc_id=doc_id, relevance=relevance))

    def undo(self) -> str:
        """Take back the last choice; its query. Raises `ValueError` where there is none."""
        last = next(reversed(self.judgments.choices), None)
        if last is None:
            raise ValueError("nothing to take back")
        self._keep(Undo(query_id=last))
        return last

    def end(self) -> dict[str, Any]:
        self._keep(End())
        return self.summary()

    def result(self) -> dict[str, Any]:
        return results.result(self.judgments)

    def summary(self) -> dict[str, Any]:
        return results.summary(self.config, self.rankings, self.judgments)

    def _keep(self, event: Event) -> None:
        self.judgments.add(event)
        results.write_judgments(self.out, self.judgments)
