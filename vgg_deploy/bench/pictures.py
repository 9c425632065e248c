"""Batches of one shape to measure engines on: photographs, cut to it, or made-up pictures where there are none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vgg_deploy.bench.timing import BatchShape
from vgg_deploy.network.manifest import Rescaling
from vgg_deploy.network.tensors import Images
from vgg_deploy.views.images import resize

_PICTURE_SIZE = (375, 500)  # most of ImageNet's photographs
_BLOBS = (12, 16)


def smooth_pictures(count: int, seed: int = 0) -> list[Images]:
    """Made-up pictures, uint8 [375, 500, 3]: blobs of colour, smooth as photographs are."""
    random = np.random.default_rng(seed)
    return [
        resize(random.integers(0, 256, (*_BLOBS, 3), dtype=np.uint8), *_PICTURE_SIZE, Rescaling("bicubic"))
        for _ in range(count)
    ]


def fitted(pixels: Images, height: int, width: int, rescaling: Rescaling) -> Images:
    """The centre of uint8 [h, w, 3] as [height, width, 3], rescaled so that as much of it as can be is in there."""
    rows, columns = pixels.shape[:2]
    scale = max(height / rows, width / columns)
    rows, columns = max(height, round(rows * scale)), max(width, round(columns * scale))
    top, left = (rows - height) // 2, (columns - width) // 2
    return resize(pixels, rows, columns, rescaling)[top : top + height, left : left + width]


def batches_of(pictures: Sequence[Images], shape: BatchShape, rescaling: Rescaling) -> list[Images]:
    """All the pictures, at least one, in batches uint8 [n, h, w, 3]; the first fill up the last batch."""
    cut = [fitted(picture, shape.height, shape.width, rescaling) for picture in pictures]
    count = -(-len(cut) // shape.images)
    return [
        np.stack([cut[place % len(cut)] for place in range(index * shape.images, (index + 1) * shape.images)])
        for index in range(count)
    ]
