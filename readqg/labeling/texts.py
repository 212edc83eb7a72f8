"""Queries and passages by id, read once in a process and kept for the shards to come."""

from __future__ import annotations

from functools import lru_cache

import polars as pl

from readqg.corpus import Documents, read_texts

passages = Documents.open
"""The documents at a path; opened once in a process."""


@lru_cache(maxsize=1)
def passage_ids(documents: Documents) -> pl.Series:
    """The ids of all documents."""
    return pl.Series("doc_id", documents.ids, pl.String)


@lru_cache(maxsize=1)
def queries(path: str, fingerprint: str) -> dict[str, str]:
    """query_id -> text of the queries that have one. `fingerprint` of the file: after a change it is read anew."""
    return {query_id: text for query_id, text in read_texts(path).items() if text.strip()}


@lru_cache(maxsize=1)
def query_table(path: str, fingerprint: str) -> pl.DataFrame:
    """The same as a table (query_id, query)."""
    texts = queries(path, fingerprint)
    columns = {"query_id": list(texts), "query": list(texts.values())}
    return pl.DataFrame(columns, schema={"query_id": pl.String, "query": pl.String})
