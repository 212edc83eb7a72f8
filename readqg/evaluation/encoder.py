"""Bi-encoders: texts to unit vectors, and the stage that embeds a corpus once so that round trips can be ranked against it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from readqg import devices, models
from readqg.batching import run_batches
from readqg.config import CoverageConfig, DenseConfig, QualityConfig
from readqg.corpus import Documents, document_text
from readqg.errors import ModelError
from readqg.places import Place, place_of
from readqg.shards import OutputFolder, open_input
from readqg.stage import ShardStage

NO_ENCODER = "none"
_FOLDER = "_embeddings"


class BiEncoder:
    """A transformer with pooling and L2 normalisation on top, in the shape of `sentence_transformers.SentenceTransformer`.

    `pooling` ("mean" or "cls") is the one asked for, whatever the folder's own modules say. Raises `ModelError` where the
    folder holds no encoder."""

    def __init__(
        self, folder: str, pooling: str, max_length: int, batch_tokens: int, device: torch.device | str, dtype: torch.dtype,
    ) -> None:
        local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            weights = {**local, "use_safetensors": True, "dtype": dtype}
            body = Transformer(folder, model_kwargs=weights, config_kwargs=local, processor_kwargs=local)
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"{folder}: no bi-encoder can be loaded: {error}. Give a folder or name of an encoder such as "
                             "GTE or all-MiniLM, or `none`.") from error
        body.max_seq_length = min(body.max_seq_length or max_length, max_length)
        modules = [body, Pooling(body.get_embedding_dimension(), pooling), Normalize()]
        self._model = SentenceTransformer(modules=modules, device=str(device)).eval()
        self._batch_tokens = batch_tokens
        self.last_halvings = 0

    @property
    def model(self) -> SentenceTransformer:
        """For what wants sentence-transformers' own class."""
        return self._model

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._model.get_embedding_dimension() or 0)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (len(texts), H), float32. Equal texts get equal vectors: each is encoded once."""
        distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        if not distinct:
            return np.zeros((0, self.dimension), dtype=np.float32)
        every = list(distinct)
        vectors, self.last_halvings = run_batches(
            self._lengths(every), self._batch_tokens, lambda rows: list(self._forward([every[i] for i in rows]))
        )
        return np.stack(vectors)[[distinct[text] for text in texts]]

    def _forward(self, texts: list[str]) -> np.ndarray:
        vectors: np.ndarray = self._model.encode(texts, batch_size=len(texts), show_progress_bar=False)
        vectors = np.asarray(vectors, dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # bf16 normalises to three digits only

    def _lengths(self, texts: list[str]) -> list[int]:
        ids = self._model.tokenizer(texts, truncation=True, max_length=self._model.max_seq_length)["input_ids"]
        return [len(row) for row in ids]


def open_encoder(config: QualityConfig | CoverageConfig | DenseConfig) -> BiEncoder:
    """The encoder of a config, in this process. Full precision unless bf16 is asked for by name: the angle between
    two nearly equal queries is finer than bf16's three digits."""
    device, _ = devices.device_and_dtype(config.compute)
    dtype = torch.bfloat16 if config.compute.precision == "bf16" else torch.float32
    return BiEncoder(models.resolve(config.encoder), config.pooling, config.max_length, config.batch_tokens, device, dtype)


class EmbedStage(ShardStage):
    """Every document of a corpus -> its vector, in corpus order; null for a document without text."""

    name = "embed"
    key = ("doc_id",)
    schema = pa.schema([("doc_id", pa.string()), ("embedding", pa.list_(pa.float32())), ("error", pa.string())])

    def __init__(self, config: QualityConfig | CoverageConfig | DenseConfig) -> None:
        self.config = config
        self.documents = Documents.open(config.documents)

    @property
    def total(self) -> int:
        return -(-self.documents.rows // self.config.shard_documents)

    def settings(self) -> dict[str, Any]:
        """The part of the config that the vectors hang on."""
        return {"pooling": self.config.pooling, "max_length": self.config.max_length, "precision": self.config.compute.precision}

    def inputs(self) -> dict[str, str]:
        return {"documents": self.documents.fingerprint}

    def models(self) -> dict[str, str]:
        return {"encoder": models.fingerprint(self.config.encoder)}

    def read(self, index: int) -> pa.Table:
        """Documents: doc_id, title, text."""
        return self.documents.read(index * self.config.shard_documents, (index + 1) * self.config.shard_documents)

    def load(self) -> None:
        devices.set_threads(self.config.compute)
        self._encoder = open_encoder(self.config)

    def compute(self, table: pa.Table) -> pa.Table:
        titles, texts = table["title"].to_pylist(), table["text"].to_pylist()
        whole = [document_text(title, text) for title, text in zip(titles, texts, strict=True)]
        vectors = iter(self._encoder.encode([text for text in whole if text]))
        rows = [next(vectors) if text else None for text in whole]
        broken = [row is not None and not np.isfinite(row).all() for row in rows]
        columns = {
            "doc_id": table["doc_id"],
            "embedding": [None if row is None or bad else row.tolist() for row, bad in zip(rows, broken, strict=True)],
            "error": ["the encoder's vector is not finite" if bad else None for bad in broken],
        }
        return pa.table(columns, schema=self.schema)

    def metrics(self) -> dict[str, float]:
        """Of the last `compute`: how often running out of memory halved the batches."""
        return {"halvings": self._encoder.last_halvings}


def embeddings_folder(out: str | Place) -> Place:
    """Where the corpus' vectors lie, beside the rows they serve."""
    return place_of(out) / _FOLDER


def embed_corpus(config: QualityConfig | CoverageConfig | DenseConfig, run: Callable[[ShardStage, OutputFolder], Any]) -> None:
    """Write the corpus's vectors to where they lie. `run` does a stage's missing shards into a folder."""
    stage = EmbedStage(config)
    run(stage, OutputFolder.begin(embeddings_folder(config.out), stage.name, stage.settings(), stage.inputs(), stage.models()))


def read_vectors(folder: Place) -> tuple[np.ndarray, np.ndarray]:
    """What `EmbedStage` wrote: vectors (documents with one, H), and which of all the documents these are, (documents,) bool."""
    column = open_input(folder, ("doc_id", "embedding")).read(columns=["embedding"])["embedding"].combine_chunks()
    there = column.is_valid().to_numpy(zero_copy_only=False)
    found = int(there.sum())
    return (column.flatten().to_numpy().reshape(found, -1) if found else np.zeros((0, 0), np.float32)), there


class EmbeddedCorpus:
    """The vectors of a whole corpus in memory (4 bytes x H a document)."""

    def __init__(self, folder: Place, dimension: int) -> None:
        vectors, self._there = read_vectors(folder)
        self._vectors = np.zeros((len(self._there), dimension), dtype=np.float32)
        self._vectors[self._there] = vectors.reshape(-1, dimension)

    def rank_of(self, row: int, query: np.ndarray) -> int:
        """The place of the document in row `row` for a query's vector (H,): 1 + the number of documents with a higher cosine;
        the last place for a document without a vector."""
        if not self._there[row]:
            return len(self._vectors)
        cosines = self._vectors @ query
        return 1 + int((cosines[self._there] > cosines[row]).sum())

    def best(self, query: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and cosines of the `number` documents nearest to a query's vector (H,), in no order, and of those that are as near as the
        last of them."""
        cosines = self._vectors @ query
        cosines[~self._there] = -np.inf
        number = min(number, int(self._there.sum()))
        rows = np.flatnonzero(cosines >= np.partition(cosines, len(cosines) - number)[len(cosines) - number]) if number else np.arange(0)
        return rows, cosines[rows]
