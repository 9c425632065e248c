"""Measures the readings of a checkpoint on the central crops of labelled images."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from train.network.checkpoint import Checkpoint
from train.network.pooled import PooledReference
from train.network.ranking import MeasuredReading, Ranking
from train.network.reading import POOLED_CROP, POOLED_SCALE, Reading
from train.network.reference import Reference
from vgg_deploy.errors import ImageError, UsageError
from vgg_deploy.evaluation.error_rates import LabelledImages
from vgg_deploy.network.manifest import Manifest, TrainScale
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.views.images import decode, is_coloured, rescale
from vgg_deploy.views.protocols import choose_protocol

ROUND = 16  # images after which hopeless readings are left out
BATCH = 8  # crops in a call
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
    """Ranks readings by their cross-entropy on the central crops at Q = S; pooled readings have those of `POOLED_CROP`.

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
    networks = {reading: _network(reading, checkpoint) for reading in readings}
    truth: list[int] = []
    coloured = 0
    measured: dict[Reading, MeasuredReading] = {}
    pooled = any(reading.pooled for reading in readings)
    for pictures, classes in _rounds(images, checkpoint.manifest, refused, pooled=pooled):
        crops = [picture.crop for picture in pictures]
        truth += classes
        coloured += sum(map(is_coloured, crops))
        for reading in readings:
            if reading in networks:
                views = [picture.pooled_crop for picture in pictures] if reading.pooled else crops
                for start in range(0, len(views), BATCH):
                    batch = np.stack(views[start : start + BATCH])  # uint8 [n, crop, crop, 3]
                    scores[reading].append(networks[reading](batch))  # [n, classes]
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


def _network(reading: Reading, checkpoint: Checkpoint) -> Callable[[Images], Floats]:
    """A function from crops uint8 [n, crop, crop, 3] to class scores float32 [n, classes]."""
    if reading.pooled:
        return PooledReference(reading.of(checkpoint)).scores
    reference = Reference(reading.of(checkpoint), form="fc")

    def scores(batch: Images) -> Floats:
        score_map = reference.run(batch).score_map  # [n, classes, 1, 1]
        assert score_map is not None
        return score_map[:, :, 0, 0]

    return scores


@dataclass(frozen=True, slots=True)
class _Picture:
    """The central crops of an image, each uint8 [side, side, 3].

    Attributes:
        crop: of the manifest's crop.
        pooled_crop: of `POOLED_CROP`; the same as `crop` if no reading needs it.
    """

    crop: Images
    pooled_crop: Images


def _rounds(
    images: LabelledImages, manifest: Manifest, refused: Callable[[Path, str], None], *, pooled: bool
) -> Iterator[tuple[list[_Picture], list[int]]]:
    """Yields the central crops of `ROUND` images, and their classes. The order is random."""
    order = list(range(len(images.paths)))
    random.Random(0).shuffle(order)  # paths are sorted by class
    pictures: list[_Picture] = []
    classes: list[int] = []
    for index in order:
        try:
            pictures.append(_picture(images.paths[index], manifest, pooled=pooled))
        except ImageError as error:
            refused(images.paths[index], str(error))
            continue
        classes.append(int(images.truth[index]))
        if len(pictures) == ROUND:
            yield pictures, classes
            pictures, classes = [], []
    if pictures:
        yield pictures, classes


def _picture(path: Path, manifest: Manifest, *, pooled: bool) -> _Picture:
    pixels = decode(path)  # [h, w, 3]
    crop = _central_crop(pixels, manifest)
    return _Picture(crop, _central_crop(pixels, with_pooled_crop(manifest)) if pooled else crop)


def with_pooled_crop(manifest: Manifest) -> Manifest:
    """The manifest with `POOLED_CROP` as its crop: how a pooled reading takes its images.

    Its S is the manifest's if that is not below the crop, as the user states it; else `POOLED_SCALE`.
    """
    assert manifest.spec is not None
    spec = dataclasses.replace(manifest.spec, crop=POOLED_CROP)
    fits = manifest.train_scale.minimum >= POOLED_CROP
    scale = manifest.train_scale if fits else TrainScale(POOLED_SCALE, POOLED_SCALE)
    return manifest.with_(spec=spec, train_scale=scale)


def _central_crop(pixels: Images, manifest: Manifest) -> Images:
    """The central crop at Q = S, uint8 [crop, crop, 3], of an image uint8 [h, w, 3]."""
    protocol = choose_protocol(manifest, "center", free_size=True).protocol
    [view] = protocol.views(pixels.shape[0], pixels.shape[1], manifest.rescaling)
    return view.cut(rescale(pixels, view.short_side, manifest.rescaling), manifest.rescaling)  # [crop, crop, 3]
