"""Measures the readings of a checkpoint on the central crops of labelled images."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from train.network.checkpoint import Checkpoint
from train.network.ranking import MeasuredReading, Ranking
from train.network.reading import Reading
from train.network.reference import Reference
from vgg_deploy.errors import ImageError, UsageError
from vgg_deploy.evaluation.error_rates import LabelledImages
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.views.images import decode, rescale
from vgg_deploy.views.protocols import choose_protocol

ROUND = 16  # images after which hopeless readings are left out
BATCH = 8  # crops in a call
LEAST_COLOUR = 4  # mean difference of red and blue, in units of 0..255, of an image that is not grey
# Standard errors by which a reading must be worse than the best to be left out. Readings are judged after each round,
# so it is far above `CLEAR`.
HOPELESS = 6.0


def probe(
    checkpoint: Checkpoint,
    readings: Sequence[Reading],
    images: LabelledImages,
    *,
    refused: Callable[[Path, str], None],
    progress: Callable[[], None] = lambda: None,
) -> Ranking:
    """Ranks readings by their cross-entropy on the central crops at Q = S.

    Each image is decoded once. After each `ROUND` images, readings that are worse than the best by over `HOPELESS`
    standard errors are left out; they are ranked by the images that they have seen.

    Args:
        checkpoint: its weights are shared by all readings.
        readings: see `train.network.reading.readings_of`.
        images: with their classes.
        refused: called with each image that cannot be read, and the reason.
        progress: called once for each image and reading, whether it was measured or left out.

    Raises:
        UsageError: no image can be read.
    """
    scores: dict[Reading, list[Floats]] = {reading: [] for reading in readings}
    networks = {reading: Reference(reading.of(checkpoint), form="fc") for reading in readings}
    truth: list[int] = []
    coloured = 0
    measured: dict[Reading, MeasuredReading] = {}
    for crops, classes in _rounds(images, checkpoint.manifest, refused):
        truth += classes
        coloured += sum(map(_is_coloured, crops))
        for reading in readings:
            if reading in networks:
                for start in range(0, len(crops), BATCH):
                    batch = np.stack(crops[start : start + BATCH])  # uint8 [n, crop, crop, 3]
                    score_map = networks[reading].run(batch).score_map  # [n, classes, 1, 1]
                    assert score_map is not None
                    scores[reading].append(score_map[:, :, 0, 0])
                    for _ in batch:
                        progress()
                all_scores = np.concatenate(scores[reading])  # [images so far, classes]
                measured[reading] = MeasuredReading.of(reading, all_scores, np.array(truth, np.int64))
            else:
                for _ in crops:
                    progress()
        best = Ranking.of(list(measured.values()), coloured).best
        for reading in [reading for reading in networks if measured[reading].apart_from(best, HOPELESS)]:
            del networks[reading]
    if not measured:
        raise UsageError(f"none of the {len(images.paths)} images can be read; give others")
    return Ranking.of(list(measured.values()), coloured)


def _rounds(
    images: LabelledImages, manifest: Manifest, refused: Callable[[Path, str], None]
) -> Iterator[tuple[list[Images], list[int]]]:
    """Yields the central crops of `ROUND` images, uint8 [crop, crop, 3], and their classes. The order is random."""
    order = list(range(len(images.paths)))
    random.Random(0).shuffle(order)  # paths are sorted by class
    crops: list[Images] = []
    classes: list[int] = []
    for index in order:
        try:
            crops.append(_central_crop(images.paths[index], manifest))
        except ImageError as error:
            refused(images.paths[index], str(error))
            continue
        classes.append(int(images.truth[index]))
        if len(crops) == ROUND:
            yield crops, classes
            crops, classes = [], []
    if crops:
        yield crops, classes


def _is_coloured(crop: Images) -> bool:
    return float(np.abs(crop[..., 0].astype(np.int16) - crop[..., 2]).mean()) > LEAST_COLOUR  # of [h, w, 3]


def _central_crop(path: Path, manifest: Manifest) -> Images:
    protocol = choose_protocol(manifest, "center", free_size=True).protocol
    pixels = decode(path)  # [h, w, 3]
    [view] = protocol.views(pixels.shape[0], pixels.shape[1], manifest.rescaling)
    return view.cut(rescale(pixels, view.short_side, manifest.rescaling), manifest.rescaling)  # [crop, crop, 3]
