"""One driver at a time in a folder whose state two would spoil."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from readqg.errors import FolderError

log = logging.getLogger("readqg")

_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def alone(state: Path) -> Iterator[None]:
    """Holds a lock in `state`, which lies in an output folder. The system lets go of the lock of a driver that is killed.

    Raises `FolderError` where another command holds it."""
    lock = FileLock(state / "lock", timeout=0, fallback_to_soft=False)  # a soft one would outlast its driver
    try:
        lock.acquire()
    except Timeout:
        raise FolderError(f"{state.parent}: another command is at work in it. Wait for it, stop it, or give another --out.") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise FolderError(f"{state} cannot be locked: {error}") from error
        log.warning("%s is on a file system without locks: no second command may work in it meanwhile", state)
    try:
        yield
    finally:
        lock.release()
