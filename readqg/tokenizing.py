"""Text pairs to a cross-encoder's token ids, ahead of the model and without it: transformers is imported where a tokenizer is
loaded, torch never by this module.

Every distinct text is tokenised once, however many pairs it is in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from readqg.corpus import document_text
from readqg.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder. Raises `ModelError` where there is none that can be used."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: no tokenizer can be loaded: {error}. The folder needs a tokenizer.json.") from error
    if len(tokenizer) == len(tokenizer.all_special_ids):  # what transformers makes of a folder without a vocabulary
        raise ModelError(f"{folder}: no vocabulary for its tokenizer. Copy tokenizer.json there from the model's origin.")
    if not tokenizer.is_fast:
        raise ModelError(f"{folder}: {type(tokenizer).__name__} has no tokenizer.json. Save it with a current transformers.")
    if tokenizer.pad_token_id is None:
        raise ModelError(f"{folder}: the tokenizer has no padding token. Set `pad_token` in its tokenizer_config.json.")
    return tokenizer


@dataclass(frozen=True)
class EncodedPairs:
    """Tokenised pairs, special tokens included, unpadded: one int32 array of token ids and one int8 array of segment ids each."""

    input_ids: list[np.ndarray]
    type_ids: list[np.ndarray]

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.input_ids]

    def to_arrow(self) -> tuple[pa.ListArray, pa.ListArray]:
        """As two list arrays, to travel in a table's columns."""
        offsets = np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int32)]).astype(np.int32)
        ids = np.concatenate([np.empty(0, np.int32), *self.input_ids])
        types = np.concatenate([np.empty(0, np.int8), *self.type_ids])
        return pa.ListArray.from_arrays(offsets, ids), pa.ListArray.from_arrays(offsets, types)

    @classmethod
    def from_arrow(cls, input_ids: pa.ListArray, type_ids: pa.ListArray) -> EncodedPairs:
        """What `to_arrow` gave, sliced or whole."""
        return cls(_rows(input_ids), _rows(type_ids))


def _rows(lists: pa.ListArray) -> list[np.ndarray]:
    offsets, values = lists.offsets.to_numpy(), lists.values.to_numpy()
    return [values[start:stop] for start, stop in pairwise(offsets)]


class PairTokenizer:
    """Text pairs to token ids, the same as `tokenizer(first, second, truncation=True, max_length=max_length)`, but every
    distinct text is tokenised once. Needs no model, so it can run ahead of it on other processes.

    `max_length` is lowered to what the folder says that the model can take."""

    def __init__(self, folder: str, max_length: int):
        self.tokenizer = load_tokenizer(folder)
        self.max_length = min(max_length, _longest_input(folder, self.tokenizer))
        self._special, self._segments = _pair_template(self.tokenizer)
        self._room = self.max_length - sum(map(len, self._special))
        if self._room < 2:
            raise ModelError(f"{folder}: {self.max_length} tokens leave no room for a pair.")

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> EncodedPairs:
        """Token ids of every pair; the longer text is cut first."""
        ids = self._ids(text for pair in pairs for text in pair)
        return self._joined((ids[first], ids[second]) for first, second in pairs)

    def passages(self, pairs: Sequence[tuple[str, str, str]], tokens: int, stride: int) -> tuple[EncodedPairs, list[int]]:
        """(query, title, text) -> the query with every passage of the document, pair after pair, and how many passages each has.

        A document of at most `tokens` tokens, title + " " + text, is one passage. A longer one has passages of that many, `stride`
        apart, the last one ending with it; each begins with the title, as far as half a passage holds it. Where `max_length` leaves
        fewer tokens beside the query, passages are so much shorter, so that no token of the document is cut; a query that leaves less
        than half of the room is cut itself."""
        whole = [document_text(title, text) for _, title, text in pairs]
        ids = self._ids(text for (query, title, _), document in zip(pairs, whole, strict=True) for text in (query, title, document))
        room = {query: min(tokens, max(self._room - len(ids[query]), self._room // 2)) for query, _, _ in pairs}
        built = [[(ids[query], passage) for passage in _windows(ids[document], len(ids[title]), room[query], stride)]
                 for (query, title, _), document in zip(pairs, whole, strict=True)]
        return self._joined(chain.from_iterable(built)), [len(rows) for rows in built]

    def _ids(self, texts: Iterable[str]) -> dict[str, np.ndarray]:
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return {}
        # verbose=False: these are not the sequences the model sees, so their length is no matter for a warning.
        tokens = self.tokenizer(distinct, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        return {text: np.asarray(row, dtype=np.int32) for text, row in zip(distinct, tokens, strict=True)}

    def _joined(self, pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> EncodedPairs:
        built = [self._join(first, second) for first, second in pairs]
        return EncodedPairs([row for row, _ in built], [row for _, row in built])

    def padded(self, encoded: EncodedPairs, rows: Sequence[int]) -> dict[str, np.ndarray]:
        """The model's inputs for some of the pairs: int64 of shape (len(rows), longest of them)."""
        ids = [encoded.input_ids[i] for i in rows]
        inputs = {
            "input_ids": self._pad(ids, self.tokenizer.pad_token_id),
            "attention_mask": self._pad([np.ones_like(row) for row in ids], 0),
        }
        if "token_type_ids" in self.tokenizer.model_input_names:
            inputs["token_type_ids"] = self._pad([encoded.type_ids[i] for i in rows], self.tokenizer.pad_token_type_id)
        return inputs

    def _pad(self, rows: list[np.ndarray], value: int) -> np.ndarray:
        padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
        for line, row in zip(padded, rows, strict=True):
            if self.tokenizer.padding_side == "left":
                line[len(line) - len(row):] = row
            else:
                line[:len(row)] = row
        return padded

    def _join(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keep_first, keep_second = _longest_first(len(first), len(second), self._room)
        first, second = self._cut(first, keep_first), self._cut(second, keep_second)
        before, between, after = self._special
        parts = [before, first, between, second, after]
        segments = np.repeat(self._segments, [len(part) for part in parts])
        return np.concatenate(parts), segments

    def _cut(self, ids: np.ndarray, keep: int) -> np.ndarray:
        if keep >= len(ids):
            return ids
        return ids[len(ids) - keep:] if self.tokenizer.truncation_side == "left" else ids[:keep]


def _windows(ids: np.ndarray, title: int, tokens: int, stride: int) -> list[np.ndarray]:
    """Passages of a document's tokens, the first `title` of which are its title's."""
    if len(ids) <= tokens:
        return [ids]
    head, body = np.split(ids, [min(title, tokens // 2)])
    room = tokens - len(head)
    starts = range(0, max(len(body) - room, 0) + min(stride, room), min(stride, room))
    return [np.concatenate([head, body[start:start + room]]) for start in starts]


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two texts to keep, by the rule of the `tokenizers` library (strategy "longest_first"): cut the
    longer one to what the shorter leaves; if the shorter alone is more than half the room, both to half, an odd token going
    to the longer."""
    if first + second <= room:
        return first, second
    half = room // 2
    if min(first, second) <= half:
        return (first, room - first) if first <= second else (room - second, second)
    return (half, room - half) if first <= second else (room - half, half)


def _pair_template(tokenizer: PreTrainedTokenizerBase) -> tuple[list[np.ndarray], np.ndarray]:
    """The special tokens before, between and after two texts, and the segment ids of these five parts (read off a probe)."""
    probe = tokenizer("a", "a", return_token_type_ids=True)
    ids, sources, segments = probe["input_ids"], probe.sequence_ids(0), probe["token_type_ids"]
    if 0 not in sources or 1 not in sources:
        raise ModelError(f"{tokenizer.name_or_path}: the tokenizer has no token for the letter a. Is it the right one?")
    first, second = sources.index(0), sources.index(1)
    first_end, second_end = first + sources.count(0), second + sources.count(1)
    cuts = [(0, first), (first, first_end), (first_end, second), (second, second_end), (second_end, len(ids))]
    special = [np.asarray(ids[start:end], dtype=np.int32) for start, end in (cuts[0], cuts[2], cuts[4])]
    return special, np.asarray([segments[start] if start < end else 0 for start, end in cuts], dtype=np.int8)


def _longest_input(folder: str, tokenizer: PreTrainedTokenizerBase) -> int:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    positions = getattr(config, "max_position_embeddings", -1)
    return min(tokenizer.model_max_length, positions) if positions > 0 else tokenizer.model_max_length
