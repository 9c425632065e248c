"""Error rates of engines on labelled images (section 4), and of several engines' mean posteriors (section 4.4)."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vgg_deploy.errors import UsageError
from vgg_deploy.evaluation.posterior_cache import PosteriorCache
from vgg_deploy.evaluation.scoring import CachedScorer, EngineScorer, Scorer
from vgg_deploy.inference.engine import Engine
from vgg_deploy.inference.posteriors import top_k_error
from vgg_deploy.inference.prediction import Failure
from vgg_deploy.network.classes import ClassName, class_of_folder
from vgg_deploy.network.manifest import Manifest, Rescaling
from vgg_deploy.network.tensors import Floats
from vgg_deploy.views.protocols import Protocol

NOMINAL_SIZE = (375, 500)  # height and width of an ImageNet photo, for counting the views of a protocol


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images and their classes.

    Attributes:
        paths: image files.
        truth: int64 [n], the index of each image's class.
    """

    paths: tuple[Path, ...]
    truth: npt.NDArray[np.int64]

    def sample(self, limit: int) -> LabelledImages:
        """At most `limit` of the images, in their order: a seeded sample, with the classes as equal as possible."""
        if limit >= len(self.paths):
            return self
        by_class: dict[int, list[int]] = {}
        for index in sorted(range(len(self.paths)), key=self.paths.__getitem__):
            by_class.setdefault(int(self.truth[index]), []).append(index)
        generator = random.Random(0)
        shuffled = [generator.sample(group, len(group)) for _class, group in sorted(by_class.items())]
        order: list[int] = []
        for rank in range(max(map(len, shuffled))):
            # Some classes may get one image more than others. They are drawn at random, since ImageNet's first classes
            # are all fish and birds.
            candidates = [group[rank] for group in shuffled if rank < len(group)]
            order += generator.sample(candidates, len(candidates))
        sample = sorted(order[:limit])
        return LabelledImages(tuple(self.paths[index] for index in sample), self.truth[sample])


def folder_name(path: Path) -> str:
    """The name of an image's folder, however its path is written."""
    return os.path.basename(os.path.normpath(path.parent.absolute()))  # noqa: PTH119 - pathlib keeps `..`


def label_by_folder(paths: Sequence[Path], network: Manifest | Sequence[ClassName]) -> LabelledImages:
    """Images whose folders name their classes.

    Args:
        paths: image files.
        network: whose classes the folders name; or the classes themselves, if it is sure that they have names.

    Raises:
        UsageError: the name of a folder is not the id or label of a class; suggests the nearest. Or the classes have
            no names, only their positions as numbers.
    """
    if isinstance(network, Manifest) and network.unnamed:
        raise UsageError(_no_names(paths, len(network.classes)))
    classes = network.classes if isinstance(network, Manifest) else network
    first_images = {path.parent: path for path in paths}
    indices = {folder: class_of_folder(folder_name(path), classes) for folder, path in first_images.items()}
    return LabelledImages(tuple(paths), np.array([indices[path.parent] for path in paths], np.int64))


def _no_names(paths: Sequence[Path], classes: int) -> str:
    names = sorted({folder_name(path) for path in paths})
    few = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return (
        f"the network's {classes} classes have no names, only numbers, so nothing shows which folder is which class: "
        f"{few}. Give --labels FILE with the folders' names in the order of the outputs. For a network trained with "
        "torchvision's ImageFolder, LC_ALL=C ls TRAIN_DIR > FILE writes it"
    )


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """Error rates in 0..1 over `images` images. Another `failed` images have no posteriors and do not count."""

    images: int
    failed: int
    top1: float
    top5: float

    def standard_error(self, rate: float) -> float:
        """The standard error of a rate that was measured on these images: sqrt(p (1 - p) / n)."""
        return math.sqrt(max(rate * (1 - rate), 0.0) / self.images) if self.images else math.nan


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An engine's posteriors under one protocol.

    Attributes:
        protocol: how it was tested.
        posteriors: float32 [n, classes]; a row of NaN if the image failed.
        failures: images without posteriors.
        computed: how many images were scored now; the others came from the cache.
        seconds: time that the posteriors took, decoding included; for cached ones, when they were computed.
    """

    protocol: Protocol
    posteriors: Floats
    failures: tuple[Failure, ...]
    computed: int
    seconds: float

    @property
    def ms_per_image(self) -> float:
        """Milliseconds per image that has posteriors; NaN if none has."""
        answered = len(self.posteriors) - len(self.failures)
        return 1000 * self.seconds / answered if answered else math.nan

    @property
    def view_count(self) -> int:
        """The number of views of a landscape photo."""
        return len(self.protocol.views(*NOMINAL_SIZE, Rescaling()))


def evaluate(
    engine: Engine,
    paths: Sequence[Path],
    protocol: Protocol,
    *,
    cache: PosteriorCache | None = None,
    model: str = "",
    batch: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Posteriors of images under a protocol.

    Args:
        engine: any.
        paths: image files.
        protocol: how to test; `vgg_deploy.views.protocols.choose_protocol` makes one.
        cache: stores posteriors. An image is not computed again if the cache has its posteriors, or those of all parts
            of the protocol.
        model: fingerprint of the engine's weights, by which the cache distinguishes models.
        batch: see `vgg_deploy.inference.prediction.predict`.
        progress: called after each image.

    Raises:
        UsageError: there is a cache but no `model`; or see `predict`.
        EngineError: the engine failed. Earlier posteriors are in the cache.
        OutputError: the cache cannot be read or written.
    """
    scorer: Scorer = EngineScorer(engine, protocol, batch)
    if cache is not None:
        if not model:
            raise UsageError("model is empty; a cache needs the fingerprint of the weights to distinguish models")
        scorer = CachedScorer(scorer, cache, model=model, info=engine.info, protocol=protocol)
    posteriors = np.full((len(paths), len(engine.info.manifest.classes)), np.nan, np.float32)  # [n, classes]
    failures: list[Failure] = []
    computed, seconds = 0, 0.0
    for index, answer in scorer.score(paths):
        if isinstance(answer, Failure):
            failures.append(answer)
        else:
            posteriors[index] = answer.probabilities
            seconds += answer.seconds
            computed += not answer.cached
        progress()
    return Evaluation(protocol, posteriors, tuple(failures), computed, seconds)


def error_rates(posteriors: Floats, truth: npt.NDArray[np.int64]) -> ErrorRates:
    """Error rates over the images that have posteriors, and the number of those that have none.

    Args:
        posteriors: float32 [n, classes]; a row that is not finite stands for an image without posteriors.
        truth: int64 [n].
    """
    answered = np.isfinite(posteriors).all(axis=1)  # [n]
    rows, classes = posteriors[answered], truth[answered]  # [answered, classes], [answered]
    failed = len(posteriors) - len(rows)
    return ErrorRates(len(rows), failed, top_k_error(rows, classes, 1), top_k_error(rows, classes, 5))
