"""Batches of one shape to measure engines on: photographs cut to the shape, or generated pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.network.manifest import Rescaling
from vgg_deploy.network.tensors import Images
from vgg_deploy.views.images import resize

_PICTURE_SIZE = (375, 500)  # the most common size in ImageNet
_BLOBS = (12, 16)


@dataclass(frozen=True, slots=True)
class ImageBatch:
    """A batch of images to run.

    Attributes:
        images: uint8 [n, height, width, 3].
        distinct: how many of the first images are distinct. The others repeat images to fill the batch, and are not
            compared.
    """

    images: Images
    distinct: int


def smooth_pictures(count: int, seed: int = 0) -> list[Images]:
    """Generated pictures, uint8 [375, 500, 3]: blobs of colour, as smooth as photographs."""
    random = np.random.default_rng(seed)
    return [
        resize(random.integers(0, 256, (*_BLOBS, 3), dtype=np.uint8), *_PICTURE_SIZE, Rescaling("bicubic"))
        for _ in range(count)
    ]


def fitted(pixels: Images, height: int, width: int, rescaling: Rescaling) -> Images:
    """uint8 [h, w, 3] -> [height, width, 3]: rescaled to just cover this size, then cropped at the centre."""
    rows, columns = pixels.shape[:2]
    scale = max(height / rows, width / columns)
    rows, columns = max(height, round(rows * scale)), max(width, round(columns * scale))
    top, left = (rows - height) // 2, (columns - width) // 2
    return resize(pixels, rows, columns, rescaling)[top : top + height, left : left + width]


def batches_of(pictures: Sequence[Images], shape: BatchShape, rescaling: Rescaling) -> list[ImageBatch]:
    """Pictures (at least one) as batches of a shape. The first pictures fill up the last batch."""
    cut = [fitted(picture, shape.height, shape.width, rescaling) for picture in pictures]
    batches = []
    for start in range(0, len(cut), shape.images):
        chosen = [cut[index % len(cut)] for index in range(start, start + shape.images)]
        images = np.stack(chosen)  # [n, height, width, 3]
        batches.append(ImageBatch(images, min(shape.images, len(cut) - start)))
    return batches
