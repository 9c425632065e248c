"""Finds picture files by paths, folders and glob patterns, and counts what a search of folders passes over."""

from __future__ import annotations

import glob
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from vgg_deploy.errors import UsageError
from vgg_deploy.install import install_command
from vgg_deploy.views.formats import (
    HEAD_BYTES,
    OTHER_SUFFIXES,
    PLUGIN_OF_SUFFIX,
    SUFFIXES,
    UNREAD_SUFFIXES,
    PluginFormat,
    format_of,
)

_SHOWN = 6  # endings that are named each; the others are counted together


class FolderSearch:
    """What searches of folders have found and passed over so far. Give one to several calls of `find_images`.

    Attributes:
        images: how many image files were found.
        passed_over: how many other files were found, by kind, such as ".txt", "without ending" or "hidden .jpg".
        unread: how many pictures of a kind that is not read at all were passed over, by ending.
        plugins: how many of `images` need a package of their own, which may be installed or not.
    """

    def __init__(self) -> None:
        self.images = 0
        self.passed_over: Counter[str] = Counter()
        self.unread: Counter[str] = Counter()
        self.plugins: Counter[PluginFormat] = Counter()

    def summary(self) -> str | None:
        """One line for the user. None if there is nothing to say: all files are images that can be read."""
        parts = []
        if missing := Counter({plugin: count for plugin, count in self.plugins.items() if not plugin.installed}):
            kinds = ", ".join(f"{count:,} {plugin.name}" for plugin, count in missing.items())
            remedy = install_command(*(plugin.extra for plugin in missing))
            parts.append(f"{kinds} cannot be read yet: {remedy}")
        parts += self._others()
        if not parts:
            return None
        return f"found {self.images:,} {'image' if self.images == 1 else 'images'}; {'; '.join(parts)}"

    def _others(self) -> list[str]:
        parts = []
        if self.passed_over:
            parts.append(f"passed over {_named(self.passed_over)}")
        if self.unread:
            parts.append(f"cannot read {_named(self.unread)}: convert them to JPEG, PNG or TIFF")
        return parts

    def refusal(self, folder: Path) -> str:
        """Why a folder in which this search found no image is refused."""
        endings = ", ".join(sorted(SUFFIXES | set(PLUGIN_OF_SUFFIX)))
        here = "; ".join(self._others())
        return f"{folder}: no image in this folder or below it{f' ({here})' if here else ''}; images end in {endings}"

    def add(self, other: FolderSearch) -> None:
        """Adds the counts of another search."""
        self.images += other.images
        self.passed_over += other.passed_over
        self.unread += other.unread
        self.plugins += other.plugins

    def takes(self, folder: str, name: str) -> bool:
        """Counts a file, and says whether it is an image.

        A file is opened only if its ending is missing or unknown. Its first bytes then decide.
        """
        suffix = Path(name).suffix.lower()
        if name.startswith("."):
            self.passed_over[f"hidden {suffix}" if suffix else name] += 1
            return False
        if suffix in UNREAD_SUFFIXES:
            self.unread[suffix] += 1
            return False
        kind: str | PluginFormat | None = suffix if suffix in SUFFIXES else PLUGIN_OF_SUFFIX.get(suffix)
        if kind is None and suffix not in OTHER_SUFFIXES:
            kind = _kind_by_content(os.path.join(folder, name))  # noqa: PTH118
        if kind is None:
            self.passed_over[suffix or "without ending"] += 1
            return False
        self.images += 1
        if isinstance(kind, PluginFormat):
            self.plugins[kind] += 1
        return True


def _named(counts: Counter[str]) -> str:
    """ "3 .txt, 1 .csv", the most frequent first."""
    shown = [f"{count:,} {kind}" for kind, count in counts.most_common(_SHOWN)]
    rest = counts.total() - sum(count for _, count in counts.most_common(_SHOWN))
    return ", ".join(shown) + (f" and {rest:,} {'other' if rest == 1 else 'others'}" if rest else "")


def _kind_by_content(path: str) -> str | PluginFormat | None:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 - opening a named pipe would wait for its writer
            return None
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return format_of(file.read(HEAD_BYTES))
    except OSError:
        return None


def find_images(paths: Iterable[str], search: FolderSearch | None = None) -> Iterator[Path]:
    """Image files named by paths, folders and glob patterns, in the order given.

    A file that is named is passed on whatever its ending. Folders are searched recursively, in sorted order, for files
    with an image's ending, and for files with a missing or unknown ending whose first bytes are those of an image.
    Hidden files and folders are skipped.

    Args:
        paths: files, folders and patterns.
        search: counts the files of the folders. Complete when the last path was yielded.

    Raises:
        UsageError: a path does not exist, a pattern matches nothing, or a folder has no image or cannot be searched.
    """
    search = FolderSearch() if search is None else search
    for text in paths:
        if not text:
            raise UsageError("an image path is empty; name a file, a folder or a pattern")
        path = Path(text)
        if path.is_dir():
            yield from _images_under(path, search)
        elif path.exists() or path.is_symlink():
            yield path
        elif glob.has_magic(text):
            matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - of a whole pattern
            if not matches:
                raise UsageError(f"{text}: no file matches this pattern")
            for match in matches:
                if Path(match).is_dir():
                    yield from _images_under(Path(match), search)
                else:
                    yield Path(match)
        else:
            raise UsageError(f"{text}: no such file or folder")


def _images_under(folder: Path, search: FolderSearch) -> Iterator[Path]:
    """Follows links to folders, but searches each folder once, so a cycle of links does no harm."""

    def refuse(error: OSError) -> None:
        raise UsageError(f"{error.filename}: this folder cannot be searched ({error.strerror})") from error

    here, seen = FolderSearch(), set()
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen and status.st_ino:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if here.takes(root, name):
                yield Path(root) / name
    if not here.images:
        raise UsageError(here.refusal(folder))
    search.add(here)
