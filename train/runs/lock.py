"""A lock on the folder of a run, which ends with the process that holds it, however that ends."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

LOCK = ".lock"


class Lock:
    """Taken when it is made.

    Its file is locked by record (lockf): the data workers, which outlive a killed trainer for seconds, do not inherit that.
    Windows and some network file systems have no such locks; there, two trainings of one run are not kept apart.

    Raises:
        BlockingIOError: another process holds it.
        OSError: its file cannot be made.
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
        """Gives it up and removes its file."""
        if sys.platform != "win32":
            self._path.unlink(missing_ok=True)
        os.close(self._file)
