"""A file of posteriors, so that no image is scored twice. It survives an interruption at any moment."""

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
from vgg_deploy.inference.context_managed import ContextManaged
from vgg_deploy.network.tensors import Floats

_APPLICATION = 0x76676764  # "vggd", in the header of a SQLite file
_VERSION = 2  # of the table and the keys; the keys of version 1 changed with the code
_TABLE = """CREATE TABLE IF NOT EXISTS posteriors (
    engine TEXT NOT NULL, protocol TEXT NOT NULL, image TEXT NOT NULL,
    probabilities BLOB NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (engine, protocol, image)
) WITHOUT ROWID"""
# A commit waits for the disk: we measured 14 ms. One commit per image would slow down a fast engine.
_FLUSH_S = 1.0

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class CachedPosterior:
    """An image's posteriors, float32 [classes], and the seconds that they took to compute."""

    probabilities: Floats
    seconds: float


class PosteriorCache(ContextManaged):
    """A SQLite file of posteriors by engine, protocol and image.

    Posteriors are written together, about once a second and on `close`. See `vgg_deploy.evaluation.cache_key` for keys.

    Args:
        path: the file; it is created if it does not exist.

    Raises:
        OutputError: the file cannot be written, is not a cache, or is a cache of another version.
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
        """Accepts an empty file or a cache. Writes to it at once, to find out now whether that is possible."""
        (application,) = self._file.execute("PRAGMA application_id").fetchone()
        (version,) = self._file.execute("PRAGMA user_version").fetchone()
        (tables,) = self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == _APPLICATION and version != _VERSION:
            raise OutputError(
                f"{self._path} is a cache of version {version}, but this vgg-deploy uses version {_VERSION}: "
                "delete it, or name another file"
            )
        if application != _APPLICATION and (application or version or tables):
            raise OutputError(f"{self._path} is a database of another program; name another file for the cache")
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
            if self._file.in_transaction:  # if the disk is full, SQLite itself has ended it
                self._file.execute("ROLLBACK")
            raise
        self._file.execute("COMMIT")

    def fingerprint(self, image: Path) -> str | None:
        """SHA-256 of an image file's bytes, computed once; None if the file cannot be read."""
        if image not in self._images:
            try:
                self._images[image] = sha256_of(image) if image.is_file() else None
            except OSError:
                self._images[image] = None
        return self._images[image]

    def get(self, engine: str, protocol: str, image: str) -> CachedPosterior | None:
        """The entry under this key; None if there is none.

        Raises:
            OutputError: the file is damaged.
        """
        row = self._waiting.get((engine, protocol, image))
        if row is None:
            try:
                row = self._file.execute(
                    "SELECT probabilities, seconds FROM posteriors WHERE engine = ? AND protocol = ? AND image = ?",
                    (engine, protocol, image),
                ).fetchone()
            except sqlite3.Error as error:
                raise OutputError(f"{self._path} cannot be read as a cache: {error}; name another file") from error
        if row is None or len(row[0]) % 4:  # not float32 values
            return None
        return CachedPosterior(np.frombuffer(row[0], "<f4").astype(np.float32), row[1])

    def put(self, engine: str, protocol: str, image: str, probabilities: Floats, seconds: float) -> None:
        """Stores an image's posteriors, and the seconds that they took.

        Args:
            engine, protocol: see `vgg_deploy.evaluation.cache_key`.
            image: see `fingerprint`.
            probabilities, seconds: see `CachedPosterior`.

        Raises:
            OutputError: the file cannot be written.
        """
        self._waiting[engine, protocol, image] = probabilities.astype("<f4").tobytes(), seconds
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
