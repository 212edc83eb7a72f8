"""English analysis as Lucene's: what BM25 counts as a word, and where such words stand in a text.

Words, possessive endings off, lower case, 33 stop words, Porter's stemmer.
"""

from __future__ import annotations

import re

import Stemmer
from bm25s.tokenization import Tokenizer

_STOP_WORDS = (
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of", "on", "or",
    "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
)
_POSSESSIVES = ("'s", "’s")
_LEFT_OUT = frozenset(word + end for word in _STOP_WORDS for end in ("", *_POSSESSIVES))
_WORD = re.compile(r"[^\W_]+(?:['’.][^\W_]+)*")


def tokenizer() -> Tokenizer:
    """A new one of bm25s, with an empty vocabulary."""
    stemmer = Stemmer.Stemmer("porter")
    return Tokenizer(
        splitter=_WORD.findall, stopwords=sorted(_LEFT_OUT), stemmer=lambda word: stemmer.stemWord(_without_possessive(word)),
    )


def count(text: str) -> int:
    """How many words of a text `tokenizer` counts: what BM25 takes for its length."""
    return sum(word not in _LEFT_OUT for word in _WORD.findall(text.lower()))


class Marker:
    """Finds the words of a query in texts."""

    def __init__(self, query: str) -> None:
        self._stemmer = Stemmer.Stemmer("porter")
        self._wanted = {self._stem(match[0]) for match in _WORD.finditer(query)} - {None}

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where words stand that BM25 takes for a word of the query: (start, stop) each, in order."""
        return [match.span() for match in _WORD.finditer(text) if self._stem(match[0]) in self._wanted]

    def _stem(self, word: str) -> str | None:
        word = word.lower()
        return None if word in _LEFT_OUT else self._stemmer.stemWord(_without_possessive(word))


def _without_possessive(word: str) -> str:
    return word[:-2] if word.endswith(_POSSESSIVES) else word
