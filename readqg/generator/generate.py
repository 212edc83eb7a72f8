"""`readqg generate`: documents in, queries out, one row a (document, relevance, sample)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pyarrow as pa
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from readqg import devices, models, sample, shards
from readqg.config import GenerateConfig
from readqg.corpus import Documents, document_text, subset
from readqg.corpus.generated import QUERIES
from readqg.generator.backbone import Backbone
from readqg.generator.decoding import Query, QueryWriter
from readqg.generator.model import Generator
from readqg.generator.prompts import SoftPrompt, files_fingerprint
from readqg.places import place_of
from readqg.stage import ShardStage

_DOCUMENTS = ("doc_id", "title", "text")


class GenerateStage(ShardStage):
    """Writes queries for an imported documents folder, or for `config.max_documents` of it drawn by a stable hash.

    Raises `InputError` for a folder that cannot be read, and `ModelError` for a backbone or prompts that cannot be used or do not
    fit each other; both are looked at here, before any worker starts."""

    name = "generate"
    schema = QUERIES
    key = ("doc_id",)

    def __init__(self, config: GenerateConfig) -> None:
        self.config = config
        self.folder = shards.open_input(config.documents, _DOCUMENTS)
        self.prompts = str(place_of(config.prompts or sample.prompts_folder()).absolute())
        prompts = SoftPrompt.load(self.prompts)
        self.backbone = config.backbone or prompts.facts.base_model
        prompts.check_fits(Backbone.load(self.backbone, device="meta"))
        self._rows = _drawn_rows(self.folder, config.max_documents)

    @property
    def total(self) -> int:
        return -(-len(self._rows) // self.config.shard_rows)

    def inputs(self) -> dict[str, str]:
        return {"documents": self.folder.fingerprint}

    def models(self) -> dict[str, str]:
        return {"backbone": models.fingerprint(self.backbone), "prompts": files_fingerprint(self.prompts)}

    def read(self, index: int) -> pa.Table:
        """Documents: doc_id, title, text."""
        rows = self._rows[index * self.config.shard_rows : (index + 1) * self.config.shard_rows]
        return Documents.open(self.config.documents).take(rows)

    def prepare(self, table: pa.Table) -> pa.Table:
        """Adds `_ids`: the tokens of title + " " + text, cut to `document_tokens`; none for a document without text."""
        texts = [document_text(title or "", text or "") for title, text in
                 zip(table["title"].to_pylist(), table["text"].to_pylist(), strict=True)]
        tokenizer = _tokenizer(models.resolve(self.backbone))
        whole = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        ids = [row[: self.config.document_tokens] for row in whole]
        return table.append_column("_ids", pa.array(ids, pa.list_(pa.int32())))

    def load(self) -> None:
        devices.set_threads(self.config.compute)
        device, dtype = devices.device_and_dtype(self.config.compute)
        self._writer = QueryWriter(Generator.load(self.backbone, self.prompts, device, dtype), self.config)
        self._tokens = 0

    def compute(self, table: pa.Table) -> pa.Table:
        documents = list(zip(table["doc_id"].to_pylist(), table["_ids"].to_pylist(), strict=True))
        queries = self._writer.write(documents)
        self._tokens = sum(query.n_tokens or 0 for query in queries)
        return _table(queries)

    def failed(self, row: pa.Table, message: str) -> pa.Table:
        """One row for every query that was asked for."""
        doc_id = row["doc_id"][0].as_py()
        asked = [(r, s) for r in self.config.relevances for s in range(self.config.samples)]
        return _table([Query(doc_id, r, s, error=message) for r, s in asked])

    def metrics(self) -> dict[str, float]:
        """Of the last `compute`: tokens written, and how often running out of memory halved the batches."""
        return {"tokens": self._tokens, "halvings": self._writer.last_halvings}


def _drawn_rows(folder: shards.InputFolder, limit: int | None) -> Sequence[int]:
    """The numbers of the folder's rows that queries are written for, ascending."""
    if limit is None or limit >= folder.rows:
        return range(folder.rows)
    ids = folder.read(columns=["doc_id"])["doc_id"].to_pylist()
    drawn = set(subset(ids, limit))
    return [row for row, doc_id in enumerate(ids) if doc_id in drawn]


@cache
def _tokenizer(folder: str) -> PreTrainedTokenizerBase:
    """Once a process; the backbone's own, without its weights."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _table(queries: Sequence[Query]) -> pa.Table:
    columns = {
        "doc_id": [q.doc_id for q in queries], "relevance": [q.relevance for q in queries], "sample": [q.sample for q in queries],
        "query": [q.text for q in queries], "log_likelihood": [q.log_likelihood for q in queries],
        "n_tokens": [q.n_tokens for q in queries], "error": [q.error for q in queries],
    }
    return pa.table(columns, schema=QUERIES)
