"""Cutting the text of a document into passages that a model can read whole.

A word is what stands between white space, 40 characters at most; of Chinese and Japanese, a character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from readqg.config import ImportSettings

_IDEOGRAPH = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\s{_IDEOGRAPH}]{{1,40}}")
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*$")


@dataclass(frozen=True)
class Section:
    """Text under a heading; the heading is empty where there is none."""

    heading: str
    text: str
    title: str = ""
    """Of the part of the file that it is in, where that holds several texts; else empty: the document's is its title."""


@dataclass(frozen=True)
class TextDocument:
    """What was read of one file."""

    title: str
    sections: list[Section]
    bad_pages: list[tuple[int, str]] = field(default_factory=list)
    """(page from 1, why it cannot be read)."""


def passages(document: TextDocument, settings: ImportSettings) -> Iterator[Section]:
    """The passages of a document in order; of one with no text, none."""
    sections = [replace(s, text=tidy(s.text)) for s in document.sections]
    if settings.passage_by_heading:
        sections = _joined(sections, settings.passage_min_words)
    else:
        sections = [Section("", "\n\n".join(_with_heading(s) for s in sections))]
    for section in sections:
        for text in cut(section.text, settings.passage_words, settings.passage_overlap_words):
            yield replace(section, text=text)


def cut(text: str, words: int, overlap: int) -> Iterator[str]:
    """Pieces of at most `words` words, each beginning `overlap` words (at most half of `words`) before the end of the one before.
    A piece ends with a sentence or paragraph where one ends in its second half. `words` 0: the text as it is."""
    if not words:
        yield from [text] if text.strip() else []
        return
    spans = [match.span() for match in _WORD.finditer(text)]
    start = 0
    while start < len(spans):
        stop = min(start + words, len(spans))
        if stop < len(spans):
            stop = next((i + 1 for i in range(stop - 1, start + words // 2 - 1, -1) if _ends(text, spans, i)), stop)
        yield text[spans[start][0]:spans[stop - 1][1]]
        start = stop - overlap if stop < len(spans) else stop


def tidy(text: str) -> str:
    """Runs of blanks and of empty lines made one."""
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" ?\n ?", "\n", text)).strip()


def _ends(text: str, spans: Sequence[tuple[int, int]], word: int) -> bool:
    start, stop = spans[word]
    return bool(_SENTENCE_END.search(text, start, stop)) or "\n\n" in text[stop:spans[word + 1][0]]


def _joined(sections: Sequence[Section], least: int) -> list[Section]:
    """Sections without text left out; one with fewer than `least` words joined to the one before it, which keeps its heading."""
    joined: list[tuple[Section, list[str]]] = []
    before = 0  # words of the last one
    for section in sections:
        words = _count(section.text)
        if not words:
            continue
        if joined and min(words, before) < least and joined[-1][0].title == section.title:
            joined[-1][1].append(_with_heading(section))
            before += words
        else:
            joined.append((section, [section.text]))
            before = words
    return [replace(first, text="\n\n".join(texts)) for first, texts in joined]


def _with_heading(section: Section) -> str:
    return f"{section.heading}\n{section.text}".strip()


def _count(text: str) -> int:
    return sum(1 for _ in _WORD.finditer(text))
