"""Reads every image before training, to find broken images early and to measure the colours of the training set."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from train.compute.execution import Execution
from train.compute.progress import progress
from train.data.crops import NO_SHIFT, RESCALING, Colours, ImageDataset
from train.data.folder import DataFolder, ImageSet
from train.data.loader import BatchLoader
from train.recipe import Recipe
from vgg_deploy.files import whole_file
from vgg_deploy.network.manifest import Triple
from vgg_deploy.network.tensors import Images

SURVEY_BATCH = 64  # images that a worker returns at once

_PAIRS = tuple((i, j) for i in range(3) for j in range(i, 3))  # RR, RG, RB, GG, GB, BB


class _PixelSums(ImageDataset):
    """int64 [10]: the sums of R, G and B, the number of pixels, and the sums of RR, RG, RB, GG, GB and BB.

    They are taken over the image rescaled to S, or to the middle of its range. Sums of whole numbers do not depend on
    their order.
    """

    def values_and_shift(self, pixels: Images, epoch: int, index: int) -> tuple[npt.NDArray[np.int64], Triple]:
        rows = self.rescaled(pixels, self.recipe.train_scale.middle).reshape(-1, 3)  # [pixels, 3]
        rgb = rows.astype(np.float64)  # exact for these sums, and its matrix product is fast
        products = rgb.T @ rgb  # [3, 3]
        sums = [*rgb.sum(axis=0), len(rows), *(products[pair] for pair in _PAIRS)]
        return np.array([int(value) for value in sums]), NO_SHIFT


def survey(
    images: ImageSet, recipe: Recipe, execution: Execution, advance: Callable[[int], None] = lambda count: None
) -> Colours:
    """Decodes every image once and measures their colours, over all pixels of the whole images rescaled to S.

    Args:
        advance: called with the number of images done since its last call.

    Raises:
        ImageError: an image is broken; the message names its file.
        TrainingError: a worker died.
    """
    total = torch.zeros(10, dtype=torch.int64)
    for batch in BatchLoader(_PixelSums(images, recipe), SURVEY_BATCH, execution).epoch(0):
        if batch.counts:
            total += batch.values.sum(dim=0)  # [n, 10] -> [10]
        advance(batch.total)
    sums = execution.processes.summed(total).tolist()
    return execution.processes.agreed(lambda: _colours(sums))


def _colours(sums: list[int]) -> Colours:
    pixels = sums[3]
    mean = np.array([value / pixels for value in sums[:3]])
    covariance = np.empty((3, 3))
    for pair, total in zip(_PAIRS, sums[4:], strict=True):
        covariance[pair] = covariance[pair[::-1]] = total / pixels - mean[pair[0]] * mean[pair[1]]
    eigenvalues, columns = np.linalg.eigh(covariance / 255**2)  # ascending; [3], [3, 3]
    components = []
    for vector in columns.T[::-1]:
        # The sign of an eigenvector is arbitrary. Here its largest component is positive.
        components.append(_triple(vector * np.sign(vector[np.abs(vector).argmax()])))
    first, second, third = components
    return Colours(_triple(mean), _triple(np.maximum(eigenvalues[::-1], 0)), (first, second, third))


def _triple(values: npt.NDArray[np.float64]) -> Triple:
    red, green, blue = values.tolist()
    return red, green, blue


def surveyed(recipe: Recipe, data: DataFolder, execution: Execution, surveys: Path | None) -> Colours | None:
    """The colours of the training set: from an earlier survey of the same images at the same S, or from a new one.

    None: the recipe needs no colours. Then only the validation images are checked.

    Args:
        surveys: the folder that keeps surveys. None: they are not kept.
    """
    console, processes = execution.console, execution.processes
    path = None
    if surveys is not None:
        path = surveys / f"{data.fingerprint[:16]}-s{recipe.train_scale.middle}-{RESCALING.filter}.json"
    earlier = processes.agreed(lambda: None if path is None else _read(path, data.fingerprint))
    if earlier is not None:
        return earlier
    with progress(console, "reading val images", len(data.val)) as advance:
        survey(data.val, recipe, execution, advance)
    if not recipe.rgb_shift and recipe.mean is not None:
        return None
    with progress(console, "colours of train images", len(data.train)) as advance:
        colours = survey(data.train, recipe, execution, advance)
    if path is not None and processes.first:
        with whole_file(path) as temporary:
            record = {"fingerprint": data.fingerprint, **dataclasses.asdict(colours)}
            temporary.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return colours


def _read(path: Path, fingerprint: str) -> Colours | None:
    """The colours from an earlier survey. None: there is no usable one."""
    try:
        record = json.loads(path.read_text("utf-8"))
        if record["fingerprint"] != fingerprint:
            return None
        first, second, third = (_triple(np.array(vector, np.float64)) for vector in record["components"])
        mean, eigenvalues = (_triple(np.array(record[name], np.float64)) for name in ("mean", "eigenvalues"))
        return Colours(mean, eigenvalues, (first, second, third))
    except (OSError, ValueError, KeyError, TypeError):
        return None
