"""The queries and passages that scores are about, by id."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from readqg.corpus import Documents, input_fingerprint, read_texts
from readqg.errors import InputError
from readqg.frames import pl
from readqg.places import Place, place_of

_SEEDS = 8  # two of 10 million ids meet under one in 300,000


class Texts:
    """Queries and passages at two places, imported or raw. Small when pickled: a worker reads them anew, once a process.

    Raises `InputError` where they cannot be read."""

    def __init__(self, queries: str, documents: str) -> None:
        self.documents = Documents.open(documents)
        self._queries = str(place_of(queries).absolute())
        self.fingerprints = {"queries": input_fingerprint(queries, "queries"), "documents": self.documents.fingerprint}
        """Of the content of both."""

    @property
    def queries(self) -> dict[str, str]:
        """query_id -> text of the queries that have one."""
        return _queries(self._queries, self.fingerprints["queries"])

    @property
    def query_table(self) -> pl.DataFrame:
        """The same as a table: query_id, query; in the order of query_id, so that a query's number stands for its id in sorts."""
        return _query_table(self._queries, self.fingerprints["queries"])

    @property
    def passage_numbers(self) -> Numbers:
        """A passage's row among the documents."""
        return _passage_numbers(self.documents.path, self.documents.fingerprint)

    @property
    def query_numbers(self) -> Numbers:
        """A query's row in `query_table`."""
        return _query_numbers(self._queries, self.fingerprints["queries"])


class Numbers:
    """Ids as numbers, their places in `ids`: 12 bytes an id, and quick to look many up in.

    They are known by 64 bits of a hash that differ for all of `ids`; another id is taken for one of n with a chance of n / 2^64.
    Raises `InputError` where an id stands twice."""

    def __init__(self, ids: pl.Series) -> None:
        for self._seed in range(_SEEDS):
            hashes = self._hash(ids)
            order = np.argsort(hashes)
            self._hashes, self._numbers = hashes[order], order.astype(np.int32)
            if not (self._hashes[1:] == self._hashes[:-1]).any():
                return
        raise InputError(f"the id {ids[int(order[:-1][self._hashes[1:] == self._hashes[:-1]][0])]!r} stands twice; each must be another.")

    def of(self, ids: pl.Series) -> np.ndarray:
        """(n,) int32; -1 for an id that is not among them."""
        numbers = np.full(len(ids), -1, np.int32)
        if not len(self._hashes):
            return numbers
        own = self._hash(ids)
        order = np.argsort(own)  # in order, lookups find their neighbours in the processor's cache
        own = own[order]
        places = np.minimum(np.searchsorted(self._hashes, own), len(self._hashes) - 1)
        numbers[order] = np.where(self._hashes[places] == own, self._numbers[places], -1)
        return numbers

    def _hash(self, ids: pl.Series) -> np.ndarray:
        return ids.hash(self._seed).to_numpy()


@lru_cache(maxsize=1)
def _queries(path: str, fingerprint: str) -> dict[str, str]:
    return {query_id: text for query_id, text in read_texts(path).items() if text.strip()}


@lru_cache(maxsize=1)
def _query_table(path: str, fingerprint: str) -> pl.DataFrame:
    texts = _queries(path, fingerprint)
    columns = {"query_id": list(texts), "query": list(texts.values())}
    return pl.DataFrame(columns, schema={"query_id": pl.String, "query": pl.String}).sort("query_id")


@lru_cache(maxsize=1)
def _passage_numbers(path: Place, fingerprint: str) -> Numbers:
    return Numbers(pl.Series(Documents.open(path).id_column))


@lru_cache(maxsize=1)
def _query_numbers(path: str, fingerprint: str) -> Numbers:
    return Numbers(_query_table(path, fingerprint)["query_id"])
