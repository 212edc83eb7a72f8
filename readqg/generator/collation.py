"""From document-centric pairs to training batches: which documents a step takes, which queries, and how they are padded."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from readqg.config import GeneratorSettings
from readqg.errors import InputError
from readqg.generator.losses import IGNORED
from readqg.generator.model import Generator, padded
from readqg.random_rows import RandomRows, in_order
from readqg.shards import InputFolder, stable_hash

COLUMNS = ("doc_id", "text", "positives", "negatives")
_DOCUMENT_MULTIPLE = 8  # of a padded document's tokens: few distinct shapes let the kernels be reused


@dataclass(frozen=True)
class PairBatch:
    """N = documents x 2m query sequences under U <= N encodings: a (document, relevance) that occurs twice is encoded once.

    Sequences come by document, m positives first, then m negatives, each side by falling relevance."""

    document_ids: Tensor
    """(U, S), right-padded."""
    document_mask: Tensor
    """(U, S)."""
    relevance: Tensor
    """(U,), float32 in [0, 1]."""
    labels: Tensor
    """(N, T), -100 at padding: query and end token."""
    encoding: Tensor
    """(N,): which of the U encodings a sequence belongs to."""
    group: Tensor
    """(N,): the same number for the same (document, relevance), whichever worker has it: the groups of Eq. 3."""
    pair: Tensor
    """(N,): the sequence whose query contradicts this one's (Eq. 4): j-th positive <-> j-th negative of the document."""
    is_positive: Tensor
    """(N,) bool."""

    def to(self, device: torch.device) -> PairBatch:
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


class TrainingPairs:
    """A pairs folder: held-out documents apart, the rest in an order that depends on the seed alone. Eight bytes a document are held
    in memory, the order of an epoch and of the next; texts are read as they are asked for, one row group at a time."""

    def __init__(self, folder: InputFolder, held_out_documents: int, seed: int) -> None:
        """Raises `InputError` where no document is left to train on."""
        self.folder = folder
        self._rows = RandomRows(folder, COLUMNS)
        self.seed = seed
        self.held_out = _held_out(folder, held_out_documents)
        self._size = folder.rows - len(self.held_out)
        if not self._size:
            raise InputError(f"{folder.path} has {folder.rows} documents, and {held_out_documents} are to be held out: none is left to "
                             "train on. Give more pairs, or a smaller held_out_documents.")
        # The k-th training document is row k plus the held-out rows before it.
        self._passed = np.array(self.held_out, dtype=np.int64) - np.arange(len(self.held_out))

    def rows_of_step(self, step: int, count: int) -> list[int]:
        """The `count` rows of a step. An epoch is a permutation of the training documents keyed by (seed, epoch)."""
        places = range(step * count, (step + 1) * count)
        size = self._size
        chosen = [int(_permutation(size, self.seed, place // size)[place % size]) for place in places]
        return [k + int(np.searchsorted(self._passed, k, side="right")) for k in chosen]

    def read(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Rows by number, in the order asked for, as `COLUMNS` have them."""
        return self._rows.read(rows)


def _held_out(folder: InputFolder, number: int) -> list[int]:
    """Rows of `number` documents drawn by a stable hash, in order. The ids are looked at some at a time."""
    smallest: list[tuple[int, str, int]] = []
    for first, table in in_order(folder, ["doc_id"]) if number else ():
        hashed = [(stable_hash(doc_id), doc_id, row) for row, doc_id in enumerate(table["doc_id"].to_pylist(), first)]
        smallest = heapq.nsmallest(number, [*smallest, *hashed])
    return sorted(row for _, _, row in smallest)


@lru_cache(maxsize=2)
def _permutation(size: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=stable_hash(f"epoch {epoch}", seed))).permutation(size).astype(np.uint32)


def draw(
    side: Sequence[dict[str, Any]], settings: GeneratorSettings, extreme: int, rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """The m queries of one side of a document for a step, by falling relevance; a short side repeats cyclically.

    Profile "paper": all of them; of a side stored longer (other rules store up to 10), m at even distances, both ends among
    them. "authors": the extreme one (`extreme`: 0 the highest, -1 the lowest) and m - 1 drawn at random from the rest."""
    ordered = _falling(side)
    m = settings.m
    if settings.profile == "authors" and len(ordered) > m:
        first = ordered.pop(extreme)
        ordered = [first, *(ordered[i] for i in rng.choice(len(ordered), m - 1, replace=False))]
    elif len(ordered) > m:
        ordered = [ordered[i] for i in np.linspace(0, len(ordered) - 1, m).round().astype(int)] if m > 1 else [ordered[extreme]]
    return _falling(islice(cycle(ordered), m))


def collate(rows: Sequence[dict[str, Any]], generator: Generator, settings: GeneratorSettings, draw_key: str) -> PairBatch:
    """The batch of these rows of a pairs folder. What is random is keyed by `draw_key` and the document's id. `unconditional`: the
    m positives alone, under r = 1, each its own pair.

    Raises `InputError` for a document that lacks positives or negatives."""
    m = settings.m
    size = m if settings.unconditional else 2 * m
    encodings: dict[tuple[str, float], int] = {}
    documents: list[list[int]] = []
    targets, encoding, group, pair, is_positive = [], [], [], [], []
    for place, row in enumerate(rows):
        if not row["positives"] or not row["negatives"]:
            raise InputError(f"Document {row['doc_id']!r} of the pairs has {len(row['positives'] or [])} positives and "
                             f"{len(row['negatives'] or [])} negatives: both are needed. Make the pairs with `readqg pairs`.")
        rng = np.random.Generator(np.random.Philox(key=stable_hash(f"{draw_key}/{row['doc_id']}", settings.seed)))
        chosen = draw(row["positives"], settings, 0, rng)
        chosen += [] if settings.unconditional else draw(row["negatives"], settings, -1, rng)
        ids = generator.document_ids(row["text"], settings.document_tokens)
        for j, query in enumerate(chosen):
            key = (row["doc_id"], 1.0 if settings.unconditional else float(query["relevance"]))
            if key not in encodings:
                encodings[key] = len(encodings)
                documents.append(ids)
            encoding.append(encodings[key])
            group.append(stable_hash(f"{key[1]!r} {key[0]}") >> 1)
            targets.append(generator.target_ids(query["query"], settings.query_tokens))
            pair.append(place * size + (j + m) % size)
            is_positive.append(j < m)
    # The authors' losses divide by padded lengths, so there padding is to the batch and no further.
    document_ids, document_mask = padded(documents, 0, 1 if settings.profile == "authors" else _DOCUMENT_MULTIPLE)
    labels, _ = padded(targets, IGNORED)
    return PairBatch(
        document_ids=document_ids, document_mask=document_mask,
        relevance=torch.tensor([r for _, r in encodings], dtype=torch.float32),
        labels=labels, encoding=torch.tensor(encoding, dtype=torch.long), group=torch.tensor(group, dtype=torch.long),
        pair=torch.tensor(pair, dtype=torch.long), is_positive=torch.tensor(is_positive, dtype=torch.bool),
    )


def _falling(queries: Any) -> list[dict[str, Any]]:
    return sorted(queries, key=lambda q: (-q["score"], q["query_id"]))
