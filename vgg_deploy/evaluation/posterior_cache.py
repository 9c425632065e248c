"""Posteriors that are known already, in a file that survives an interruption at any moment."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vgg_deploy.errors import OutputError
from vgg_deploy.files import make_folder, output_errors, sha256_of
from vgg_deploy.inference.engine import ContextManaged
from vgg_deploy.network.tensors import Floats

_APPLICATION, _VERSION = 0x76676764, 1  # "vggd" in a SQLite file's header, and the format of the table
_TABLE = """CREATE TABLE IF NOT EXISTS posteriors (
    model TEXT NOT NULL, protocol TEXT NOT NULL, image TEXT NOT NULL, probabilities BLOB NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (model, protocol, image)
) WITHOUT ROWID"""
# A commit waits for the disk, 14 ms here: once for each image it would be most of a fast engine's time.
_FLUSH_S = 1.0

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Known:
    """An image's answer: float32 [classes], and the seconds that it took when it was computed."""

    probabilities: Floats
    seconds: float


class PosteriorCache(ContextManaged):
    """A SQLite file of posteriors by model, protocol and image. What was put is in it after a second, and after `close`.

    Args:
        path: the file; made where there is none.

    Raises:
        OutputError: it cannot be written, or is no cache.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: dict[_Key, tuple[bytes, float]] = {}
        self._flushed = time.monotonic()
        self._images: dict[Path, str | None] = {}
        with output_errors(path):
            make_folder(path.parent)
        try:
            self._file = sqlite3.connect(path, isolation_level=None)
        except sqlite3.Error as error:
            raise OutputError(f"{path} cannot be used as a cache: {error}; name another file") from error
        try:
            self._claim()
        except sqlite3.Error as error:
            self._file.close()
            raise OutputError(f"{path} cannot be used as a cache: {error}; name another file") from error
        except OutputError:
            self._file.close()
            raise

    def _claim(self) -> None:
        """Takes an empty file, or one of ours; writes to it, so that one which cannot be written is noticed now."""
        (application,) = self._file.execute("PRAGMA application_id").fetchone()
        (version,) = self._file.execute("PRAGMA user_version").fetchone()
        (tables,) = self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if (application, version) != (_APPLICATION, _VERSION) and (application or version or tables):
            what = f"of version {version}" if application == _APPLICATION else "of another program"
            raise OutputError(f"{self._path} cannot be used as a cache: it is a database {what}; name another file")
        with self._transaction():
            self._file.execute(f"PRAGMA application_id = {_APPLICATION}")
            self._file.execute(f"PRAGMA user_version = {_VERSION}")
            self._file.execute(_TABLE)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._file.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._file.in_transaction:  # SQLite has ended it itself where the disk is full
                self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    def fingerprint(self, image: Path) -> str | None:
        """SHA-256 of an image file's bytes, computed once; None where it cannot be read."""
        if image not in self._images:
            try:
                self._images[image] = sha256_of(image) if image.is_file() else None
            except OSError:
                self._images[image] = None
        return self._images[image]

    def get(self, model: str, protocol: str, image: str) -> Known | None:
        """What was put. Each argument is a fingerprint: what it stands for never changes.

        Raises:
            OutputError: the file is damaged.
        """
        found = self._waiting.get((model, protocol, image))
        if found is None:
            try:
                found = self._file.execute(
                    "SELECT probabilities, seconds FROM posteriors WHERE model = ? AND protocol = ? AND image = ?",
                    (model, protocol, image),
                ).fetchone()
            except sqlite3.Error as error:
                raise OutputError(f"{self._path} cannot be read as a cache: {error}; name another file") from error
        if found is None or len(found[0]) % 4:
            return None
        return Known(np.frombuffer(found[0], "<f4").astype(np.float32), found[1])

    def put(self, model: str, protocol: str, image: str, probabilities: Floats, seconds: float) -> None:
        """Keeps float32 [classes] and what they cost.

        Raises:
            OutputError: the file cannot be written.
        """
        self._waiting[model, protocol, image] = probabilities.astype("<f4").tobytes(), seconds
        if time.monotonic() - self._flushed >= _FLUSH_S:
            self._flush()

    def _flush(self) -> None:
        rows = [(*key, *value) for key, value in self._waiting.items()]
        try:
            with self._transaction():
                self._file.executemany("INSERT OR REPLACE INTO posteriors VALUES (?, ?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise OutputError(f"cannot write {self._path}: {error}") from error
        self._waiting.clear()
        self._flushed = time.monotonic()

    def close(self) -> None:
        try:
            if self._waiting:
                self._flush()
        finally:
            self._waiting.clear()
            self._file.close()
