"""BM25's score as text between query and document, for a cross-encoder that was trained so (Askari et al., ECIR 2023).

As there: the score, between 0 and 50 in all corpora, becomes a whole number of 0 to 100. A model that wants it says so in its folder's
`readqg.json`, and `readqg rank` then takes the scores from the run of candidates.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from readqg.models import OWN_FILE

_HIGHEST = 50.0
_FIELD = "bm25_as_text"


def with_score(document: str, score: float, separator: str) -> str:
    """The second text of a pair: a document, and its score for the query before it, where it is never cut off. `separator`: the
    tokenizer's between two texts."""
    return f"{round(100 * min(max(score, 0.0), _HIGHEST) / _HIGHEST)} {separator} {document}"


def with_scores(pairs: Sequence[tuple[str, str]], scores: Sequence[float], separator: str) -> list[tuple[str, str]]:
    """(query, document) pairs, each with its score."""
    return [(query, with_score(document, score, separator)) for (query, document), score in zip(pairs, scores, strict=True)]


def is_wanted(folder: str | Path) -> bool:
    """Whether the model of a folder was trained so."""
    path = Path(folder) / OWN_FILE
    return path.exists() and json.loads(path.read_text()).get(_FIELD) is True


def mark(folder: Path) -> None:
    """Let a model's folder say so."""
    path = folder / OWN_FILE
    said = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**said, _FIELD: True}, indent=1) + "\n")
