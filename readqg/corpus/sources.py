"""What lies at a path: a BEIR folder, a single file, or what `readqg import` has made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from readqg.corpus.files import SUFFIXES
from readqg.corpus.opening import looking_at
from readqg.corpus.rows import Kind
from readqg.errors import InputError
from readqg.places import Place, place_of
from readqg.shards import open_input, sha256_file

_STEMS: dict[Kind, str] = {"documents": "corpus", "queries": "queries"}


@dataclass(frozen=True)
class Source:
    """One kind of rows: a raw file, or a finished folder of parts."""

    kind: Kind
    path: Place
    imported: bool

    def fingerprint(self) -> str:
        """Identifies the content."""
        with looking_at(self.path):
            return open_input(self.path).fingerprint if self.imported else sha256_file(self.path)


def locate(path: str | Place, kind: Kind, split: str = "test") -> Source:
    """Where the rows of `kind` lie: `path` itself (a file, an imported folder), or within it (a BEIR folder, the output of
    `readqg import`).

    Raises `InputError` that says what was looked for."""
    path = place_of(path)
    with looking_at(path):
        return _locate(path, kind, split)


def _locate(path: Place, kind: Kind, split: str) -> Source:
    if (path / "_config.json").exists():
        return Source(kind, path, True)
    if (path / kind / "_config.json").exists():
        return Source(kind, path / kind, True)
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"{path}: no such file or folder.")
        return Source(kind, path, False)
    found = _beir_file(path, kind, split)
    if found is None:
        raise InputError(f"{path} has no {kind}: looked for {', '.join(_looked_for(kind, split))}. It holds: {_listing(path)}.")
    return Source(kind, found, False)


def import_sources(path: str | Place, kind: str, split: str) -> list[Source]:
    """The raw files that an import reads: documents first, then queries and judgments where they are there.

    Raises `InputError` where there is nothing known, or where there are judgments but none of `split`."""
    path = place_of(path)
    if kind != "auto":
        return [locate(path, cast(Kind, kind), split)]
    if not path.is_dir():
        return [locate(path, _guess(path), split)]
    documents = locate(path, "documents")
    if documents.imported:
        raise InputError(f"{path} is imported already; give it as it is to the next stage.")
    found = [Source(k, file, False) for k in ("queries", "judgments") if (file := _beir_file(path, k, split)) is not None]
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
