"""One person's comparison: what is asked next, what the page may know of it, and what is kept. Nothing here knows of HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from readqg.comparing import results
from readqg.comparing.judgments import End, Event, Judgments, Shown, Undo, UnfitError
from readqg.comparing.rankings import Rankings
from readqg.config import CompareConfig
from readqg.errors import InputError
from readqg.excerpts import excerpt
from readqg.words import Marker


class Session:
    """The page's view is blind: it says left and right, and whose ranking that is only after the end.

    Raises `InputError` where a query that was judged has another text now."""

    def __init__(self, config: CompareConfig, rankings: Rankings, judgments: Judgments) -> None:
        self.config, self.rankings, self.judgments = config, rankings, judgments
        self.out = Path(config.out)
        self._failed: set[str] = set()
        for query_id, shown in judgments.shown.items():
            text = rankings.queries.get(query_id, shown.query)
            if text != shown.query:
                raise InputError(f"{config.queries}: query {query_id!r} is {text!r}, but {judgments.path} has it as {shown.query!r}. "
                                 "Give the queries that it was begun with, or others whose ids differ.")
        results.write_judgments(self.out, judgments)  # a kill may have come between a judgment and these

    def query(self, query_id: str) -> str:
        """Its text. Raises `KeyError` for one that was neither loaded nor shown."""
        shown = self.judgments.shown.get(query_id)
        return shown.query if shown is not None else self.rankings.queries[query_id]

    def upcoming(self, count: int = 1) -> list[str]:
        """The next loaded queries of which nothing has been said, less those passed over."""
        return list(islice(self._left(), count))

    def pass_over(self, query_id: str) -> None:
        """For this time, since it cannot be ranked; the same command, given again, tries it again."""
        self._failed.add(query_id)

    def show(self, shown: Shown) -> None:
        """Keep what is shown; what has been shown of a query stays as it was."""
        if shown.query_id not in self.judgments.shown:
            self.judgments.add(shown)

    def view(self, query_id: str) -> dict[str, Any]:
        """Two columns of documents for the page, and what has been said of them."""
        shown = self.judgments.shown[query_id]
        marker = Marker(shown.query)
        sides = {"left": shown.a if shown.left == "a" else shown.b, "right": shown.b if shown.left == "a" else shown.a}
        ids = list(dict.fromkeys((*sides["left"], *sides["right"])))  # in an order that does not say which is A
        rows = {row["doc_id"]: row for row in self.rankings.documents.table(ids).to_pylist()}
        return {
            "query_id": query_id, "query": shown.query, "loaded": query_id in self.rankings.queries, "same": shown.same,
            "documents": {doc_id: excerpt(marker, row) for doc_id, row in rows.items()},
            **{side: list(ids) for side, ids in sides.items()},
            "choice": self.judgments.choices.get(query_id), "grades": self.judgments.grades.get(query_id, {}),
        }

    def progress(self) -> dict[str, Any]:
        left = sum(1 for _ in self._left())
        return {**results.progress(self.config, self.judgments), "left_over": left, "undoable": bool(self.judgments.choices)}

    def _left(self) -> Iterator[str]:
        return (query_id for query_id in self.rankings.queries if query_id not in self.judgments.choices and query_id not in self._failed)

    def keep(self, event: Event) -> None:
        """Raises `UnfitError` for what does not fit."""
        self.judgments.add(event)
        results.write_judgments(self.out, self.judgments)

    def undo(self) -> str:
        """Take back the last choice; its query. Raises `UnfitError` where there is none."""
        last = next(reversed(self.judgments.choices), None)
        if last is None:
            raise UnfitError("there is nothing to take back")
        self.keep(Undo(query_id=last))
        return last

    def end(self) -> dict[str, Any]:
        """Once more where it has ended: what is written afterwards may have failed."""
        if not self.judgments.ended:
            self.judgments.add(End())
        results.write_judgments(self.out, self.judgments)
        return self.summary()

    def result(self) -> dict[str, Any]:
        return results.result(self.config, self.judgments)

    def summary(self) -> dict[str, Any]:
        return results.summary(self.config, self.rankings, self.judgments)
