"""`readqg retrieve-dense`: a bi-encoder's best documents for every query, by the cosines of their vectors.

All documents are compared, none is left out by an index that approximates. The corpus is embedded once, beside the run; its vectors
are in memory where queries are asked: 4 bytes x H a document in every worker.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from readqg import models, runs
from readqg.config import DenseConfig, identity
from readqg.corpus import Documents
from readqg.evaluation.encoder import EmbeddedCorpus, embed_corpus, embeddings_folder, open_encoder
from readqg.ranking import RUN
from readqg.retrieval import asked_queries, fingerprints
from readqg.shards import OutputFolder
from readqg.stage import ShardStage


def retrieve_dense(config: DenseConfig, run: Callable[[ShardStage, OutputFolder], dict[str, Any]]) -> dict[str, Any]:
    """Embed the corpus, and write the run; returns what `_SUCCESS` says. `run` does a stage's missing shards into a folder."""
    stage = DenseStage(config)
    folder = OutputFolder.begin(config.out, stage.name, identity(config), stage.inputs(), stage.models())
    if not folder.done:
        embed_corpus(config, run)
    success = run(stage, folder)
    runs.write_trec_beside(folder.path, "dense")
    runs.write_queries_beside(folder.path, stage.queries["query_id"].to_pylist())
    return success


class DenseStage(ShardStage):
    """Queries in, their best documents out. A document without text is never found."""

    name = "retrieve-dense"
    key = ("query_id",)
    schema = RUN

    def __init__(self, config: DenseConfig) -> None:
        """Opens the inputs. Raises `InputError` where one cannot be read or no query is left."""
        self.config = config
        self.documents = Documents.open(config.documents)
        self.queries = asked_queries(config)

    @property
    def total(self) -> int:
        return -(-self.queries.num_rows // self.config.shard_queries)

    def inputs(self) -> dict[str, str]:
        return {"documents": self.documents.fingerprint, **fingerprints(self.config)}

    def models(self) -> dict[str, str]:
        return {"encoder": models.fingerprint(self.config.encoder)}

    def read(self, index: int) -> pa.Table:
        return self.queries.slice(index * self.config.shard_queries, self.config.shard_queries)

    def load(self) -> None:
        from readqg import devices

        devices.set_threads(self.config.compute)
        self._encoder = open_encoder(self.config)
        self._corpus = EmbeddedCorpus(embeddings_folder(self.config.out), self._encoder.dimension)

    def compute(self, table: pa.Table) -> pa.Table:
        """Rows (query_id, doc_id, rank from 1, score: the cosine), query by query, best first."""
        rows = []
        wanted = self.config.top_k + self.config.drop_self
        for query_id, vector in zip(table["query_id"].to_pylist(), self._encoder.encode(table["text"].to_pylist()), strict=True):
            best, cosines = self._corpus.best(vector, wanted)
            found = dict(zip(self.documents.id_column.take(pa.array(best)).to_pylist(), cosines.tolist(), strict=True))
            if self.config.drop_self:
                found.pop(query_id, None)
            ranked = enumerate(runs.ranked(found)[: self.config.top_k], 1)
            rows += [{"query_id": query_id, "doc_id": doc_id, "rank": rank, "score": score} for rank, (doc_id, score) in ranked]
        return pa.Table.from_pylist(rows, schema=RUN)

    def metrics(self) -> dict[str, float]:
        """Of the last `compute`: how often running out of memory halved the batches."""
        return {"halvings": self._encoder.last_halvings}
