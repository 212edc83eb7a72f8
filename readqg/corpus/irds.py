"""Collections of the package ir_datasets by their ids, `irds:beir/scifact/test`. What is not on this machine yet, it downloads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from readqg.config import ImportSettings
from readqg.corpus.files import Line
from readqg.corpus.forms import Source
from readqg.corpus.rows import Kind
from readqg.errors import ConfigError, InputError
from readqg.places import Place
from readqg.shards import fingerprint

log = logging.getLogger("readqg")

PREFIX = "irds:"
_BODIES = ("text", "body", "contents", "content", "abstract")
_QUERIES = ("text", "query", "title")


@dataclass(frozen=True)
class Collection(Source):
    """Documents, queries or judgments of a collection."""

    named: ClassVar[bool] = True

    def lines(self, settings: ImportSettings) -> Iterator[Line]:
        read: Callable[[Any], dict[str, Any]] = {"documents": _document, "queries": _query, "judgments": _judgment}[self.kind]
        try:
            dataset = _load(self.path)
            rows = {"documents": "docs_iter", "queries": "queries_iter", "judgments": "qrels_iter"}[self.kind]
            for number, row in enumerate(getattr(dataset, rows)(), 1):
                fields = read(row)
                yield Line(number, fields, excerpt=str(fields)[:200])
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{self.path}: ir_datasets cannot give its {self.kind} ({type(error).__name__}: {error}). Where it has to "
                             f"be downloaded, the network is needed once, and room in {_home()}.") from None

    def columns(self) -> list[str] | None:
        return None

    def fingerprint(self) -> str:
        """Of the id: ir_datasets checks what it downloads against the hash that it knows."""
        return fingerprint([str(self.path), self.kind])

    def changed_ns(self) -> int:
        return 0


def is_collection(path: str | Place) -> bool:
    return str(path).startswith(PREFIX)


def collections(path: str) -> list[Source]:
    """All that a collection has, documents first. Raises `ConfigError` without ir_datasets, `InputError` for an unknown id."""
    place = Path(path)
    dataset = _load(place)
    kinds: dict[Kind, bool] = {"documents": dataset.has_docs(), "queries": dataset.has_queries(), "judgments": dataset.has_qrels()}
    log.info("%s: what is not there yet, ir_datasets downloads to %s", path, _home())
    return [Collection(kind, place) for kind, there in kinds.items() if there]


def _load(path: Place) -> Any:
    try:
        import ir_datasets
    except ImportError:
        raise ConfigError(f"{path} needs the package ir_datasets, which is not installed: pip install 'readqg[ir-datasets]'.") from None
    name = str(path).removeprefix(PREFIX)
    try:
        return ir_datasets.load(name)
    except KeyError:
        raise InputError(f"{path}: ir_datasets has no {name!r}. Its catalogue lists the ids: https://ir-datasets.com") from None


def _home() -> str:
    try:
        from ir_datasets.util import home_path
    except ImportError:
        return "~/.ir_datasets"
    return f"{home_path()} (IR_DATASETS_HOME chooses another)"


def _document(row: Any) -> dict[str, Any]:
    title = getattr(row, "title", "")
    return {"doc_id": row.doc_id, "title": title, "text": _first(row, _BODIES)}


def _query(row: Any) -> dict[str, Any]:
    return {"query_id": row.query_id, "text": _first(row, _QUERIES)}


def _judgment(row: Any) -> dict[str, Any]:
    return {"query_id": row.query_id, "doc_id": row.doc_id, "relevance": row.relevance}


def _first(row: Any, names: tuple[str, ...]) -> str:
    """The field that holds the text; where a collection has others, what ir_datasets itself makes of them."""
    found = next((getattr(row, name) for name in names if isinstance(getattr(row, name, None), str)), None)
    return row.default_text() if found is None else found
