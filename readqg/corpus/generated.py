"""Generated queries: the columns of their folder, and bringing in those that were made elsewhere.

What is read: a file of rows (.jsonl, .csv, .tsv, .parquet, each also .gz) with a document's id, or its text (InPars: doc_id, doc_text,
query), a query or a list of them, and perhaps a relevance in [0, 1]; or GPL's folder, `PREFIX-queries.jsonl` beside
`PREFIX-qrels/train.tsv`. The rows are held in memory, to bring each document's queries together.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from readqg.config import ImportQueriesConfig, ImportSettings, identity
from readqg.corpus.access import Documents
from readqg.corpus.files import Line, read_lines
from readqg.corpus.forms import Source
from readqg.corpus.rows import BadRow, RowReader, allowed_bad, document_text, enough_share, identifier, pick
from readqg.errors import InputError
from readqg.places import Place, place_of
from readqg.shards import OutputFolder, appearing, explained, fingerprint, sha256_file, stable_hash
from readqg.stage import ShardResult

log = logging.getLogger("readqg")

QUERIES = pa.schema([
    ("doc_id", pa.string()), ("relevance", pa.float32()), ("sample", pa.int32()), ("query", pa.string()),
    ("log_likelihood", pa.float32()), ("n_tokens", pa.int32()), ("error", pa.string()),
])
_DOC_FIELDS = ("doc_id", "docid", "corpus_id", "corpus-id", "passage_id", "pid")
_TEXT_FIELDS = ("doc_text", "document", "passage", "text")
_QUERY_FIELDS = ("query", "question", "generated_query", "queries")
_ENDING = "queries.jsonl"
_EXAMPLES = 3


@dataclass
class _Found:
    """Queries in the order of the source."""

    doc_ids: list[str] = field(default_factory=list)
    relevances: list[float] = field(default_factory=list)
    queries: list[str] = field(default_factory=list)
    lines: int = 0
    rejected: int = 0
    repeated: int = 0
    examples: list[str] = field(default_factory=list)


def import_queries(config: ImportQueriesConfig) -> dict[str, Any]:
    """Make `config.out` a folder of generated queries, as `train_reranker` reads it; returns its `_SUCCESS`.

    Log-likelihoods and lengths are null: they would be another model's. Raises `InputError` where the source cannot be read, holds no
    query, or more than `max_rejected_share` of its lines are bad; `FolderError` where `out` was begun with something else."""
    reader = _Reader(config)
    out = place_of(config.out)
    with explained(f"making {out}"):
        out.mkdir(parents=True, exist_ok=True)
    inputs = {"source": reader.fingerprint()}
    if reader.documents is not None:
        inputs["documents"] = reader.documents.fingerprint
    if (out / "_SUCCESS").exists():
        return OutputFolder.begin(out, "import-queries", identity(config), inputs).success()
    found = _read(reader, config, out)
    table = _table(found, reader.documents)
    folder = OutputFolder.begin(out, "import-queries", identity(config), inputs)
    total = max(1, -(-table.num_rows // config.shard_rows))
    for index in folder.missing(total):
        shard = table.slice(index * config.shard_rows, config.shard_rows)
        ids = shard["doc_id"]
        folder.commit(index, total, ShardResult(shard, shard.num_rows, 0, 0, ids[0].as_py(), ids[-1].as_py(), counts=_counts(shard)))
    success = folder.finish(total)
    if not success["counts"].get("negatives"):
        log.warning("%s has no queries at r = 0: train with `readqg train-reranker --queries %s --w-mr 0`.", out, out)
    return success


def _read(reader: _Reader, config: ImportQueriesConfig, out: Place) -> _Found:
    """All usable queries; the others go to `_rejected.jsonl`."""
    found, seen = _Found(), set()
    rejects_file = out / "_rejected.jsonl"
    with appearing(rejects_file) as partial, partial.open("w", encoding="utf-8") as rejects:
        for line, rows in reader.read():
            found.lines += 1
            if rows is None:
                found.rejected += 1
                found.examples += [f"{line.where}: {line.reason}"] if len(found.examples) < _EXAMPLES else []
                row = {"file": line.file or str(reader.path), "line": line.number, "reason": line.reason, "excerpt": line.excerpt}
                rejects.write(json.dumps(row) + "\n")
            for doc_id, relevance, query in rows or []:
                key = stable_hash(f"{doc_id}\0{relevance}\0{' '.join(query.lower().split())}")
                if key in seen:
                    found.repeated += 1
                    continue
                seen.add(key)
                found.doc_ids.append(doc_id)
                found.relevances.append(relevance)
                found.queries.append(query)
    if not found.rejected:
        rejects_file.unlink()
    _judge(found, config, rejects_file, reader.path)
    return found


def _judge(found: _Found, config: ImportQueriesConfig, rejects_file: Place, path: Place) -> None:
    examples = "\n".join(f"  {example}" for example in found.examples)
    allowed = allowed_bad(config.max_rejected_share, found.lines)
    if found.rejected > allowed:
        raise InputError(f"{path}: {found.rejected:,} of {found.lines:,} lines cannot be used; {allowed:,} may be bad:\n{examples}\n"
                         f"All of them are in {rejects_file}. Mend them, name the right fields with --doc-field, --query-field and "
                         f"--relevance-field, or allow them: --max-rejected-share {enough_share(found.rejected, found.lines):g}.")
    if not found.queries:
        raise InputError(f"{path} holds no query.")
    if found.rejected:
        log.warning("%s: %d of %d lines cannot be used and are in %s. %s.",
                    path, found.rejected, found.lines, rejects_file, found.examples[0])
    if found.repeated:
        log.info("%s: %d queries repeat another of their document and are left out", path, found.repeated)


def _table(found: _Found, documents: Documents | None) -> pa.Table:
    """In the order of the corpus (without one, of first appearance), each document's queries by relevance, highest first."""
    order = {doc_id: place for place, doc_id in enumerate(dict.fromkeys(found.doc_ids))}
    if documents is not None:
        order = {doc_id: documents.row(doc_id) or 0 for doc_id in order}
    places = np.array([order[doc_id] for doc_id in found.doc_ids], dtype=np.int64)
    relevances = np.array(found.relevances, dtype=np.float32)
    sorting = np.lexsort((np.arange(len(places)), -relevances, places))
    places, relevances = places[sorting], relevances[sorting]
    new = np.append(True, (places[1:] != places[:-1]) | (relevances[1:] != relevances[:-1]))
    starts = np.maximum.accumulate(np.where(new, np.arange(len(places)), 0))
    columns = {
        "doc_id": pa.array(found.doc_ids, pa.string()).take(pa.array(sorting)), "relevance": pa.array(relevances),
        "sample": pa.array((np.arange(len(places)) - starts).astype(np.int32)),
        "query": pa.array(found.queries, pa.string()).take(pa.array(sorting)),
    }
    return pa.table({f.name: columns.get(f.name, pa.nulls(len(places), f.type)) for f in QUERIES}, schema=QUERIES)


def _counts(shard: pa.Table) -> dict[str, int]:
    relevances = shard["relevance"].to_numpy()
    return {"positives": int((relevances == 1).sum()), "negatives": int((relevances == 0).sum())}


class _Reader:
    """The lines of the source, each with its (doc_id, relevance, query), or None and a reason."""

    def __init__(self, config: ImportQueriesConfig) -> None:
        self.config = config
        self.documents = Documents.open(config.documents) if config.documents is not None else None
        self.path = place_of(config.source)
        self.qrels: Place | None = None
        if self.path.is_dir():
            self.path, self.qrels = _gpl_files(self.path, config.split)
        elif self.path.name.removesuffix(".gz").endswith(_ENDING):
            qrels = _qrels_beside(self.path, config.split)
            self.qrels = qrels if qrels.is_file() else None
        if not self.path.is_file():
            raise InputError(f"{self.path}: no such file or folder.")

    def fingerprint(self) -> str:
        return fingerprint([sha256_file(path) for path in (self.path, self.qrels) if path is not None])

    def read(self) -> Iterator[tuple[Line, list[tuple[str, float, str]] | None]]:
        for line in read_lines(self.path) if self.qrels is None else self._judged(self.qrels):
            if line.fields is None:
                yield line, None
                continue
            try:
                yield line, self._rows(line.fields)
            except BadRow as reason:
                yield replace(line, fields=None, reason=str(reason)), None

    def _judged(self, qrels: Place) -> Iterator[Line]:
        """Queries and judgments brought together: a line a judgment. A grade of 1 or more is r = 1."""
        texts = {}
        for line, row in RowReader(Source("queries", self.path), ImportSettings()).read():
            if row is None:
                yield line
            else:
                texts[row["query_id"]] = row["text"]
        for line, row in RowReader(Source("judgments", qrels), ImportSettings()).read():
            line = replace(line, file=str(qrels))
            if row is None:
                yield line
            elif row["query_id"] not in texts:
                yield replace(line, fields=None, reason=f"query {row['query_id']!r} is not in {self.path}")
            else:
                values = {"doc_id": row["doc_id"], "query": texts[row["query_id"]], "relevance": float(row["relevance"] >= 1)}
                yield replace(line, fields={self._own.get(name, name): value for name, value in values.items()})

    @property
    def _own(self) -> dict[str, str]:
        return {"doc_id": self.config.doc_field, "query": self.config.query_field, "relevance": self.config.relevance_field}

    def _rows(self, fields: dict[str, Any]) -> list[tuple[str, float, str]]:
        doc_id = self._document(fields)
        relevance = self._relevance(fields)
        name, value = pick(fields, (self.config.query_field, *_QUERY_FIELDS))
        queries = value if isinstance(value, list) else [value]
        if not queries or not all(isinstance(query, str) and query.strip() for query in queries):
            raise BadRow(f"{name} is {str(value)[:80]!r}; expected a text that is not empty")
        return [(doc_id, relevance, " ".join(query.split())) for query in queries]

    def _document(self, fields: dict[str, Any]) -> str:
        names = (self.config.doc_field, *_DOC_FIELDS)
        text = next((fields[name] for name in _TEXT_FIELDS if isinstance(fields.get(name), str)), None)
        if text is not None and not set(names) & set(fields):
            return self._named_by(text)
        doc_id = identifier(*pick(fields, names))
        if self.documents is not None and doc_id not in self.documents:
            raise BadRow(f"{self.config.documents} has no document {doc_id!r}")
        return doc_id

    def _named_by(self, text: str) -> str:
        if self.documents is None:
            raise BadRow("it has a document's text but no id: give the corpus with --documents, which is searched for the text")
        doc_id = self._by_text.get(_text_key(text))
        if doc_id is None:
            raise BadRow(f"{self.config.documents} has no document with exactly this text")
        return doc_id

    @cached_property
    def _by_text(self) -> dict[int, str]:
        keys: dict[int, str] = {}
        for row in self.documents or []:
            for text in (row["text"], document_text(row["title"], row["text"])):
                keys.setdefault(_text_key(text), row["doc_id"])
        return keys

    def _relevance(self, fields: dict[str, Any]) -> float:
        value = fields.get(self.config.relevance_field)
        if value is None or value == "":
            return self.config.relevance
        try:
            relevance = float(value)
        except (TypeError, ValueError):
            relevance = -1.0
        if isinstance(value, bool) or not 0 <= relevance <= 1:
            raise BadRow(f"{self.config.relevance_field} is {str(value)[:80]!r}; expected a number from 0 to 1")
        return relevance


def _text_key(text: str) -> int:
    return stable_hash(" ".join(text.split()))


def _gpl_files(folder: Place, split: str) -> tuple[Place, Place]:
    """(queries, judgments) of a folder. Generated ones have a prefix, which goes before a BEIR folder's own queries."""
    files = sorted(p for p in folder.glob(f"*{_ENDING}*") if p.name.removesuffix(".gz").endswith(_ENDING))
    found = [path for path in files if _qrels_beside(path, split).is_file()]
    prefixed = [path for path in found if not path.name.startswith(_ENDING)] or found
    if len(prefixed) == 1:
        return prefixed[0], _qrels_beside(prefixed[0], split)
    if not found:
        raise InputError(f"{folder}: looked for PREFIX-{_ENDING} beside PREFIX-qrels/{split}.tsv, as GPL writes them, and found none. Give "
                         "a file of queries, or another --split.")
    raise InputError(f"{folder} has queries of several makers: {', '.join(path.name for path in prefixed)}. Give the one file as --source.")


def _qrels_beside(queries: Place, split: str) -> Place:
    prefix = queries.name.removesuffix(".gz").removesuffix(_ENDING)
    return queries.parent / f"{prefix}qrels" / f"{split}.tsv"
