"""Replay: judged pairs of the collection that the start was trained on, MS MARCO, among those of the corpus (Robins, 1995).

A document of a pairs folder brings one of its positive queries, and its own negative queries in the place of Eq. 5's other
documents: pairs whose labels come from the teacher, so nothing has to be searched for them, and Eq. 6 has no part in them.
"""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

import numpy as np

from readqg.errors import InputError
from readqg.generator.collation import COLUMNS, TrainingPairs
from readqg.shards import open_input, stable_hash


class Replay:
    """`number` documents a batch. Which ones, and which of their queries, is a function of (seed, batch) alone."""

    def __init__(self, folder: str, number: int, others: int, seed: int) -> None:
        """`others`: negative pairs beside a positive one. Raises `InputError` for a folder that holds no pairs."""
        self.pairs = TrainingPairs(open_input(folder, COLUMNS), 0, seed)
        self.number, self.others, self.seed = number, others, seed

    @property
    def fingerprint(self) -> str:
        return self.pairs.folder.fingerprint

    def batch(self, number: int) -> list[list[tuple[str, str]]]:
        """Of each document of batch `number`: (query, text) pairs, a positive one and then `others` negative ones."""
        return [self._drawn(row, number) for row in self.pairs.read(self.pairs.rows_of_step(number, self.number))]

    def _drawn(self, row: dict[str, Any], number: int) -> list[tuple[str, str]]:
        """Where there are too few negatives, some stand twice."""
        if not row["positives"] or not row["negatives"]:
            raise InputError(f"{self.pairs.folder.path}: document {row['doc_id']!r} has {len(row['positives'] or [])} positives and "
                             f"{len(row['negatives'] or [])} negatives; replay needs both. Make the pairs with --rule paper.")
        rng = np.random.Generator(np.random.Philox(key=stable_hash(f"replay {number} {row['doc_id']}", self.seed)))
        positive = row["positives"][int(rng.integers(len(row["positives"])))]
        negatives = [row["negatives"][i] for i in rng.permutation(len(row["negatives"]))]
        return [(query["query"], row["text"]) for query in (positive, *islice(cycle(negatives), self.others))]
