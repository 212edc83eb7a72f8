"""`readqg round-trip`: every generated query asked back of the corpus. Does it find the document it was written for, and what else?

Training can then leave out positives that do not (Promptagator's filter), negatives that do, and take the documents that stand
near the top as hard negatives. BM25 does the searching, so no model that is trained or judged here has a part in it.
"""

from __future__ import annotations

import pyarrow as pa

from readqg.config import RetrieveSettings, RoundTripConfig
from readqg.corpus import Documents
from readqg.query_rows import QueryRowsStage
from readqg.retrieval import Bm25

_ADDED = pa.schema([("rank", pa.int32()), ("found", pa.list_(pa.string()))])


class RoundTripStage(QueryRowsStage):
    """The rows of a queries folder, all its columns, each with `rank`: the place of its own document, from 1, null where that is not
    among the first `top_k`; and `found`: the other documents among them, best first. Rows with an error, or an empty query, have
    neither."""

    name = "round-trip"
    needs_model = False

    def __init__(self, config: RoundTripConfig) -> None:
        """Raises `InputError` where queries or documents cannot be read."""
        rank, found = _ADDED
        super().__init__(config.queries, config.shard_rows, pa.schema([self.noting(rank, top_k=config.top_k), found]))
        self.config = config
        self.documents = Documents.open(config.documents)

    def inputs(self) -> dict[str, str]:
        return {**super().inputs(), "documents": self.documents.fingerprint}

    def load(self) -> None:
        self._index = Bm25(self.documents, RetrieveSettings(top_k=self.config.top_k))

    def compute(self, table: pa.Table) -> pa.Table:
        ranks: list[int | None] = []
        found: list[list[str] | None] = []
        for doc_id, query, error in zip(*(table[name].to_pylist() for name in ("doc_id", "query", "error")), strict=True):
            if error is not None or not (query or "").strip():
                ranks.append(None)
                found.append(None)
                continue
            ids = [other for other, _ in self._index.search("", query)]
            ranks.append(ids.index(doc_id) + 1 if doc_id in ids else None)
            found.append([other for other in ids if other != doc_id])
        return table.append_column("rank", pa.array(ranks, pa.int32())).append_column("found", pa.array(found, pa.list_(pa.string())))
