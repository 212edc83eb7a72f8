"""The queries and passages that scores are about, by id."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import polars as pl

from readqg.corpus import Documents, input_fingerprint, read_texts
from readqg.places import Place, place_of


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
        """The same as a table: query_id, query."""
        return _query_table(self._queries, self.fingerprints["queries"])

    @property
    def passage_hashes(self) -> np.ndarray:
        """Of the ids of all passages, 64 bits each, sorted: 8 bytes an id, and quick to look many up in."""
        return _passage_hashes(self.documents.path, self.documents.fingerprint)

    @property
    def query_hashes(self) -> np.ndarray:
        """The same of the queries that have a text."""
        return _query_hashes(self._queries, self.fingerprints["queries"])


@lru_cache(maxsize=1)
def _queries(path: str, fingerprint: str) -> dict[str, str]:
    return {query_id: text for query_id, text in read_texts(path).items() if text.strip()}


@lru_cache(maxsize=1)
def _query_table(path: str, fingerprint: str) -> pl.DataFrame:
    texts = _queries(path, fingerprint)
    columns = {"query_id": list(texts), "query": list(texts.values())}
    return pl.DataFrame(columns, schema={"query_id": pl.String, "query": pl.String})


@lru_cache(maxsize=1)
def _passage_hashes(path: Place, fingerprint: str) -> np.ndarray:
    return _hashes(pl.Series(Documents.open(path).id_column))


@lru_cache(maxsize=1)
def _query_hashes(path: str, fingerprint: str) -> np.ndarray:
    return _hashes(_query_table(path, fingerprint)["query_id"])


def _hashes(ids: pl.Series) -> np.ndarray:
    return np.sort(ids.hash().to_numpy())
