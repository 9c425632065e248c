"""The image files that a command works on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from vgg_deploy.cli.tables import notice


def found_images(paths: Iterable[str]) -> list[Path]:
    """Image files, see `vgg_deploy.views.search.find_images`. A line on stderr says what folders hold besides.

    Raises:
        UsageError: see there.
    """
    (images,) = found_image_sets([paths])
    return images


def found_image_sets(sets: Iterable[Iterable[str]]) -> list[list[Path]]:
    """As `found_images`, for several lists of paths. One line tells of all."""
    from vgg_deploy.views.search import FolderSearch, find_images

    search = FolderSearch()
    images = [list(find_images(paths, search)) for paths in sets]
    if text := search.summary():
        notice(text)
    return images
