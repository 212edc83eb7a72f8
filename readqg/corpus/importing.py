"""Import: raw files in any known format become the canonical folders OUT/documents, OUT/queries and OUT/judgments.

Two passes over each file. The first reads every row, sets the bad ones aside in OUT/_rejected.jsonl and counts the good ones:
the number of shards is part of every shard's name, and a source that is mostly bad should fail before anything is written.
The second writes the shards that are not there yet. Memory holds one shard and the ids (about 200 bytes a document), never
the corpus. Text files, slow to parse, are parsed once: the first pass keeps their passages in a temporary file for the second.
"""

from __future__ import annotations

import itertools
import json
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

import pyarrow as pa

from readqg.config import ImportConfig, identity
from readqg.corpus.files import Line
from readqg.corpus.naming import title_hint
from readqg.corpus.rows import FEW_BAD, SCHEMAS, RowReader, allowed_bad, enough_share
from readqg.corpus.sources import Source, import_sources
from readqg.errors import FolderError, InputError
from readqg.places import Place, place_of
from readqg.shards import OutputFolder, appearing, explained, write_whole
from readqg.stage import ShardResult

log = logging.getLogger("readqg")
_EXAMPLES = 3
_LIMITS = ("max_rejected_share", "max_rejected_file_share")


@dataclass
class ImportSummary:
    """What an import found. Counts are of rows kept, unless said."""

    out: str
    rows: dict[str, int] = field(default_factory=dict)
    """Kind (documents, queries, judgments) -> rows."""
    rejected: dict[str, int] = field(default_factory=dict)
    """Kind -> lines (of text files: files and pages) set aside in `_rejected.jsonl`."""
    text_files: int = 0
    """Files that the documents were cut from, where they were."""
    empty_documents: int = 0
    titled_documents: int = 0
    cut_texts: int = 0
    mended_texts: int = 0
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Flat and plain: documents, queries and judgments are rows kept, `rejected` the lines of all files."""
        facts = {name: value for name, value in asdict(self).items() if name not in ("rows", "rejected")}
        return {**self.rows, "rejected": sum(self.rejected.values()), **facts}


def import_corpus(config: ImportConfig) -> ImportSummary:
    """Import `config.source` into `config.out`; the same call again goes on where an earlier one stopped.

    Raises `InputError` where the source cannot be read, holds no document, or more of a file's lines than `max_rejected_share` lets pass
    are bad; `FolderError` where `out` was begun with something else or cannot be written."""
    sources = import_sources(config.source, config.kind, config.split, config.dataset_split)
    out = place_of(config.out)
    with explained(f"making {out}"):
        out.mkdir(parents=True, exist_ok=True)
    _refuse_leftovers(out, sources)
    fingerprints = {source.kind: source.fingerprint() for source in sources}
    begun = [_begin(config, s, fingerprints[s.kind]) for s in sources if (out / s.kind / "_config.json").exists()]
    summary_file = out / "_import.json"
    if len(begun) == len(sources) and all(folder.done for folder in begun) and summary_file.exists():
        return ImportSummary(**json.loads(summary_file.read_text()))
    with ExitStack() as files:
        scans = [_Scan(source, RowReader(source, config), _spool(source, files)) for source in sources]
        summary = _scan_all(config, scans, out)
        for scan in scans:
            _write(_begin(config, scan.source, fingerprints[scan.source.kind]), scan, config)
    write_whole(summary_file, json.dumps(asdict(summary), indent=1))
    return summary


def _begin(config: ImportConfig, source: Source, content: str) -> OutputFolder:
    settings = {name: value for name, value in identity(config).items() if name not in _LIMITS}
    return OutputFolder.begin(place_of(config.out) / source.kind, "import", settings, {"source": content})


def _refuse_leftovers(out: Place, sources: list[Source]) -> None:
    """Judgments of another corpus must not lie beside this one's documents."""
    for kind in SCHEMAS:
        if (out / kind).exists() and kind not in [source.kind for source in sources]:
            raise FolderError(f"{out} holds {kind} of another import, and this source has none. Give another --out, or delete "
                              f"{out / kind}. (A folder with corpus.*, queries.* and qrels/ is imported in one go.)")


@dataclass
class _Scan:
    source: Source
    reader: RowReader
    spool: TextIO | None
    """Where the good rows are kept, a JSON line each, if they are."""
    lines: int = 0
    """Of text files: files."""
    rejected: int = 0
    bad_pages: int = 0
    examples: list[str] = field(default_factory=list)
    _file: str = ""

    @property
    def unit(self) -> str:
        return "files" if self.source.of_files else "lines"

    @property
    def found_bad(self) -> str:
        """`3 of 200 files`."""
        pages = f" (and {self.bad_pages:,} pages of others)" if self.bad_pages else ""
        return f"{self.rejected - self.bad_pages:,} of {self.lines:,} {self.unit}{pages}"

    def look(self, rejects: TextIO) -> None:
        """Read all rows: count them, set bad ones aside."""
        log.info("Reading %s (%s): counting and checking", self.source.path, self.source.kind)
        for line, row in self.reader.read():
            self.lines += not self.source.of_files or line.file != self._file
            self._file = line.file
            if row is None:
                self._refuse(line, rejects)
            elif self.spool is not None:
                self.spool.write(json.dumps(row) + "\n")

    def _refuse(self, line: Line, rejects: TextIO) -> None:
        self.rejected += 1
        self.bad_pages += line.page > 0
        if len(self.examples) < _EXAMPLES:
            self.examples.append(f"{line.where}: {line.reason}")
        file = str(self.source.path / line.file) if line.file and line.file != self.source.path.name else str(self.source.path)
        row = {"file": file, "line": line.number, "reason": line.reason, "excerpt": line.excerpt}
        if line.file and not line.number:  # of a whole file
            del row["line"]
        rejects.write(json.dumps(row | ({"page": line.page} if line.page else {}), ensure_ascii=False) + "\n")

    def good_rows(self, config: ImportConfig) -> Iterator[dict[str, Any]]:
        """The canonical rows, once more."""
        if self.spool is None:
            return (row for _, row in RowReader(self.source, config).read() if row is not None)
        self.spool.seek(0)
        return map(json.loads, self.spool)


def _spool(source: Source, files: ExitStack) -> TextIO | None:
    return files.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) if source.of_files else None


def _scan_all(config: ImportConfig, scans: list[_Scan], out: Place) -> ImportSummary:
    rejects_file = out / "_rejected.jsonl"
    with appearing(rejects_file) as partial, partial.open("w", encoding="utf-8", errors="backslashreplace") as rejects:
        for scan in scans:
            scan.look(rejects)
    if not any(scan.rejected for scan in scans):
        rejects_file.unlink()
    for scan in scans:
        _judge(scan, config, rejects_file)
    summary = ImportSummary(str(out))
    for scan in scans:
        _add(summary, scan, config, rejects_file)
    summary.warnings += _strangers({scan.source.kind: scan for scan in scans})
    for warning in summary.warnings:
        log.warning(warning)
    return summary


def _judge(scan: _Scan, config: ImportConfig, rejects_file: Place) -> None:
    """Raises `InputError` where nothing good can come of this file."""
    path, kind, notes = scan.source.path, scan.source.kind, scan.reader.notes
    flag = "max_rejected_file_share" if scan.source.of_files else "max_rejected_share"
    bad = scan.rejected - scan.bad_pages
    allowed = allowed_bad(getattr(config, flag), scan.lines, 0 if scan.source.of_files or kind == "judgments" else FEW_BAD)
    if bad > allowed:
        cure = "Mend them" if scan.source.named else "Mend them, name the right fields"
        flag = flag.replace("_", "-")
        raise InputError(
            f"{path}: {scan.found_bad} cannot be used; {allowed:,} may be bad:\n"
            + "\n".join(f"  {example}" for example in scan.examples)
            + f"\nAll of them are in {rejects_file}. {cure}, or allow them: --{flag} {enough_share(bad, scan.lines):g} "
            f"(in `readqg run`: --documents.{flag}).")
    if kind == "documents" and not notes.rows:
        raise InputError(f"{path} holds no document. " + ("The file is empty." if not scan.lines else f"All its {scan.unit} are bad."))
    if kind == "documents" and len(notes.empty) == notes.rows:
        raise InputError(f"{path}: none of its {notes.rows:,} documents has any text in {config.title_field!r} or "
                         f"{config.text_field!r}. Name the right fields with --title-field and --text-field.")


def _add(summary: ImportSummary, scan: _Scan, config: ImportConfig, rejects_file: Place) -> None:
    """Counts and warnings of one file."""
    kind, notes, name = scan.source.kind, scan.reader.notes, scan.source.path.name
    summary.rows[kind], summary.rejected[kind] = notes.rows, scan.rejected
    summary.cut_texts += len(notes.cut)
    summary.mended_texts += len(notes.mended)
    say = summary.warnings.append
    if scan.rejected:
        more = "; ..." if scan.rejected > len(scan.examples) else ""
        say(f"{name}: {scan.found_bad} cannot be used and are in {rejects_file}: {'; '.join(scan.examples)}{more}")
    if left_out := scan.source.left_out():
        say(f"{name}: {left_out}.")
    if not notes.rows:
        say(f"{name} is empty: there are no {kind}.")
    if notes.empty:
        say(f"{name}: {len(notes.empty):,} {kind} with no text are kept: {_some(notes.empty)}.")
    if notes.cut:
        say(f"{name}: {len(notes.cut):,} texts are cut at {config.max_text_chars:,} characters: {_some(notes.cut)}.")
    if notes.mended:
        say(f"{name}: {len(notes.mended):,} texts held NUL (removed) or half a surrogate pair (U+FFFD): {_some(notes.mended)}.")
    if kind == "documents":
        summary.empty_documents, summary.titled_documents = len(notes.empty), notes.titled
        summary.text_files = scan.lines if scan.source.of_files else 0
        if not notes.titled:
            say(f"{name}: no document has a title (field {config.title_field!r}){title_hint(config.title_field, scan.source.columns())}.")


def _strangers(scans: dict[str, _Scan]) -> list[str]:
    """Judgments that name documents or queries which are not there: their rows are kept, for measures count them."""
    if "judgments" not in scans:
        return []
    warnings = []
    judged = scans["judgments"]
    for kind, position in (("documents", 1), ("queries", 0)):
        if kind not in scans:
            continue
        unknown = [pair for pair in judged.reader.ids if pair[position] not in scans[kind].reader.ids]
        if unknown:
            names, file = len({pair[position] for pair in unknown}), scans[kind].source.path.name
            warnings.append(f"{judged.source.path.name}: {len(unknown):,} judgments name {names:,} {kind} not in {file}; "
                            f"they are kept. First: query {unknown[0][0]}, document {unknown[0][1]}.")
    return warnings


def _some(ids: list[str]) -> str:
    return ", ".join(ids[:_EXAMPLES]) + (", ..." if len(ids) > _EXAMPLES else "")


def _write(folder: OutputFolder, scan: _Scan, config: ImportConfig) -> None:
    """Commit the shards that are not there, `shard_rows` rows each; at least one, so that an empty folder has a schema."""
    total = max(1, -(-scan.reader.notes.rows // config.shard_rows))
    missing = set(folder.missing(total))
    log.info("Writing %s: %d of %d shards to do", folder.path, len(missing), total)
    start = time.monotonic()
    for index, shard in enumerate(_shards(scan, config, missing, total)):
        if index in missing:
            folder.commit(index, total, _result(shard, scan.source), seconds=time.monotonic() - start)
        start = time.monotonic()
    folder.finish(total)


def _shards(scan: _Scan, config: ImportConfig, missing: set[int], total: int) -> Iterator[list[dict[str, Any]]]:
    """The rows of every shard in order; an empty list for those that are not missing."""
    if not missing:
        return
    good = scan.good_rows(config)
    for index in range(total):
        shard = list(itertools.islice(good, config.shard_rows))
        yield shard if index in missing else []


def _result(shard: list[dict[str, Any]], source: Source) -> ShardResult:
    schema = SCHEMAS[source.kind]
    names = [name for name in schema.names if name.endswith("_id")]
    ends = ["/".join(row[name] for name in names) for row in (shard[:1] + shard[-1:])] or ["", ""]
    table = pa.Table.from_pylist(shard, schema)
    return ShardResult(table, inputs=len(shard), errors=0, nothing=0, first_id=ends[0], last_id=ends[1])
