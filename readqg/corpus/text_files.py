"""A folder of text files as documents: .txt, .md, .html, .pdf, at any depth, cut into passages.

The id of a document is its file's path in the folder; that of a passage has its number behind: `guide/setup.md#3`. White space, %
and # in a path are percent-encoded, for ids go into TREC runs. A file that cannot be read, or a page of one, is a line with a
reason; names that begin with a dot are passed over.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

from readqg.config import ImportSettings
from readqg.corpus.files import Line, file_format
from readqg.corpus.forms import Source
from readqg.corpus.markup import html, markdown, plain
from readqg.corpus.opening import looking_at, opened
from readqg.corpus.passages import TextDocument, passages
from readqg.corpus.pdf import BadPdfError, pdf
from readqg.errors import ConfigError, InputError
from readqg.places import Place, StorePath
from readqg.shards import fingerprint, sha256_file

MAX_FILE_BYTES = 64 << 20
_EXCERPT_CHARS = 200
_PARSERS: dict[str, Callable[[str], TextDocument]] = {
    ".txt": plain, ".text": plain, ".md": markdown, ".markdown": markdown, ".html": html, ".htm": html, ".xhtml": html,
}
TEXT_SUFFIXES = (*_PARSERS, ".pdf")
_LIBRARIES = {".pdf": "pypdf", ".html": "bs4", ".htm": "bs4", ".xhtml": "bs4", ".md": "markdown_it", ".markdown": "markdown_it"}
_DECLARED = re.compile(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w.:-]+)", re.IGNORECASE)


class _UnreadableError(ValueError):
    """Of a whole file; the message says why."""


@dataclass(frozen=True)
class TextFiles(Source):
    """A folder of text files, or one such file."""

    named: ClassVar[bool] = True
    of_files: ClassVar[bool] = True

    def lines(self, settings: ImportSettings) -> Iterator[Line]:
        """A line a passage: doc_id, title (and heading), text."""
        found = self.files()
        _check_libraries(found)
        for name, path in found:
            yield from _read(name, path, settings)

    def columns(self) -> list[str] | None:
        return None

    def fingerprint(self) -> str:
        with looking_at(self.path):
            return fingerprint({name: sha256_file(path) for name, path in self.files()})

    def changed_ns(self) -> int:
        return max((path.stat().st_mtime_ns for _, path in self.files()), default=0)

    def files(self) -> list[tuple[str, Place]]:
        """(name in the folder, path), in the order of the names."""
        return [(name, path) for name, path in listed(self.path) if file_format(path) in TEXT_SUFFIXES]

    def left_out(self) -> str:
        others = Counter(file_format(path) or "no suffix" for _, path in listed(self.path) if file_format(path) not in TEXT_SUFFIXES)
        kinds = ", ".join(f"{count:,} {suffix}" for suffix, count in others.most_common(5))
        return f"{others.total():,} files of other kinds are left out ({kinds})" if others else ""


def listed(folder: Place) -> list[tuple[str, Place]]:
    """(name in the folder, path) of every file under it, or of the one file that it is; none that a leading dot hides."""
    if folder.is_file():
        return [(folder.name, folder)]
    paths: list[Place] = list(folder.rglob("*")) if isinstance(folder, StorePath) else [p for p in folder.rglob("*") if p.is_file()]
    named = [(_name_in(folder, path), path) for path in paths]
    return sorted((name, path) for name, path in named if not any(part.startswith(".") for part in name.split("/")))


def _name_in(folder: Place, path: Place) -> str:
    return str(path).removeprefix(str(folder)).lstrip("/") if isinstance(path, StorePath) else path.relative_to(str(folder)).as_posix()


def _check_libraries(found: list[tuple[str, Place]]) -> None:
    """Raises `ConfigError` where a library that a file needs is not installed."""
    needed = {file_format(path): name for name, path in reversed(found)}
    absent = {_LIBRARIES[suffix]: name for suffix, name in needed.items() if suffix in _LIBRARIES and find_spec(_LIBRARIES[suffix]) is None}
    if absent:
        packages, name = ", ".join(sorted(absent)), next(iter(absent.values()))
        raise ConfigError(f"{name} cannot be read without a package that is not installed ({packages}): pip install 'readqg[files]'.")


def _read(name: str, path: Place, settings: ImportSettings) -> Iterator[Line]:
    try:
        document = _parsed(path)
    except (_UnreadableError, BadPdfError) as error:
        yield Line(0, None, str(error), file=name)
        return
    for page, reason in document.bad_pages:
        yield Line(0, None, reason, file=name, page=page)
    cut = settings.passage_words > 0 or (settings.passage_by_heading and len(document.sections) > 1)
    title = document.title or re.sub(r"[_\s]+", " ", path.name.removesuffix(".gz").rpartition(".")[0]).strip()
    number = 0
    for number, passage in enumerate(passages(document, settings), 1):
        doc_id = _identifier(name) + (f"#{number}" if cut else "")
        top = passage.title or title
        heading = f"{top}: {passage.heading}" if passage.heading not in ("", top) else top
        yield Line(number, {"doc_id": doc_id, "title": heading, "text": passage.text}, excerpt=passage.text[:_EXCERPT_CHARS], file=name)
    if not number and not document.bad_pages:
        yield Line(0, None, "holds no text", file=name)


def _identifier(name: str) -> str:
    """The name with what an id must not hold percent-encoded; bytes of no encoding, which Python has as surrogates, too."""
    return re.sub(r"[\s%#\x00-\x1f\ud800-\udfff]", lambda m: "".join(f"%{b:02X}" for b in m[0].encode("utf-8", "surrogateescape")), name)


def _parsed(path: Place) -> TextDocument:
    try:
        with opened(path) as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except InputError as error:
        raise _UnreadableError(str(error).removeprefix(f"{path}: ")) from None
    if len(raw) > MAX_FILE_BYTES:
        raise _UnreadableError(f"longer than {MAX_FILE_BYTES:,} bytes; split it")
    suffix = file_format(path)
    if suffix == ".pdf":
        return pdf(raw)
    text = _decoded(raw, _PARSERS[suffix] is html)
    try:
        return _PARSERS[suffix](text)
    except (RecursionError, ValueError) as error:
        raise _UnreadableError(f"cannot be parsed ({type(error).__name__}: {error})") from None


def _decoded(raw: bytes, is_html: bool) -> str:
    """UTF-8, UTF-16 with its mark, or, of HTML, what the page says of itself."""
    encodings = ["utf-16"] if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else ["utf-8-sig"]
    if is_html and (declared := _DECLARED.search(raw[:4096])):
        encodings.append(declared[1].decode("ascii", "replace"))
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except (UnicodeDecodeError, LookupError):
            continue
    raise _UnreadableError(f"not valid {' or '.join(e.upper().removesuffix('-SIG') for e in encodings)}; save it as UTF-8")
