"""A lock on the folder of a run. It ends with the process that holds it, however that process ends."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"


class Lock:
    """Locks a folder from the construction of this object on.

    It is a record lock (lockf), which data workers do not inherit; they outlive a killed training by seconds. Windows
    and some network file systems have no such locks. There, nothing prevents two trainings of one run.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the lock file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        if sys.platform != "win32":
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    os.close(self._file)
                    raise BlockingIOError(str(error)) from error

    def release(self) -> None:
        """Unlocks the folder and removes the lock file."""
        if sys.platform != "win32":
            self._path.unlink(missing_ok=True)
        os.close(self._file)
