"""The data folder, DIR/train/CLASS/* and DIR/val/CLASS/*, as classes and batches of uint8 crops."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from train.recipe import Recipe
from vgg_deploy.classes import ClassName
from vgg_deploy.engine import Images
from vgg_deploy.errors import ImageError, TrainingError, UsageError
from vgg_deploy.images import MAX_DECODED_PIXELS, centre_box, decode, find_images, mirrored, rescale
from vgg_deploy.manifest import Rescaling, Triple

SURVEY_BATCH = 64  # images that a worker hands over at once

Key = tuple[int, int]  # epoch, index: all that the chance of a crop depends on, apart from the seed


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
    """Classes, sorted by id, and the images of both splits."""

    classes: tuple[ClassName, ...]
    train: ImageSet
    val: ImageSet


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
    return DataFolder(
        tuple(class_name(name) for name in ids["train"]),
        _image_set(folder / "train", ids["train"]),
        _image_set(folder / "val", ids["val"]),
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


class _Views(Dataset[Any]):
    """What is made of each image. A broken image is returned, not raised: torch would wrap it into a traceback as text."""

    def __init__(self, images: ImageSet, recipe: Recipe, rescaling: Rescaling) -> None:
        self.images, self.recipe, self.rescaling = images, recipe, rescaling

    def __getitem__(self, key: Key) -> tuple[npt.NDArray[Any], int] | ImageError:
        epoch, index = key
        path = self.images.path(index)
        try:
            return self.view(decode(path), epoch, index), int(self.images.targets[index])
        except ImageError as error:
            return ImageError(f"{path}: {error}; repair or remove it")

    def view(self, pixels: Images, epoch: int, index: int) -> npt.NDArray[Any]:
        raise NotImplementedError

    def rescaled(self, pixels: Images, short_side: int) -> Images:
        # Only a crop goes through the network, so the limit that inference puts on a view's size does not hold here.
        return rescale(pixels, short_side, self.rescaling, MAX_DECODED_PIXELS)


class TrainCrops(_Views):
    """uint8 [crop, crop, 3]: S fixed or drawn, a random crop, mirrored half of the time (section 3.1)."""

    def view(self, pixels: Images, epoch: int, index: int) -> Images:
        scale, crop = self.recipe.train_scale, self.recipe.spec.crop
        chance = np.random.default_rng((self.recipe.seed, epoch, 1 + index))
        scaled = self.rescaled(pixels, int(chance.integers(scale.minimum, scale.maximum, endpoint=True)))
        top, left = (int(chance.integers(side - crop, endpoint=True)) for side in scaled.shape[:2])
        window = scaled[top : top + crop, left : left + crop]
        return mirrored(window) if self.recipe.mirror and chance.random() < 0.5 else window


class CentreCrops(_Views):
    """uint8 [crop, crop, 3]: the centre of the image rescaled to S, or to the middle of its range."""

    def view(self, pixels: Images, epoch: int, index: int) -> Images:
        crop = self.recipe.spec.crop
        scaled = self.rescaled(pixels, self.recipe.train_scale.middle)
        top, left = centre_box(scaled.shape[0], scaled.shape[1], crop)
        return scaled[top : top + crop, left : left + crop]


class _PixelSums(_Views):
    """int64 [4]: the sums of R, G and B, and the count of pixels, of the image rescaled to S, or to the middle of its range."""

    def view(self, pixels: Images, epoch: int, index: int) -> npt.NDArray[np.int64]:
        scaled = self.rescaled(pixels, self.recipe.train_scale.middle)
        return np.array([*scaled.sum(axis=(0, 1), dtype=np.int64), scaled.shape[0] * scaled.shape[1]])


class _Order(Sampler[list[Key]]):
    """The batches of one epoch, shuffled by the seed and the epoch, or in order."""

    def __init__(self, count: int, batch: int, shuffle_seed: int | None) -> None:
        self.count, self.batch, self.shuffle_seed, self.epoch = count, batch, shuffle_seed, 0

    def __len__(self) -> int:
        return -(-self.count // self.batch)

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.arange(self.count)
        if self.shuffle_seed is not None:
            # The last number is 0 here and from 1 on in TrainCrops: one stream of chance for each use.
            order = np.random.default_rng((self.shuffle_seed, self.epoch, 0)).permutation(self.count)
        for start in range(0, self.count, self.batch):
            yield [(self.epoch, int(index)) for index in order[start : start + self.batch]]


class Batches:
    """Batches of a set's views, an epoch at a time; the same for any number of workers.

    Args:
        views: what is made of each image.
        batch: images in each batch but the last.
        workers: processes that decode; 0: this one.
        shuffle_seed: None: in order.
        pinned: whether to put batches into page-locked memory, from which a GPU copies faster.
    """

    def __init__(
        self, views: _Views, batch: int, *, workers: int = 0, shuffle_seed: int | None = None, pinned: bool = False
    ) -> None:
        self._order = _Order(len(views.images), batch, shuffle_seed)
        self._workers = min(workers, len(self._order))
        self._loader: DataLoader[Any] = DataLoader(
            views,
            batch_sampler=self._order,
            num_workers=self._workers,
            collate_fn=_collated,
            pin_memory=pinned,
            worker_init_fn=_leave_interrupts_to_the_main_process,
            persistent_workers=self._workers > 0,
            generator=torch.Generator(),  # of its own: the default one is dropout's
        )

    def __len__(self) -> int:
        return len(self._order)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Views [n, ...] of their dtype, and targets int64 [n].

        Raises:
            ImageError: an image is broken; names its file.
            TrainingError: a worker died.
        """
        self._order.epoch = number
        try:
            for batch in self._loader:
                if isinstance(batch, ImageError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise TrainingError(
                f"one of {self._workers} data workers died, often for want of (shared) memory: give fewer --workers; "
                "--workers 0 needs none"
            ) from error


def _collated(samples: list[tuple[npt.NDArray[Any], int] | ImageError]) -> tuple[Tensor, Tensor] | ImageError:
    views, targets = [], []
    for sample in samples:
        if isinstance(sample, ImageError):
            return sample
        views.append(sample[0])
        targets.append(sample[1])
    return torch.from_numpy(np.stack(views)), torch.tensor(targets)


def _leave_interrupts_to_the_main_process(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def survey(
    images: ImageSet,
    recipe: Recipe,
    rescaling: Rescaling,
    *,
    workers: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> Triple:
    """Decodes every image once, so that a broken one is found now and not hours later, and gives the mean RGB, 0..255.

    The mean is over all pixels of all images, whole, rescaled to S (the middle of its range): what training crops from.

    Args:
        advance: told how many images are done since its last call.

    Raises:
        ImageError: an image is broken; names its file.
        TrainingError: a worker died.
    """
    total = np.zeros(4, dtype=np.int64)
    for sums, _targets in Batches(_PixelSums(images, recipe, rescaling), SURVEY_BATCH, workers=workers).epoch(0):
        total += sums.sum(dim=0).numpy()
        advance(len(sums))
    red, green, blue, pixels = total.tolist()
    return red / pixels, green / pixels, blue / pixels
