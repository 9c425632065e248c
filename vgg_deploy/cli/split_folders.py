"""Data folders with train/ and val/ inside, where a command needs only one of the two."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vgg_deploy.errors import UsageError

TRAIN, VAL = "train", "val"


def refuse_split(path: Path, purpose: str, *, part: str) -> None:
    """Raises UsageError if `path` is a data folder with train/CLASS/ and val/CLASS/.

    Folders train/ and val/ without folders inside are classes of that name, and pass.

    Args:
        purpose: why both together are wrong, such as "the figure would count training images".
        part: `TRAIN` or `VAL`: the one to give instead.
    """
    if all(_has_folders(path / each) for each in (TRAIN, VAL)):
        raise UsageError(f"{path} has {TRAIN}/ and {VAL}/ inside, and {purpose}: give {path / part}")


def refuse_training_images(paths: Iterable[str]) -> None:
    """Raises UsageError if one of these folders, files and patterns is a data folder with train/ and val/ inside."""
    for path in paths:
        refuse_split(Path(path), "the figures would count the images of the training too", part=VAL)


def _has_folders(path: Path) -> bool:
    return path.is_dir() and any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir())
