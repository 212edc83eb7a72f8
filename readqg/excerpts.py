"""A document as a list of results shows it: the query's words marked, a short form, and the rest for whoever unfolds it."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from readqg.words import Marker

Piece = tuple[str, bool]
"""Text, and whether it is marked."""
SHORT_CHARS = 280
LONG_CHARS = 20_000
_BEFORE_CHARS = 60


def excerpt(marker: Marker, document: dict[str, str]) -> dict[str, Any]:
    """Of a document (doc_id, title, text): `doc_id`, `title` and `short` in pieces; `long`, the same of the whole text, or None where
    `short` is all of it; `left_out`, characters beyond the 20,000 that are shown at most."""
    title, text = document["title"][:SHORT_CHARS], document["text"][:LONG_CHARS]
    spans = marker.spans(text)
    start, stop = _window(text, spans)
    short = _pieces(text, spans, start, stop)
    if start:
        short.insert(0, ("… ", False))
    if stop < len(text):
        short.append((" …", False))
    return {
        "doc_id": document["doc_id"], "title": _pieces(title, marker.spans(title), 0, len(title)), "short": short,
        "long": _pieces(text, spans, 0, len(text)) if (start, stop) != (0, len(text)) else None,
        "left_out": len(document["text"]) - len(text),
    }


def _window(text: str, spans: list[tuple[int, int]]) -> tuple[int, int]:
    """Where the short form begins and ends: the first place with the most marked words, between words."""
    if len(text) <= SHORT_CHARS:
        return 0, len(text)
    begins = [start for start, _ in spans]
    held = [bisect_left(begins, begin - _BEFORE_CHARS + SHORT_CHARS) - at for at, begin in enumerate(begins)]
    start = max(begins[held.index(max(held))] - _BEFORE_CHARS, 0) if held else 0
    start = min(start, len(text) - SHORT_CHARS)
    stop = start + SHORT_CHARS
    if start:
        start = _next_space(text, start, stop) or start
    if stop < len(text):
        stop = text.rfind(" ", start + SHORT_CHARS // 2, stop) if " " in text[start + SHORT_CHARS // 2 : stop] else stop
    return start, stop


def _next_space(text: str, start: int, stop: int) -> int:
    at = text.find(" ", start, min(start + _BEFORE_CHARS, stop))
    return at + 1


def _pieces(text: str, spans: list[tuple[int, int]], start: int, stop: int) -> list[Piece]:
    """The text from `start` to `stop`, cut at the spans."""
    pieces: list[Piece] = []
    for low, high in spans:
        low, high = max(low, start), min(high, stop)
        if low >= high:
            continue
        if low > start:
            pieces.append((text[start:low], False))
        pieces.append((text[low:high], True))
        start = high
    if start < stop:
        pieces.append((text[start:stop], False))
    return pieces
