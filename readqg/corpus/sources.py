"""What lies at a path: a BEIR folder, a single file, a dataset's folder, text files, or what `readqg import` has made."""

from __future__ import annotations

from typing import cast

from readqg.corpus.files import SUFFIXES, file_format
from readqg.corpus.forms import Source
from readqg.corpus.hf_datasets import find_split
from readqg.corpus.irds import collections, is_collection
from readqg.corpus.opening import looking_at
from readqg.corpus.rows import Kind
from readqg.corpus.text_files import TEXT_SUFFIXES, TextFiles
from readqg.errors import InputError
from readqg.places import Place, place_of
from readqg.shards import read_json

__all__ = ["Source", "import_sources", "locate"]

_STEMS: dict[Kind, str] = {"documents": "corpus", "queries": "queries"}
_BESIDE: tuple[Kind, ...] = ("queries", "judgments")


def locate(path: str | Place, kind: Kind, split: str = "test", dataset_split: str | None = None) -> Source:
    """Where the rows of `kind` lie: `path` itself (a file, an imported folder), or within it (a BEIR folder, the output of
    `readqg import`, a dataset's folder, text files).

    Raises `InputError` that says what was looked for."""
    if is_collection(path):
        found = next((s for s in collections(str(path)) if s.kind == kind), None)
        if found is None:
            raise InputError(f"{path} has no {kind}.")
        return found
    path = place_of(path)
    with looking_at(path):
        return _locate(path, kind, split, dataset_split)


def _locate(path: Place, kind: Kind, split: str, dataset_split: str | None) -> Source:
    if _made_here(path):
        return Source(kind, path, True)
    if _made_here(path / kind):
        return Source(kind, path / kind, True)
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"{path}: no such file or folder.")
        texts = kind == "documents" and file_format(path) in TEXT_SUFFIXES
        return TextFiles(kind, path) if texts else Source(kind, path)
    return _inside(path, kind, split, dataset_split) or _nothing(path, kind, split)


def _made_here(folder: Place) -> bool:
    """Whether it is a stage's output of rows. What `readqg export` makes is read as what it was made for."""
    begun = folder / "_config.json"
    return begun.exists() and read_json(begun).get("stage") != "export"


def _inside(path: Place, kind: Kind, split: str, dataset_split: str | None) -> Source | None:
    file = _beir_file(path, kind, split)
    if file is not None:
        return Source(kind, file)
    dataset = find_split(path, kind, split if kind == "judgments" else dataset_split)
    if dataset is not None or kind != "documents":
        return dataset
    texts = TextFiles(kind, path)
    return texts if texts.files() else None


def _nothing(path: Place, kind: Kind, split: str) -> Source:
    others = f"; a Hugging Face dataset's folder; files {', '.join(TEXT_SUFFIXES)}" if kind == "documents" else ""
    raise InputError(f"{path} has no {kind}: looked for {', '.join(_looked_for(kind, split))}{others}. It holds: {_listing(path)}.")


def import_sources(path: str | Place, kind: str, split: str, dataset_split: str | None = None) -> list[Source]:
    """The raw files that an import reads: documents first, then queries and judgments where they are there.

    Raises `InputError` where there is nothing known, or where there are judgments but none of `split`."""
    if kind != "auto":
        return [locate(path, cast(Kind, kind), split, dataset_split)]
    if is_collection(path):
        return collections(str(path))
    path = place_of(path)
    if not path.is_dir():
        return [locate(path, _guess(path), split)]
    documents = locate(path, "documents", split, dataset_split)
    if documents.imported:
        raise InputError(f"{path} is imported already; give it as it is to the next stage.")
    with looking_at(path):
        found = [source for k in _BESIDE if (source := _inside(path, k, split, None)) is not None]
    splits = sorted({p.name.removesuffix(".gz").removesuffix(".tsv") for p in (path / "qrels").glob("*.tsv*")})
    if splits and split not in splits:
        raise InputError(f"{path}/qrels has no {split}.tsv; it has: {', '.join(splits)}. Choose one with --split.")
    return [documents, *found]


def _beir_file(path: Place, kind: Kind, split: str) -> Place | None:
    return next((path / name for name in _looked_for(kind, split) if (path / name).is_file()), None)


def _looked_for(kind: Kind, split: str) -> list[str]:
    if kind == "judgments":
        return [f"qrels/{split}.tsv", f"qrels/{split}.tsv.gz"]
    return [f"{_STEMS[kind]}{suffix}{gz}" for suffix in SUFFIXES for gz in ("", ".gz")]


def _guess(path: Place) -> Kind:
    """What a single file holds, by its name."""
    name = path.name.lower()
    if name.startswith("qrels") or path.parent.name == "qrels" or ".qrel" in name:
        return "judgments"
    return "queries" if name.startswith(("queries", "topics")) else "documents"


def _listing(path: Place) -> str:
    names = sorted(p.name for p in path.iterdir())
    return (", ".join(names[:8]) + (", ..." if len(names) > 8 else "")) or "nothing"
