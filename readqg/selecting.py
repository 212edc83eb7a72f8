"""`readqg select`: of the samples that were written for a document, those that make all queries together look like real ones.

What is matched is the distribution of length in words and of form (question or not). Every sample has a weight by its length and form,
and one sample a (document, relevance) is drawn in proportion to it: importance resampling (Xie et al., NeurIPS 2023, of language models'
texts) within documents, so each keeps a query. The weights are fitted by generalised iterative scaling (Darroch & Ratcliff, 1972) until
the expected draw has the distribution of the real queries, where the samples allow that, and leans towards it where they do not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from readqg.config import SelectConfig
from readqg.corpus import input_fingerprint, read_texts
from readqg.errors import InputError
from readqg.query_rows import QueryRowsStage
from readqg.random_rows import in_order
from readqg.shards import stable_hash

COLUMNS = ("doc_id", "relevance", "sample", "query", "error")
_LENGTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 13, 17, 24)
"""Upper bounds of the classes of length, in words; the last class has none."""
_QUESTION_WORDS = frozenset({
    "what", "when", "where", "which", "who", "whom", "whose", "why", "how", "is", "are", "was", "were", "do", "does", "did", "can", "could",
    "should", "would", "will", "has", "have", "had", "may", "must",
})
FORMS = 2 * (len(_LENGTHS) + 1)
_ITERATIONS = 100


def form(query: str) -> int:
    """Class of a query's length and form, from 0 to FORMS - 1. A question ends with a question mark or begins with a question word."""
    words = query.split()
    question = query.rstrip().endswith("?") or (words[:1] and words[0].lower() in _QUESTION_WORDS)
    return 2 * int(np.searchsorted(_LENGTHS, len(words))) + bool(question)


def draw_probabilities(forms: np.ndarray, groups: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n,) probabilities, summing to 1 in every group, proportional in it to a weight that hangs on the form alone.

    forms, groups: (n,) ints from 0, no group empty; target: (F,) the share that each form should have, a mean over groups. Forms that
    are not there are left out of it."""
    present = np.bincount(forms, minlength=len(target)) > 0
    wanted = np.where(present, target, 0.0)
    wanted = np.where(present, np.maximum(wanted / wanted.sum() if wanted.sum() else 1.0, 1e-6), 0.0)
    number, weights = int(groups.max()) + 1, np.ones(len(target))
    for _ in range(_ITERATIONS):
        shares = weights[forms] / np.bincount(groups, weights[forms], number)[groups]
        expected = np.bincount(forms, shares, len(target)) / number
        weights[present] *= wanted[present] / expected[present]
        weights = np.maximum(weights / weights.max(), 1e-12)
    return weights[forms] / np.bincount(groups, weights[forms], number)[groups]


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Total variation of two distributions, from 0 to 1."""
    return float(np.abs(first - second).sum() / 2)


class SelectStage(QueryRowsStage):
    """The rows of a queries folder that are kept, with all their columns: one a (document, relevance). Where all have an error or an
    empty query, the first stays and says so.

    Raises `InputError` where either side cannot be read, or there are no real queries."""

    name = "select"
    needs_model = False

    def __init__(self, config: SelectConfig) -> None:
        super().__init__(config.queries, config.shard_rows, pa.schema([]), COLUMNS)
        self.config = config
        real = _real(config.like)
        self._target = np.bincount([form(query) for query in real], minlength=FORMS) / len(real)

    def inputs(self) -> dict[str, str]:
        return {**super().inputs(), "like": input_fingerprint(self.config.like, "queries")}

    def read(self, index: int) -> pa.Table:
        rows = super().read(index)
        first = index * self.config.shard_rows
        return rows.append_column("_kept", pa.array(self._kept[first:first + rows.num_rows]))

    def load(self) -> None:
        """Nothing: what is kept is known before the first shard is read."""

    def compute(self, table: pa.Table) -> pa.Table:
        return table.filter(table["_kept"]).drop_columns(["_kept"])

    def choose(self) -> dict[str, Any]:
        """Decide on every row. Returns, by relevance, how far the queries are from the real ones before and after."""
        forms, groups, keys, noise, sound = self._looked_at()
        self._kept = np.zeros(len(forms), dtype=bool)
        found = {}
        for relevance in sorted({relevance for _, relevance in keys}):
            usable = sound & np.array([keys[group][1] == relevance for group in groups], dtype=bool)
            _, own = np.unique(groups[usable], return_inverse=True)
            if not len(own):
                continue
            before = np.bincount(forms[usable], minlength=FORMS) / len(own)
            score = np.log(draw_probabilities(forms[usable], own, self._target)) + noise[usable]
            best = np.lexsort((-score, own))
            chosen = np.flatnonzero(usable)[best[np.unique(own[best], return_index=True)[1]]]
            self._kept[chosen] = True
            after = np.bincount(forms[chosen], minlength=FORMS) / len(chosen)
            found[f"{relevance:g}"] = {"before": distance(before, self._target), "after": distance(after, self._target)}
        without = np.setdiff1d(groups, groups[self._kept])
        self._kept[np.unique(groups, return_index=True)[1][without]] = True
        return found

    def _looked_at(self) -> tuple[np.ndarray, np.ndarray, list[tuple[str, float]], np.ndarray, np.ndarray]:
        """Of every row: form, number of its (document, relevance), Gumbel noise, and whether it has a query; and the groups' keys."""
        numbers: dict[tuple[str, float], int] = {}
        forms, groups, noise, sound = [], [], [], []
        for _, table in in_order(self.queries, COLUMNS):
            for row in table.to_pylist():
                group = (row["doc_id"], row["relevance"])
                groups.append(numbers.setdefault(group, len(numbers)))
                forms.append(form(row["query"] or ""))
                sound.append(row["error"] is None and bool((row["query"] or "").strip()))
                uniform = (stable_hash(f"{group[1]!r} {row['sample']} {group[0]}", self.config.seed) + 0.5) / 2**64
                noise.append(-np.log(-np.log(uniform)))
        return np.array(forms, int), np.array(groups, int), list(numbers), np.array(noise), np.array(sound, bool)


def _real(path: str) -> list[str]:
    found = [text for text in read_texts(path).values() if text.strip()]
    if not found:
        raise InputError(f"{path} holds no queries. Give some real ones, one a line: a few hundred tell what theirs are like.")
    return found


