"""Writing files so that they appear whole or not at all, and fingerprints of files."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vgg_deploy.errors import OutputError


def describe_os_error(error: OSError) -> str:
    """The reason of an OSError as text, without its number and path."""
    if error.errno == errno.ENOSPC:
        return "the disk is full"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "no permission to write there"
    return error.strerror or str(error)


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Translates an OSError while writing `path` into an OutputError of one line. Lets a BrokenPipeError through."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {path}: {describe_os_error(error)}") from error


def make_folder(path: Path) -> None:
    """Makes a folder and its missing parents.

    Raises:
        OSError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, f"{path} is a file, not a folder") from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; renames it to `path` when the block ends without an error.

    Makes missing parent folders. If anything stops the block, Ctrl-C included, the temporary file is removed and an
    older file at `path` stays as it was.

    Raises:
        OutputError: the folder is read-only, the disk is full, or `path` is a folder.
    """
    temporary = _temporary(path)
    with output_errors(path):
        _refuse_special_file(path)
        make_folder(path.parent)
        try:
            temporary.touch()
            mode = temporary.stat().st_mode
            yield temporary
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            # Some writers, such as safetensors, replace it by a file that other users may not read.
            temporary.chmod(mode)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Raises the OutputError that `whole_file` would raise, but before any work is done."""
    temporary = _temporary(path)
    with output_errors(path):
        _refuse_special_file(path)
        make_folder(path.parent)
        temporary.touch()
        temporary.unlink()


def _temporary(path: Path) -> Path:
    return path.parent / f".{uuid.uuid4().hex}.partial"  # short, however long the name of `path` is


def _refuse_special_file(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, "it is a folder; name a file")
    if path.exists() and not path.is_file():  # as root, a rename over /dev/null would replace it
        raise OSError(errno.EINVAL, "it is a device or a pipe; name a file")


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    import hashlib  # slow: it loads OpenSSL

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Source:
    """The file from which another was made: its name and the SHA-256 of its bytes."""

    name: str
    sha256: str

    @staticmethod
    def of(path: Path) -> Source:
        """From an existing file."""
        return Source(path.name, sha256_of(path))
