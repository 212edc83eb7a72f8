"""BM25 as Lucene has it: first-stage retrieval, and the stage of `readqg retrieve` (section 5).

Words are those of `readqg.words`. `multifield` keeps an index for titles and one for texts, each with statistics of its own
over the documents that have the field, and adds the two scores; `flat` indexes title and text together. Of a corpus memory
holds 4 bytes a word while indexing and 8 a distinct word of a document after, the ids, and the vocabulary; where the queries are known
beforehand (`bm25_run`), only their words.
"""

from __future__ import annotations

import logging
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import bm25s
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from bm25s.tokenization import Tokenized

from readqg.config import DenseConfig, RetrieveConfig, RetrieveSettings, make
from readqg.corpus import Documents, document_text, input_fingerprint, read_judgments, read_texts, subset
from readqg.errors import InputError
from readqg.runs import Run
from readqg.stage import ShardStage
from readqg.words import count, tokenizer

log = logging.getLogger("readqg")
logging.getLogger("bm25s").setLevel(logging.WARNING)

_DEFAULTS = RetrieveSettings()
_OTHER = " "  # no word, and no stem: that of "s" is empty
_STEMS_KEPT = 100_000
_IDS_AT_ONCE = 65_536


def bm25_run(
    documents: Iterable[Mapping[str, str]], queries: Mapping[str, str], top_k: int = _DEFAULTS.top_k,
    fields: str = _DEFAULTS.fields, drop_self: bool = _DEFAULTS.drop_self, k1: float = _DEFAULTS.k1, b: float = _DEFAULTS.b,
) -> Run:
    """The `top_k` best documents of every query, best first; a query that matches nothing has an empty dict.

    `documents` (doc_id, title, text; read once, may be a generator), `queries` query_id -> text, `fields` "multifield" or
    "flat". `drop_self` removes from a query's ranking the document with the query's own id. Raises `InputError` for no
    documents, a duplicate or missing doc_id, `ConfigError` for a setting out of range."""
    settings = make(RetrieveSettings, {"top_k": top_k, "fields": fields, "drop_self": drop_self, "k1": k1, "b": b})
    index = Bm25(documents, settings, queries.values())
    index.warn_of_own_ids(queries)
    return {query_id: dict(index.search(query_id, text)) for query_id, text in queries.items()}


class Bm25:
    """An index in memory."""

    def __init__(self, documents: Iterable[Mapping[str, str]], settings: RetrieveSettings, only: Iterable[str] | None = None) -> None:
        """`only`: all texts that will ever be asked for. The index then holds their words alone, and scores them as it would with all."""
        self._settings = settings
        self._tokenizer = tokenizer()
        if only is not None:
            deque(self._tokenizer.streaming_tokenize(only, allow_empty=False), maxlen=0)  # its vocabulary is theirs, and stays so
        fields = [_Tokens() for _ in range(1 if settings.fields == "flat" else 2)]
        ids = _Ids()
        # One pass over the documents and one vocabulary, so that a word known to either index has a column in both.
        for row, texts in enumerate(_texts(documents, len(fields), ids)):
            for tokens, text in zip(fields, texts, strict=True):
                words = self._words(text, update_vocab=only is None)
                tokens.add(row, words, 0 if only is None else count(text) - len(words))
        self._ids = ids.all()
        if not len(self._ids):
            raise InputError("there are no documents to search: the corpus is empty.")
        self._tie_rank = _tie_rank(self._ids)
        self._fields: list[tuple[Any, bm25s.BM25]] = []
        while fields:
            tokens = fields.pop(0)
            if len(tokens):
                rows = slice(None) if len(tokens) == len(self._ids) else np.asarray(tokens.rows)
                self._fields.append((rows, self._index(tokens)))

    def search(self, query_id: str, text: str) -> list[tuple[str, float]]:
        """The best documents with a score above 0 as (doc_id, score): by score, then doc_id, both descending."""
        scores = self._scores(text)
        found = np.flatnonzero(scores)
        wanted = self._settings.top_k + self._settings.drop_self
        if len(found) > wanted:
            threshold = np.partition(scores[found], len(found) - wanted)[len(found) - wanted]
            found = found[scores[found] >= threshold]
        best = found[np.lexsort((self._tie_rank[found], -scores[found]))][:wanted]
        results = list(zip(self._ids.take(pa.array(best)).to_pylist(), scores[best].tolist(), strict=True))
        if self._settings.drop_self:
            results = [(doc_id, score) for doc_id, score in results if doc_id != query_id]
        return results[: self._settings.top_k]

    def rank_of(self, doc_id: str, text: str) -> int:
        """The place of one document for a query: 1 + the number of documents that score higher; the last place where it
        shares no word with the query. Raises `InputError` for an unknown document."""
        row = pc.index(self._ids, doc_id).as_py()
        if row < 0:
            raise InputError(f"document {doc_id!r} is not in the index.")
        scores = self._scores(text)
        return 1 + int((scores > scores[row]).sum()) if scores[row] > 0 else len(self._ids)

    def scores_of(self, text: str, doc_ids: Sequence[str]) -> np.ndarray:
        """(len(doc_ids),) float32: what some documents score for a query. Raises `InputError` for an unknown one."""
        rows = pc.index_in(pa.array(doc_ids, pa.large_string()), value_set=self._ids)
        if rows.null_count:
            raise InputError(f"document {doc_ids[rows.is_null().index(True).as_py()]!r} is not in the index.")
        found: np.ndarray = self._scores(text)[rows.to_numpy()]
        return found

    def warn_of_own_ids(self, query_ids: Iterable[str]) -> None:
        """Warn where queries have the ids of documents and `drop_self` is off: are they the documents themselves?"""
        asked = _strings(list(query_ids), "query_id")
        count = pc.sum(pc.is_in(asked, value_set=self._ids)).as_py() or 0
        if count and not self._settings.drop_self:
            log.warning("%d of %d query ids are document ids too. Where such a query is that very document (as in ArguAna), set "
                        "drop_self, or it finds itself; where the ids agree by accident, all is well.", count, len(asked))

    def _scores(self, text: str) -> np.ndarray:
        """(documents,) float32. A word that stands twice in the query counts twice, as in Lucene."""
        words = self._words(text, update_vocab=False)
        scores = np.zeros(len(self._ids), np.float32)
        for rows, index in self._fields:
            scores[rows] += index.get_scores_from_ids(words)
        return scores

    def _words(self, text: str, update_vocab: bool) -> list[int]:
        """Their numbers; of words that are not in the vocabulary, none."""
        if len(self._tokenizer.word_to_stem) > _STEMS_KEPT:  # it keeps the stem of every word that it has ever met
            self._tokenizer.word_to_stem.clear()
        words: list[int] = next(self._tokenizer.streaming_tokenize([text], update_vocab=update_vocab, allow_empty=False))
        return words

    def _index(self, tokens: _Tokens) -> bm25s.BM25:
        index = bm25s.BM25(k1=self._settings.k1, b=self._settings.b, method="lucene", csc_backend="scipy")
        vocabulary = dict(self._tokenizer.get_vocab_dict())
        tokens.other = vocabulary[_OTHER] = len(vocabulary)
        index.index(Tokenized(ids=tokens, vocab=vocabulary), create_empty_token=False, show_progress=False)
        return index


class _Tokens:
    """Token ids of a field, document by document, in flat arrays: bm25s asks no more than a length and an iterator, and lists
    of lists would take several times the room. Documents without a token are left out, as Lucene leaves them out of the
    field's statistics; `rows` says which are there. Of words outside the vocabulary only the number is kept: they make a document
    long, and that is all that BM25 asks of them. `other` stands for each of them."""

    def __init__(self) -> None:
        self.rows, self.other = array("i"), -1
        self._flat, self._bounds, self._others = array("i"), array("q", [0]), array("i")

    def add(self, row: int, ids: list[int], others: int) -> None:
        if not ids and not others:
            return
        self.rows.append(row)
        self._flat.extend(ids)
        self._bounds.append(len(self._flat))
        self._others.append(others)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[list[int]]:
        return (self._flat[start:stop].tolist() + [self.other] * others
                for (start, stop), others in zip(pairwise(self._bounds), self._others, strict=True))


class _Ids:
    """Ids of documents, of which no more than some thousands are Python's at a time."""

    def __init__(self) -> None:
        self._done: list[pa.Array] = []
        self._new: list[str] = []

    def add(self, doc_id: str) -> None:
        self._new.append(doc_id)
        if len(self._new) == _IDS_AT_ONCE:
            self._done.append(_strings(self._new, "doc_id"))
            self._new = []

    def all(self) -> pa.Array:
        return pa.concat_arrays([*self._done, _strings(self._new, "doc_id")])


def asked_queries(config: RetrieveConfig | DenseConfig) -> pa.Table:
    """(query_id, text) of the queries that are asked. Raises `InputError` where none is left."""
    queries = read_texts(config.queries)
    judged = queries if config.judgments is None else read_judgments(config.judgments)
    ids = subset([query_id for query_id in queries if query_id in judged], config.max_queries)
    if not ids:
        lack = f"is judged in {config.judgments}: do the two belong together?" if config.judgments else "can be read."
        raise InputError(f"No query of {config.queries} {lack}")
    return pa.table({"query_id": ids, "text": [queries[query_id] for query_id in ids]})


def fingerprints(config: RetrieveConfig | DenseConfig) -> dict[str, str]:
    """Of the queries, and of the judgments that choose among them."""
    found = {"queries": input_fingerprint(config.queries, "queries")}
    if config.judgments is not None:
        found["judgments"] = input_fingerprint(config.judgments, "judgments")
    return found


class RetrieveStage(ShardStage):
    """Queries in, their best documents out; the index is built in `load`. A query that matches nothing has no row."""

    name = "retrieve"
    key = ("query_id",)
    schema = pa.schema([
        ("query_id", pa.string()), ("doc_id", pa.string()), ("rank", pa.int32()), ("score", pa.float32()), ("error", pa.string()),
    ])

    def __init__(self, config: RetrieveConfig) -> None:
        """Opens the inputs. Raises `InputError` where one cannot be read or no query is left."""
        self._config = config
        self._documents = Documents.open(config.documents)
        self._queries = asked_queries(config)

    @property
    def query_ids(self) -> list[str]:
        """The queries that are asked, in order."""
        found: list[str] = self._queries["query_id"].to_pylist()
        return found

    @property
    def total(self) -> int:
        return -(-self._queries.num_rows // self._config.shard_queries)

    def inputs(self) -> dict[str, str]:
        return {"documents": self._documents.fingerprint, **fingerprints(self._config)}

    def models(self) -> dict[str, str]:
        return {}

    def read(self, index: int) -> pa.Table:
        return self._queries.slice(index * self._config.shard_queries, self._config.shard_queries)

    def load(self) -> None:
        self._index = Bm25(self._documents, self._config, self._queries["text"].to_pylist())
        self._index.warn_of_own_ids(self.query_ids)

    def compute(self, table: pa.Table) -> pa.Table:
        """Rows (query_id, doc_id, rank from 1, score), query by query, best first."""
        rows: list[tuple[str, str, int, float, None]] = []
        for query_id, text in zip(table["query_id"].to_pylist(), table["text"].to_pylist(), strict=True):
            found = self._index.search(query_id, text)
            rows += [(query_id, doc_id, rank, score, None) for rank, (doc_id, score) in enumerate(found, 1)]
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(self.schema)
        return pa.table(dict(zip(self.schema.names, columns, strict=True)), schema=self.schema)


def _texts(documents: Iterable[Mapping[str, str]], n_fields: int, ids: _Ids) -> Iterator[tuple[str, ...]]:
    """Yields the fields of each document; adds its id to `ids`."""
    for number, document in enumerate(documents, 1):
        doc_id = document.get("doc_id")
        if not isinstance(doc_id, str) or not doc_id:
            raise InputError(f"document {number}: doc_id is {doc_id!r}; every document needs an id of text.")
        ids.add(doc_id)
        title, text = document.get("title") or "", document.get("text") or ""
        yield (title, text) if n_fields == 2 else (document_text(title, text),)


def _strings(values: list[str], name: str) -> pa.Array:
    try:
        return pa.array(values, pa.large_string())
    except (UnicodeEncodeError, pa.ArrowException) as error:
        raise InputError(f"a {name} is no valid Unicode text: {error}. Mend it, or let `readqg import` set it aside.") from error


def _tie_rank(ids: pa.Array) -> np.ndarray:
    """(documents,) int32: the place of each document when sorted by id, last first. Raises `InputError` for a duplicate id."""
    order = pc.sort_indices(ids, sort_keys=[("", "descending")])
    ordered = ids.take(order)
    same = pc.equal(ordered[1:], ordered[:-1])
    if pc.any(same).as_py():
        twice = ordered[pc.index(same, True).as_py()].as_py()
        raise InputError(f"doc_id {twice!r} stands twice among the documents. Remove one or rename it.")
    rank = np.empty(len(ids), np.int32)
    rank[order.to_numpy()] = np.arange(len(ids), dtype=np.int32)
    return rank
