"""The data folder, DIR/train/CLASS/* and DIR/val/CLASS/*, as classes and images."""

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
from vgg_deploy.views.images import find_images


@dataclass(frozen=True, slots=True)
class ImageSet:
    """One split of a data folder.

    Attributes:
        paths: bytes [n], of the file system's encoding. An array, since a list of a million paths would be copied into every
            worker as their reference counts change.
        targets: int64 [n], the class of each, as an index of `DataFolder.classes`.
    """

    paths: npt.NDArray[np.bytes_]
    targets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, index: int) -> Path:
        return Path(os.fsdecode(self.paths[index]))

    @property
    def largest_share(self) -> float:
        """Fraction of the images that are of the largest class: the top-1 of one who always answers it."""
        return float(np.bincount(self.targets).max() / len(self))


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Classes, sorted by id, and the images of both splits.

    Attributes:
        fingerprint: SHA-256 of the images' paths within the folder and their sizes in bytes, in hexadecimal. The same for a
            copy elsewhere; reading every byte of a large set would take longer than an epoch.
    """

    classes: tuple[ClassName, ...]
    train: ImageSet
    val: ImageSet
    fingerprint: str


def read_folder(folder: Path) -> DataFolder:
    """Lists a data folder: folder/train/CLASS/* and folder/val/CLASS/*, hidden files and folders passed over.

    Raises:
        UsageError: train/ or val/ is missing, has no or one class folder or one without images, or their classes differ.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: {'is not a folder' if folder.exists() else 'no such folder'}; {LAYOUT}")
    ids = {split: _class_ids(folder, split) for split in ("train", "val")}
    if ids["train"] != ids["val"]:
        differences = [
            f"only {here}/ has {_few(sorted(set(ids[here]) - set(ids[there])))}"
            for here, there in (("train", "val"), ("val", "train"))
            if set(ids[here]) - set(ids[there])
        ]
        raise UsageError(f"{folder}: train/ and val/ have different classes: {'; '.join(differences)}")
    if len(ids["train"]) == 1:
        raise UsageError(f"{folder}/train has one class only, {ids['train'][0]!r}; expected at least two")
    train, val = (_image_set(folder / split, ids[split]) for split in ("train", "val"))
    return DataFolder(
        tuple(class_name(name) for name in ids["train"]), train, val, _fingerprint(folder, train.paths, val.paths)
    )


LAYOUT = "a data folder has one folder of images a class in train/ and in val/"


def class_name(folder: str) -> ClassName:
    """A class from its folder's name: n01440764_great_white_shark has the label 'great white shark', others their own name."""
    word_net = re.fullmatch(r"n\d{8}_(.+)", folder)
    return ClassName(folder, word_net[1].replace("_", " ") if word_net else folder)


def _class_ids(folder: Path, split: str) -> list[str]:
    here = folder / split
    if not here.is_dir():
        found = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
        raise UsageError(f"{folder} has no folder {split}/ (it has {_few(found) or 'nothing'}); {LAYOUT}")
    ids = sorted(entry.name for entry in here.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not ids:
        found = sorted(entry.name for entry in here.iterdir() if not entry.name.startswith("."))
        raise UsageError(f"{here} has no class folders (it has {_few(found) or 'nothing'}); {LAYOUT}")
    return ids


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4:,} more" if len(names) > 4 else "")


def _image_set(folder: Path, ids: list[str]) -> ImageSet:
    paths: list[bytes] = []
    targets: list[int] = []
    for target, name in enumerate(ids):
        paths.extend(os.fsencode(path) for path in find_images([str(folder / name)]))
        targets.extend([target] * (len(paths) - len(targets)))
    return ImageSet(np.array(paths, dtype=np.bytes_), np.array(targets, dtype=np.int64))


def _fingerprint(folder: Path, *paths: npt.NDArray[np.bytes_]) -> str:
    digest, root = hashlib.sha256(), os.fsencode(folder)
    for split in paths:
        for path in split.tolist():
            try:
                size = os.stat(path).st_size  # noqa: PTH116 - a million times, of bytes
            except OSError:
                size = -1  # a link into nowhere: decoding it says so
            digest.update(b"%s\0%d\n" % (os.path.relpath(path, root), size))
    return digest.hexdigest()
