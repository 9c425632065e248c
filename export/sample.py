"""Real images for calibrating and judging an export, turned into views as in inference."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vgg_deploy.errors import ImageError, UsageError
from vgg_deploy.files import Source
from vgg_deploy.network.manifest import Rescaling
from vgg_deploy.network.tensors import Images
from vgg_deploy.views.images import decode, mirrored, rescale
from vgg_deploy.views.protocols import Protocol


@dataclass(frozen=True, slots=True)
class ImageSample:
    """Images, and how views are made from each.

    Attributes:
        paths: image files, all of them readable.
        protocol: the views, as in inference.
        rescaling: filter and rounding.
    """

    paths: tuple[Path, ...]
    protocol: Protocol
    rescaling: Rescaling

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(Source.of(path) for path in self.paths)

    def views(self, progress: Callable[[], None] = lambda: None) -> Iterator[Images]:
        """Yields each view, uint8 [1, h, w, 3]. Calls `progress` after each image."""
        for path in self.paths:
            pixels = decode(path)
            height, width = pixels.shape[:2]
            for view in self.protocol.views(height, width, self.rescaling):
                cut = view.cut(rescale(pixels, view.short_side, self.rescaling), self.rescaling)
                yield np.ascontiguousarray(mirrored(cut) if view.mirror else cut)[None]
            progress()


def draw(
    paths: Sequence[Path],
    count: int,
    protocol: Protocol,
    rescaling: Rescaling,
    refused: Callable[[Path, str], None],
    progress: Callable[[], None] = lambda: None,
) -> ImageSample:
    """Draws a seeded sample of `count` images that can be read and viewed, or fewer if there are not enough.

    Args:
        refused: called with each image that is skipped, and the reason.
        progress: called after each image that was tried.

    Raises:
        UsageError: none of them can be read.
    """
    shuffled = sorted(paths)
    random.Random(0).shuffle(shuffled)
    chosen: list[Path] = []
    for path in shuffled:
        if len(chosen) == count:
            break
        try:
            # Fails for every image on which calibration would fail: decoding, or a view above the size limit.
            rescale(decode(path), max(protocol.scales), rescaling)
        except ImageError as error:
            refused(path, str(error))
        else:
            chosen.append(path)
        progress()
    if not chosen:
        raise UsageError(f"none of the {len(shuffled)} images can be read, so ranges cannot be measured; give others")
    return ImageSample(tuple(chosen), protocol, rescaling)
