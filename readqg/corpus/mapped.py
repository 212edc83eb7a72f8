"""Documents laid out for random access: one copy a machine and corpus, uncompressed, in the cache folder, memory-mapped.

A Parquet part is decoded whole for any one of its rows, so ids scattered over thousands of parts cost a minute a fetch. In the
copy a row costs a page fault, and resident memory is the page cache, which all workers of the machine share. A lock lets one process
make it while the others wait; the copy appears by a rename, so one that was killed is never used.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import uuid
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from platformdirs import user_cache_path

from readqg.places import readable
from readqg.shards import InputFolder
from readqg.shards.once import sync

log = logging.getLogger("readqg")

COLUMNS = ["doc_id", "title", "text"]
_LAYOUT = 1
_BATCH_BYTES = 64 << 20
_ROW_BYTES = 40  # offsets of the strings, twice for the id, and the id's place in the order
_ROWS, _IDS = "rows.arrow", "ids.arrow"


class MappedRows:
    """The copy, opened: `ids` in corpus order, `order` (rows sorted by id), and the rows in batches, batch n from `starts[n]`."""

    def __init__(self, path: Path) -> None:
        ids = pa.ipc.open_file(pa.memory_map(str(path / _IDS))).get_batch(0)
        self.ids: pa.Array = ids.column(0)
        self.order: np.ndarray = ids.column(1).to_numpy()
        rows = pa.ipc.open_file(pa.memory_map(str(path / _ROWS)))
        self._batches = [pa.Table.from_batches([rows.get_batch(n)]) for n in range(rows.num_record_batches)]
        self.starts = list(accumulate((batch.num_rows for batch in self._batches), initial=0))

    def read(self, batch: int) -> pa.Table:
        return self._batches[batch]


def found_copy(folder: InputFolder) -> MappedRows | None:
    """The copy on this machine; None where nobody has made one."""
    return _opened(folder) if _place(folder).is_dir() else None


def make_copy(folder: InputFolder) -> MappedRows | None:
    """The copy, made now if need be (or waited for, where another process makes it). None, with a line in the log, where the cache
    folder has no room for it or may not be written. Raises `FolderError` for a damaged part."""
    try:
        if not _place(folder).is_dir():
            _make_once(folder, _place(folder))
    except OSError as error:
        _say_without(folder, error)
        return None
    return _opened(folder)


def _opened(folder: InputFolder) -> MappedRows | None:
    try:
        os.utime(_place(folder))  # `readqg clean` leaves it for a day
        return MappedRows(_place(folder))
    except (OSError, pa.ArrowInvalid) as error:
        _say_without(folder, error)
        return None


def _say_without(folder: InputFolder, error: Exception) -> None:
    log.warning("%s: its %d parts are decoded whole for scattered documents, which is slow, because there is no copy for random access "
                "in %s: %s. XDG_CACHE_HOME names another place for it, on a disk of this machine.",
                folder.path, len(folder.parts), _place(folder), error)


def _place(folder: InputFolder) -> Path:
    return user_cache_path("readqg") / "documents" / f"{folder.fingerprint}-{_LAYOUT}"


def _make_once(folder: InputFolder, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # which a kill frees
        if target.is_dir():
            return
        for left in target.parent.glob(f".{target.name}.making-*"):  # by whoever was killed holding the lock
            shutil.rmtree(left, ignore_errors=True)
        _check_room(folder, target.parent)
        log.info("%s is laid out once for random access, in %s", folder.path, target)
        made = target.with_name(f".{target.name}.making-{uuid.uuid4().hex}")
        made.mkdir()
        try:
            _write(folder, made)
            os.replace(made, target)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        sync(target.parent)


def _check_room(folder: InputFolder, cache: Path) -> None:
    needed = folder.rows * _ROW_BYTES + sum(_uncompressed_bytes(pq.read_metadata(readable(part))) for part in folder.parts)
    free = shutil.disk_usage(cache).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB are free")


def _uncompressed_bytes(part: pq.FileMetaData) -> int:
    groups = (part.row_group(n) for n in range(part.num_row_groups))
    columns = (group.column(n) for group in groups for n in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema in COLUMNS)


def _write(folder: InputFolder, made: Path) -> None:
    ids: list[pa.Array] = []
    held: list[pa.Table] = []
    schema = folder.read_part(0, COLUMNS).schema
    with pa.OSFile(str(made / _ROWS), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for part in range(len(folder.parts)):
            held.append(folder.read_part(part, COLUMNS))
            ids.extend(held[-1]["doc_id"].chunks)
            if sum(table.nbytes for table in held) >= _BATCH_BYTES:
                writer.write_table(pa.concat_tables(held).combine_chunks())
                held = []
        if held:
            writer.write_table(pa.concat_tables(held).combine_chunks())
    found = pa.concat_arrays(ids)
    batch = pa.record_batch([found, pc.sort_indices(found)], names=["doc_id", "order"])
    with pa.OSFile(str(made / _IDS), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    for name in (_ROWS, _IDS):
        sync(made / name)
    sync(made)
