"""How a file appears in a folder under its final name once: on a file system by a hard link, in a store by creating the object on
condition that its name is absent. Before a store is written to, a race proves that it keeps to that condition."""

from __future__ import annotations

import os
import threading
import uuid
from pathlib import Path

from readqg.errors import FolderError, ReadQGError
from readqg.places import Place, StorePath

_RACES = 3
_PROVEN: set[StorePath] = set()
_RACE_WITHIN_S = 120.0


def appear_once(made: Path, target: Place) -> bool:
    """True where `target` did not exist and is now what was `made`; on a file system the folder's entry is synced."""
    if isinstance(target, StorePath):
        return target.create(made)
    try:
        os.link(made, target)
    except FileExistsError:
        return False
    sync(target.parent)
    return True


def sync(path: Path) -> None:
    """Have the system write a file, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def prove(folder: StorePath) -> None:
    """Two writers race for one name in `folder`, a few times, and a third comes late: each time one of the two must win, and what
    lies there must be its own. Once a process and bucket. Raises `FolderError` where the store does not keep to that, does not
    answer, or may not be written."""
    if folder.bucket in _PROVEN:
        return
    for _ in range(_RACES):
        probe = folder / f"_probe-{uuid.uuid4().hex}"
        try:
            winners = _race(probe)
            late = probe.create(b"late")
            if late or len(winners) != 1 or probe.read_bytes() != winners[0]:
                raise FolderError(
                    f"{folder}: this store does not keep to conditional creates: {len(winners)} of two writers at once were told that "
                    f"they had made the same object, and one that came later {'was too' if late else 'was not'}. Two workers could "
                    "overwrite each other's parts. Use S3, Google Cloud Storage, a store that honours If-None-Match (MinIO, Ceph and "
                    "others do in their newer releases), or a file system that all nodes share.")
        except FileNotFoundError as error:
            raise FolderError(f"{folder.bucket}: there is no such bucket ({error}). Make it first, or mend the name.") from error
        finally:
            probe.unlink(missing_ok=True)
    _PROVEN.add(folder.bucket)


def _race(probe: StorePath) -> list[bytes]:
    """What those have written who were told that they had won."""
    start, won, failed = threading.Barrier(2), [], []

    def write(content: bytes) -> None:
        start.wait(_RACE_WITHIN_S)
        try:
            if probe.create(content):
                won.append(content)
        except (ReadQGError, OSError) as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in (b"one", b"two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return won
