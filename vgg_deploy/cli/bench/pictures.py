"""The images that `vgg-deploy bench` measures on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_deploy.cli.tables import notice
from vgg_deploy.errors import ImageError

if TYPE_CHECKING:
    from vgg_deploy.network.tensors import Images

GENERATED = 16  # pictures that are generated if there are no images


@dataclass(frozen=True, slots=True)
class BenchImages:
    """The images to measure on: pixels, uint8 [h, w, 3], and their files; no files if the pictures are generated."""

    pixels: list[Images]
    paths: list[Path]

    def __str__(self) -> str:
        if self.paths:
            return f"{len(self.pixels)} images"
        return f"{len(self.pixels)} generated pictures (give real ones with --images)"


def readable_images(paths: list[Path], limit: int) -> BenchImages:
    """The images that can be read; generated pictures if there are no images."""
    from vgg_deploy.bench.batches import smooth_pictures
    from vgg_deploy.views.images import decode

    if not paths:
        notice("no --images: measuring on generated pictures; agreement on them means little")
        return BenchImages(smooth_pictures(GENERATED), [])
    if limit < len(paths):
        notice(f"measuring on {limit} of {len(paths)} images, a seeded sample (--limit)")
        paths = sorted(random.Random(0).sample(paths, limit))
    readable = BenchImages([], [])
    for path in paths:
        try:
            readable.pixels.append(decode(path))
            readable.paths.append(path)
        except ImageError as error:
            notice(f"skipped {path}: {error}")
    if not readable.paths:
        raise ImageError(f"none of the {len(paths)} images could be read")
    return readable
