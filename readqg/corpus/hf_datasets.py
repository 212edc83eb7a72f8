"""Folders of Hugging Face `datasets`, local, read by pyarrow alone: what `save_to_disk` wrote (Arrow streams), or Parquet.

A split is one source of rows. Of a Parquet folder it is what lies in one folder under one name before `-00000-of-00003`; the
layouts of the hub (`data/train-*.parquet`, `corpus/*.parquet`, `CONFIG/SPLIT-*.parquet`) all come out so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from readqg.config import ImportSettings
from readqg.corpus.files import Line, parquet_rows
from readqg.corpus.forms import Source
from readqg.corpus.opening import looking_at
from readqg.corpus.rows import Kind
from readqg.corpus.text_files import TextFiles, listed
from readqg.errors import InputError
from readqg.places import Place, readable
from readqg.shards import fingerprint, sha256_file

_SHARD = re.compile(r"^(?P<split>.*?)-\d{3,}-of-\d{3,}$")
_ROWS_AT_A_TIME = 512
_EXCERPT_CHARS = 200
_USUAL: dict[Kind, tuple[str, ...]] = {"documents": ("corpus", "documents"), "queries": ("queries",), "judgments": ("qrels", "default")}


@dataclass(frozen=True)
class DatasetSplit(Source):
    """The rows of one split, in the order of its files."""

    files: tuple[Place, ...] = ()

    def lines(self, settings: ImportSettings) -> Iterator[Line]:
        for file in self.files:
            for line in (_arrow_rows(file) if file.suffix == ".arrow" else parquet_rows(file)):
                yield Line(line.number, line.fields, line.reason, line.excerpt, file=self._name(file))

    def columns(self) -> list[str]:
        file = self.files[0]
        if file.suffix == ".arrow":
            with _stream(file) as stream:
                return list(stream.schema.names)
        try:
            return list(pq.read_schema(readable(file)).names)
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file}: not a Parquet file, or damaged ({error}).") from None

    def fingerprint(self) -> str:
        with looking_at(self.path):
            return fingerprint({self._name(file): sha256_file(file) for file in self.files})

    def changed_ns(self) -> int:
        return max(file.stat().st_mtime_ns for file in self.files)

    def left_out(self) -> str:
        texts = [name for name, _ in TextFiles(self.kind, self.path).files() if not name.lower().endswith("readme.md")]
        return f"{len(texts):,} text files beside the dataset are left out ({texts[0]}, ...)" if texts else ""

    def _name(self, file: Place) -> str:
        return str(file).removeprefix(str(self.path)).lstrip("/")


def find_split(folder: Place, kind: Kind, split: str | None) -> DatasetSplit | None:
    """The split that holds rows of `kind`: of documents and queries the one named `split`, or named after what it holds, or the only
    one; of judgments (beside a split of documents) `split` of the folder `qrels` or `default`. None where there is none.

    Raises `InputError` where there are several, none of them asked for."""
    splits = splits_of(folder)
    usual = [name for name in splits if set(name.split("/")) & set(_USUAL[kind])]
    if kind == "judgments":
        usual = [name for name in usual if name.split("/")[-1] == split]
        return DatasetSplit(kind, folder, files=splits[usual[0]]) if usual else None
    asked = [name for name in splits if split is not None and split in (name, name.split("/")[-1])] or usual
    if not asked and kind == "documents" and split is None and len(splits) == 1:
        asked = list(splits)
    if len(asked) == 1:
        return DatasetSplit(kind, folder, files=splits[asked[0]])
    if not splits or kind != "documents":
        return None
    unknown = f"; there is no {split!r}" if split and not asked else ""
    raise InputError(f"{folder} is a dataset of several splits: {', '.join(splits)}{unknown}. Choose the one that holds the documents with "
                     "--dataset-split NAME (in `readqg run`: --documents.dataset-split).")


def splits_of(folder: Place) -> dict[str, tuple[Place, ...]]:
    """Name -> files, in order; empty where the folder is no dataset."""
    if (folder / "dataset_dict.json").is_file():
        names = _json(folder / "dataset_dict.json").get("splits", [])
        return {str(name): _saved(folder / str(name)) for name in names}
    if (folder / "state.json").is_file():
        return {"all": _saved(folder)}
    found: dict[str, list[Place]] = {}
    for name, path in listed(folder):
        parents = name.split("/")[:-1]
        if path.suffix.lower() != ".parquet" or any(p.startswith("_") for p in parents):
            continue
        shard = _SHARD.match(path.stem)
        key = "/".join([*parents, shard["split"]] if shard else parents)
        found.setdefault(key or "all", []).append(path)
    return {name: tuple(files) for name, files in sorted(found.items())}


def _saved(folder: Place) -> tuple[Place, ...]:
    """The Arrow files that `save_to_disk` wrote, in their order."""
    with looking_at(folder / "state.json"):
        named = _json(folder / "state.json").get("_data_files", [])
    files = tuple(folder / str(entry["filename"]) for entry in named if isinstance(entry, dict) and "filename" in entry)
    if not files or not all(file.is_file() for file in files):
        absent = next((file.name for file in files if not file.is_file()), "the files that state.json names")
        raise InputError(f"{folder}: {absent} is not there. Copy the whole folder that `save_to_disk` wrote.")
    return files


def _json(file: Place) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file} is no JSON ({error}). Save the dataset again.") from None
    return values if isinstance(values, dict) else {}


def _stream(file: Place) -> pa.RecordBatchStreamReader:
    try:
        return pa.ipc.open_stream(file.open("rb"))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: not an Arrow stream, or damaged ({error}). Save the dataset again.") from None


def _arrow_rows(file: Place) -> Iterator[Line]:
    number = 0
    with _stream(file) as stream:
        while True:
            try:
                batch = stream.read_next_batch()
            except StopIteration:
                return
            except (pa.ArrowInvalid, OSError) as error:
                raise InputError(f"{file}: damaged after row {number} ({error}). Save the dataset again.") from None
            for start in range(0, batch.num_rows, _ROWS_AT_A_TIME):
                for fields in batch.slice(start, _ROWS_AT_A_TIME).to_pylist():
                    number += 1
                    yield Line(number, fields, excerpt=str({k: str(v)[:40] for k, v in fields.items()})[:_EXCERPT_CHARS])
