"""scikit-learn's 1,797 scanned digits (8x8 pixels, 17 grey levels) as a data folder, to try training anywhere."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import numpy as np
from PIL import Image

from vgg_deploy.errors import MissingDependencyError, UsageError
from vgg_deploy.files import output_errors

IMAGES = 1797
SIDE = 64  # pixels of the written images, upscaled from 8
INK = 16  # the largest grey level of the scans
VALIDATION_SHARE = 0.2
SPLIT_SEED = 1409_1556


def write_digits(folder: Path) -> None:
    """Writes folder/train/CLASS/*.png and folder/val/CLASS/*.png, the whole set or nothing. An existing set is kept.

    Classes are "0" ... "9". A fifth of each class, always the same, is for validation. Files are 64x64 pixels, 8-bit
    grey, bright ink on black.

    Raises:
        UsageError: the folder exists and is not the whole set.
        MissingDependencyError: scikit-learn is not installed.
        OutputError: it cannot be written.
    """
    if folder.exists():
        _check(folder)
        return
    temporary = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:12]}.partial"
    try:
        with output_errors(folder):
            _write_images(temporary)
            try:
                temporary.rename(folder)
            except OSError:
                if not folder.exists():
                    raise
                _check(folder)  # another process wrote it first
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _check(folder: Path) -> None:
    count = sum(1 for split in ("train", "val") for _ in folder.glob(f"{split}/[0-9]/*.png"))
    if count != IMAGES:
        raise UsageError(
            f"{folder} has {count:,} of the {IMAGES:,} digits; delete or rename it, and the set is written again"
        )


def _write_images(folder: Path) -> None:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", "train", "--data digits") from error
    scans, digits = load_digits(return_X_y=True)
    random = np.random.default_rng(SPLIT_SEED)
    for digit in range(10):
        members = random.permutation(np.flatnonzero(digits == digit))
        validation = set(members[: round(len(members) * VALIDATION_SHARE)].tolist())
        for split in ("train", "val"):
            (folder / split / str(digit)).mkdir(parents=True)
        for member in members.tolist():
            grey = np.rint(scans[member].reshape(8, 8) * (255 / INK)).astype(np.uint8)
            image = Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            image.save(folder / ("val" if member in validation else "train") / str(digit) / f"{member:04}.png")
