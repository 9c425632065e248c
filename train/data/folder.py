"""A data folder: DIR/train/CLASS/* and DIR/val/CLASS/*."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vgg_deploy.errors import UsageError
from vgg_deploy.network.classes import ClassName
from vgg_deploy.views.search import FolderSearch, find_images


@dataclass(frozen=True, slots=True)
class ImageSet:
    """One split of a data folder.

    Attributes:
        paths: bytes [n], in the file system's encoding. Not a list: changing reference counts would copy a list of a
            million paths into every worker.
        targets: int64 [n], the class of each image, as an index into `DataFolder.classes`.
    """

    paths: npt.NDArray[np.bytes_]
    targets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        return Path(os.fsdecode(self.paths[index]))

    @property
    def largest_share(self) -> float:
        """The fraction of images in the largest class: the top-1 of a network that always answers this class."""
        return float(np.bincount(self.targets).max() / len(self))


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The classes, sorted by id, and the images of both splits.

    Attributes:
        fingerprint: SHA-256 of the images' paths within the folder and their sizes in bytes, in hexadecimal. A copy of
            the folder has the same fingerprint. Reading every byte of a large set would take longer than an epoch.
        notice: a line that says which other files the class folders hold, or None. See
            `vgg_deploy.views.search.FolderSearch`.
    """

    classes: tuple[ClassName, ...]
    train: ImageSet
    val: ImageSet
    fingerprint: str
    notice: str | None = None


def read_folder(folder: Path) -> DataFolder:
    """Lists a data folder. Hidden files and folders are skipped.

    Raises:
        UsageError: train/ or val/ is missing, has fewer than two class folders or one without images, or their classes
            differ.
    """
    ids = class_ids(folder)
    search = FolderSearch()
    train, val = (_image_set(folder / split, ids, search) for split in ("train", "val"))
    classes = tuple(class_name(name) for name in ids)
    return DataFolder(classes, train, val, _fingerprint(folder, train.paths, val.paths), search.summary())


def class_ids(folder: Path) -> list[str]:
    """The names of a data folder's class folders, sorted. Lists no images.

    Raises:
        UsageError: see `read_folder`.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; {LAYOUT}")
    ids = {split: _class_ids(folder, split) for split in ("train", "val")}
    if ids["train"] != ids["val"]:
        differences = [
            f"only {here}/ has {_few(sorted(set(ids[here]) - set(ids[there])))}"
            for here, there in (("train", "val"), ("val", "train"))
            if set(ids[here]) - set(ids[there])
        ]
        raise UsageError(f"{folder}: train/ and val/ must have the same class folders, but {' and '.join(differences)}")
    if len(ids["train"]) == 1:
        raise UsageError(f"{folder}/train has only one class, {ids['train'][0]!r}; expected at least two")
    return ids["train"]


LAYOUT = "expected a folder of images for each class, in train/ and in val/"


def class_name(folder: str) -> ClassName:
    """A class from its folder's name.

    n01440764_great_white_shark has the label "great white shark". Other names are their own labels.
    """
    word_net = re.fullmatch(r"n\d{8}_(.+)", folder)
    return ClassName(folder, word_net[1].replace("_", " ") if word_net else folder)


def _class_ids(folder: Path, split: str) -> list[str]:
    here = folder / split
    if not here.is_dir():
        raise UsageError(f"{folder} has no folder {split}/ (it has {_contents(folder)}); {LAYOUT}")
    ids = sorted(entry.name for entry in here.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not ids:
        raise UsageError(f"{here} has no class folders (it has {_contents(here)}); {LAYOUT}")
    return ids


def _contents(folder: Path) -> str:
    return _few(sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))) or "nothing"


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4:,} more" if len(names) > 4 else "")


def _image_set(folder: Path, ids: list[str], search: FolderSearch) -> ImageSet:
    paths: list[bytes] = []
    targets: list[int] = []
    for target, name in enumerate(ids):
        paths.extend(os.fsencode(path) for path in find_images([str(folder / name)], search))
        targets.extend([target] * (len(paths) - len(targets)))
    return ImageSet(np.array(paths, dtype=np.bytes_), np.array(targets, dtype=np.int64))


def _fingerprint(folder: Path, *paths: npt.NDArray[np.bytes_]) -> str:
    digest, root = hashlib.sha256(), os.fsencode(folder)
    for split in paths:
        for path in split.tolist():
            try:
                size = os.stat(path).st_size  # noqa: PTH116 - called a million times, and takes bytes
            except OSError:
                size = -1  # a broken link: decoding it fails with a message
            digest.update(b"%s\0%d\n" % (os.path.relpath(path, root), size))
    return digest.hexdigest()
