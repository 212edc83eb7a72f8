"""`readqg coverage`: documents that stand for a corpus, to write queries for, where there are too many to write for all.

The corpus is embedded, clustered by mini-batch k-means (Sculley, 2010), and documents are taken from the clusters in turn: of each first
the one nearest to its centre, then others by a stable hash. A small topic so gets as many as a large one. Vectors and their clusters
are in memory: 4 bytes x H a document.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.cluster import MiniBatchKMeans

from readqg import local, models
from readqg.config import CoverageConfig, identity
from readqg.corpus import Documents
from readqg.corpus.rows import SCHEMAS
from readqg.evaluation.encoder import embed_corpus, embeddings_folder, read_vectors
from readqg.shards import OutputFolder, stable_hash
from readqg.stage import ShardStage


def cover(config: CoverageConfig, run: Callable[[ShardStage, OutputFolder], Any]) -> dict[str, Any]:
    """Embed the corpus and write the chosen documents, as an imported folder has them; returns what `_SUCCESS` says. `run` does a
    stage's missing shards into a folder."""
    stage = CoverageStage(config)
    folder = OutputFolder.begin(config.out, stage.name, identity(config), stage.inputs(), stage.models())
    if folder.done:
        return folder.success()
    embed_corpus(config, run)
    return local.run_here(stage, folder)


def spread(vectors: np.ndarray, ids: Sequence[str], number: int, clusters: int, seed: int) -> np.ndarray:
    """`number` of the rows of `vectors` (n, H), ascending; all of them where there are no more. The same for the same arguments."""
    if number >= len(vectors):
        return np.arange(len(vectors))
    kmeans = MiniBatchKMeans(min(number, clusters), random_state=seed, n_init=1).fit(vectors)
    labels = kmeans.predict(vectors)
    distances = np.linalg.norm(vectors - kmeans.cluster_centers_[labels], axis=1)
    hashes = np.array([stable_hash(doc_id, seed) for doc_id in ids], dtype=np.uint64)
    others = np.ones(len(vectors), dtype=bool)
    by_distance = np.lexsort((hashes, distances, labels))
    others[by_distance[np.unique(labels[by_distance], return_index=True)[1]]] = False
    order = np.lexsort((hashes, others, labels))
    first = np.searchsorted(labels[order], labels[order])
    turn = np.empty(len(order), dtype=np.int64)
    turn[order] = np.arange(len(order)) - first
    return np.sort(np.lexsort((hashes, turn))[:number])


class CoverageStage(ShardStage):
    """The whole corpus in, the chosen documents out, in corpus order; one shard. A document without text has no vector and is never
    chosen."""

    name = "coverage"
    key = ("doc_id",)
    schema = SCHEMAS["documents"]
    independent_rows = False
    total = 1  # type: ignore[assignment]

    def __init__(self, config: CoverageConfig) -> None:
        self.config = config
        self.documents = Documents.open(config.documents)

    def inputs(self) -> dict[str, str]:
        return {"documents": self.documents.fingerprint}

    def models(self) -> dict[str, str]:
        return {"encoder": models.fingerprint(self.config.encoder)}

    def read(self, index: int) -> pa.Table:
        return pa.table({"doc_id": pa.array(self.documents.ids, pa.string())})

    def compute(self, table: pa.Table) -> pa.Table:
        vectors, there = read_vectors(embeddings_folder(self.config.out))
        rows = np.flatnonzero(there)
        ids = table["doc_id"].take(pa.array(rows)).to_pylist()
        chosen = spread(vectors, ids, self.config.max_documents, self.config.clusters, self.config.seed)
        return self.documents.take(rows[chosen].tolist())
