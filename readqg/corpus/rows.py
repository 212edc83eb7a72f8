"""Canonical rows: documents, queries, judgments. What is accepted, what is mended, what is refused, and the counts of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from readqg.config import ImportSettings
from readqg.corpus.files import Line
from readqg.corpus.naming import explain_columns
from readqg.errors import InputError

if TYPE_CHECKING:
    from readqg.corpus.forms import Source

Kind = Literal["documents", "queries", "judgments"]
SCHEMAS: dict[Kind, pa.Schema] = {
    "documents": pa.schema([("doc_id", pa.string()), ("title", pa.string()), ("text", pa.string())]),
    "queries": pa.schema([("query_id", pa.string()), ("text", pa.string())]),
    "judgments": pa.schema([("query_id", pa.string()), ("doc_id", pa.string()), ("relevance", pa.int32())]),
}
NUMBERED = "@line"
"""In place of the id's field: a row's number is its id."""
FEW_BAD = 3
_ROUNDING = 1e-9
_SURROGATE = re.compile("[\ud800-\udfff]")
_QUERY_FIELDS = ("query_id", "query-id", "qid")
_DOC_FIELDS = ("doc_id", "corpus-id", "docid")
_GRADE_FIELDS = ("relevance", "score", "rel")


class BadRow(ValueError):
    """This row cannot be used; the message says why."""


def document_text(title: str, text: str) -> str:
    """What a model sees of a document: title + " " + text (method, sections 3 and 5)."""
    return f"{title} {text}".strip()


def allowed_bad(share: float, lines: int, few: int = FEW_BAD) -> int:
    """How many of so many lines may be bad: the share, or in a short file a few, a tenth of it at most; none where the share is 0."""
    return int(max(share * lines, min(few, lines / 10)) + _ROUNDING) if share else 0


def enough_share(bad: int, lines: int) -> float:
    """The share, in whole hundredths, by which so many bad lines are allowed."""
    return min(1.0, math.ceil(100 * bad / lines) / 100)


@dataclass
class Notes:
    """What was mended, with the first few ids."""

    rows: int = 0
    empty: list[str] = field(default_factory=list)
    titled: int = 0
    cut: list[str] = field(default_factory=list)
    mended: list[str] = field(default_factory=list)


class RowReader:
    """Reads the rows of one source.

    `read` gives (line, canonical row as a dict), or (line, None) with the reason in `line.reason`. Duplicates are refused: the
    first row of an id stays. `ids` holds the ids (for judgments, the pairs of ids) seen so far."""

    def __init__(self, source: Source, settings: ImportSettings) -> None:
        self.source, self.kind, self.settings = source, source.kind, settings
        self.notes = Notes()
        self.ids: dict[Any, int] = {}
        self._id_fields, self._title_field, self._text_fields = _names(source, settings)
        self._numbered = settings.id_field == NUMBERED and not source.named

    def read(self) -> Iterator[tuple[Line, dict[str, Any] | None]]:
        self._check_columns()
        for line in self.source.lines(self.settings):
            if line.fields is None:
                yield line, None
                continue
            try:
                yield line, self._row(line)
            except BadRow as reason:
                yield replace(line, fields=None, reason=str(reason)), None

    def _check_columns(self) -> None:
        """A column that the whole table lacks is said at once, not once a line."""
        found = self.source.columns()
        if found is None or self.kind == "judgments":
            return
        wanted = {"text": self._text_fields} if self._numbered else {"id": self._id_fields, "text": self._text_fields}
        if self.kind == "documents" and self._title_field != ImportSettings.model_fields["title_field"].default:
            wanted["title"] = (self._title_field,)  # asked for by name
        absent = {what: names for what, names in wanted.items() if not set(names) & set(found)}
        if absent:
            raise InputError(f"{self.source.path}: {explain_columns(absent, found, NUMBERED)}")

    def _row(self, line: Line) -> dict[str, Any]:
        fields = line.fields or {}
        if self.kind == "judgments":
            row = self._judgment(fields)
            key: Any = (row["query_id"], row["doc_id"])
        else:
            key = str(line.number) if self._numbered else identifier(*pick(fields, self._id_fields))
            row = self._text_row(key, fields)
        if key in self.ids:
            what = "this query and document are" if self.kind == "judgments" else f"id {key!r} is"
            raise BadRow(f"{what} already on line {self.ids[key]}; the first is kept")
        self.ids[key] = line.number
        self._note(row)
        return row

    def _text_row(self, key: str, fields: dict[str, Any]) -> dict[str, Any]:
        text = _string(*pick(fields, self._text_fields))
        if self.kind == "queries":
            return {"query_id": key, "text": self._mended(key, text)}
        title = _string(self._title_field, fields.get(self._title_field))
        return {"doc_id": key, "title": self._mended(key, title), "text": self._mended(key, text)}

    def _judgment(self, fields: dict[str, Any]) -> dict[str, Any]:
        query_id = identifier(*pick(fields, _QUERY_FIELDS))
        doc_id = identifier(*pick(fields, _DOC_FIELDS))
        return {"query_id": query_id, "doc_id": doc_id, "relevance": _grade(*pick(fields, _GRADE_FIELDS))}

    def _mended(self, key: str, text: str) -> str:
        mended = _SURROGATE.sub("\ufffd", text).replace("\0", "")
        if mended != text:
            self.notes.mended.append(key)
        limit = self.settings.max_text_chars
        if len(mended) > limit:
            self.notes.cut.append(key)
        return mended[:limit]

    def _note(self, row: dict[str, Any]) -> None:
        self.notes.rows += 1
        if self.kind == "judgments":
            return
        self.notes.titled += bool(row.get("title", "").strip())
        if not document_text(row.get("title", ""), row["text"]):
            self.notes.empty.append(row.get("doc_id") or row["query_id"])


def _names(source: Source, settings: ImportSettings) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """Where id, title and text are looked for: the first that is there counts."""
    if source.named:
        return ("doc_id" if source.kind == "documents" else "query_id",), "title", ("text",)
    own = settings.id_field
    if source.kind != "documents":
        return (own, "_id", "query_id", "id"), settings.title_field, (settings.text_field, "text")
    default = own == ImportSettings.model_fields["id_field"].default
    return (own, *(("doc_id", "id") if default else ())), settings.title_field, (settings.text_field,)


def pick(fields: dict[str, Any], names: tuple[str, ...]) -> tuple[str, Any]:
    for name in names:
        if name in fields:
            return name, fields[name]
    raise BadRow(f"no field {' or '.join(dict.fromkeys(names))}; found: {', '.join(map(str, fields)) or 'none'}")


def identifier(name: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise BadRow(f"{name} is {_shown(value)}; an id must be a string or an integer")
    if value.split() != [value]:
        raise BadRow(f"{name} is {value[:80]!r}; an id must not be empty or hold white space, which TREC runs cannot carry")
    if _SURROGATE.search(value) or "\0" in value:
        raise BadRow(f"{name} holds a character that no file can carry (NUL or half a surrogate pair)")
    return value


def _string(name: str, value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"{name} is {_shown(value)}; expected text")
    return value


def _grade(name: str, value: Any) -> int:
    try:
        grade = int(float(value))
        if isinstance(value, bool) or float(value) != grade or abs(grade) >= 2**31:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise BadRow(f"{name} is {_shown(value)}; a grade must be an integer") from None
    return grade


def _shown(value: Any) -> str:
    return "null" if value is None else f"{str(value)[:80]!r} ({type(value).__name__})"
