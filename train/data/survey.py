"""A look at every image before training: the broken one is found now, and the colours of the training set are measured."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console

from train.compute.execution import Execution
from train.compute.processes import ALONE, Processes
from train.compute.progress import progress
from train.data.crops import NO_SHIFT, Colours, ImageDataset
from train.data.folder import DataFolder, ImageSet
from train.data.loader import BatchLoader
from train.recipe import Recipe
from vgg_deploy.files import whole_file
from vgg_deploy.network.manifest import Rescaling, Triple
from vgg_deploy.network.tensors import Images

SURVEY_BATCH = 64  # images that a worker hands over at once

_PAIRS = tuple((i, j) for i in range(3) for j in range(i, 3))


class _PixelSums(ImageDataset):
    """int64 [10]: the sums of R, G and B, the count of pixels, and the sums of RR, RG, RB, GG, GB, BB, of the image rescaled
    to S, or to the middle of its range. Whole numbers, so that their order makes no difference."""

    def view(self, pixels: Images, epoch: int, index: int) -> tuple[npt.NDArray[np.int64], Triple]:
        rows = self.rescaled(pixels, self.recipe.train_scale.middle).reshape(-1, 3)
        values = rows.astype(np.float64)  # holds these sums exactly, and its product is fast
        products = values.T @ values
        sums = [*values.sum(axis=0), len(rows), *(products[pair] for pair in _PAIRS)]
        return np.array([int(value) for value in sums]), NO_SHIFT


def survey(
    images: ImageSet,
    recipe: Recipe,
    rescaling: Rescaling,
    *,
    workers: int = 0,
    processes: Processes = ALONE,
    advance: Callable[[int], None] = lambda count: None,
) -> Colours:
    """Decodes every image once, so that a broken one is found now and not hours later, and measures their colours.

    They are those of all pixels of all images, whole, rescaled to S (the middle of its range): what training crops from.

    Args:
        advance: told how many images are done since its last call.

    Raises:
        ImageError: an image is broken; names its file.
        TrainingError: a worker died.
    """
    total = torch.zeros(10, dtype=torch.int64)
    views = _PixelSums(images, recipe, rescaling)
    batches = BatchLoader(views, SURVEY_BATCH, workers=workers, rank=processes.rank, processes=processes.size)
    for batch in batches.epoch(0):
        if batch.counts:
            total += batch.views.sum(dim=0)
        advance(batch.total)
    sums = processes.summed(total).tolist()
    return processes.agreed(lambda: _colours(sums))


def _colours(sums: list[int]) -> Colours:
    pixels = sums[3]
    mean = np.array([value / pixels for value in sums[:3]])
    covariance = np.empty((3, 3))
    for pair, total in zip(_PAIRS, sums[4:], strict=True):
        covariance[pair] = covariance[pair[::-1]] = total / pixels - mean[pair[0]] * mean[pair[1]]
    eigenvalues, columns = np.linalg.eigh(covariance / 255**2)
    components = []
    for vector in columns.T[::-1]:
        vector = vector * np.sign(vector[np.abs(vector).argmax()])  # eigenvectors have no sign; ours point up
        components.append(_triple(vector))
    one, two, three = components
    return Colours(_triple(mean), _triple(np.maximum(eigenvalues[::-1], 0)), (one, two, three))


def _triple(values: npt.NDArray[np.float64]) -> Triple:
    red, green, blue = values.tolist()
    return red, green, blue


def surveyed(
    recipe: Recipe,
    data: DataFolder,
    rescaling: Rescaling,
    execution: Execution,
    processes: Processes,
    console: Console,
    kept: Path | None,
) -> Colours | None:
    """The colours of the training set, from an earlier survey of the same images at the same S, or from one now.

    None: the recipe needs none of them; then the validation set alone is looked through.

    Args:
        kept: the folder of earlier surveys; None: none are kept.
    """
    scale = recipe.train_scale.middle
    path = None if kept is None else kept / f"{data.fingerprint[:16]}-s{scale}-{rescaling.filter}.json"
    found = processes.agreed(lambda: None if path is None else _read(path, data.fingerprint))
    if found is not None:
        return found
    with progress(console, "reading val images", len(data.val)) as advance:
        survey(data.val, recipe, rescaling, workers=execution.workers, processes=processes, advance=advance)
    if not recipe.rgb_shift and recipe.mean is not None:
        return None
    with progress(console, "colours of train images", len(data.train)) as advance:
        colours = survey(data.train, recipe, rescaling, workers=execution.workers, processes=processes, advance=advance)
    if path is not None and processes.first:
        with whole_file(path) as temporary:
            record = {"fingerprint": data.fingerprint, **dataclasses.asdict(colours)}
            temporary.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return colours


def _read(path: Path, fingerprint: str) -> Colours | None:
    """None: there is none, or it cannot be used; then the images are looked through again."""
    try:
        record = json.loads(path.read_text("utf-8"))
        if record["fingerprint"] != fingerprint:
            return None
        one, two, three = (_triple(np.array(vector, np.float64)) for vector in record["components"])
        mean, eigenvalues = (_triple(np.array(record[name], np.float64)) for name in ("mean", "eigenvalues"))
        return Colours(mean, eigenvalues, (one, two, three))
    except (OSError, ValueError, KeyError, TypeError):
        return None
