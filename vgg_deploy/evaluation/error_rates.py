"""Error rates of engines on labelled images (section 4), and of several engines' mean posteriors (section 4.4)."""

from __future__ import annotations

import hashlib
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vgg_deploy.errors import UsageError
from vgg_deploy.evaluation.posterior_cache import Known, PosteriorCache
from vgg_deploy.inference.engine import Engine
from vgg_deploy.inference.posteriors import top_k_error
from vgg_deploy.inference.prediction import Failure, predict
from vgg_deploy.network.classes import ClassName, class_of_folder
from vgg_deploy.network.manifest import Rescaling
from vgg_deploy.network.tensors import Floats
from vgg_deploy.views.protocols import Protocol

NOMINAL_SIZE = (375, 500)  # of an ImageNet photo: height and width, for counting a protocol's views


@dataclass(frozen=True, slots=True)
class LabelledImages:
    """Images and their classes.

    Attributes:
        paths: image files.
        truth: int64 [n], the index of each one's class.
    """

    paths: tuple[Path, ...]
    truth: npt.NDArray[np.int64]

    def sample(self, limit: int) -> LabelledImages:
        """At most `limit` of them, in order: seeded, with as many of each class as can be."""
        if limit >= len(self.paths):
            return self
        by_class: dict[int, list[int]] = {}
        for index in sorted(range(len(self.paths)), key=self.paths.__getitem__):
            by_class.setdefault(int(self.truth[index]), []).append(index)
        chance = random.Random(0)
        shuffled = [chance.sample(group, len(group)) for _class, group in sorted(by_class.items())]
        taken: list[int] = []
        for turn in range(max(map(len, shuffled))):
            # Which classes have one image more than others is drawn too: the first of ImageNet's are all fish and birds.
            left = [group[turn] for group in shuffled if turn < len(group)]
            taken += chance.sample(left, len(left))
        kept = sorted(taken[:limit])
        return LabelledImages(tuple(self.paths[index] for index in kept), self.truth[kept])


def folder_name(path: Path) -> str:
    """The name of the folder that an image lies in, however the way to it was written."""
    return os.path.basename(os.path.normpath(path.parent.absolute()))  # noqa: PTH119 - pathlib keeps `..`


def label_by_folder(paths: Sequence[Path], classes: Sequence[ClassName]) -> LabelledImages:
    """Images by the names of their folders.

    Raises:
        UsageError: a folder's name is no class's id or label; names the nearest.
    """
    by_folder = {path.parent: path for path in paths}
    folders = {folder: class_of_folder(folder_name(path), classes) for folder, path in by_folder.items()}
    return LabelledImages(tuple(paths), np.array([folders[path.parent] for path in paths], np.int64))


@dataclass(frozen=True, slots=True)
class ErrorRates:
    """Error rates in 0..1 over `images` images, with their standard errors; `failed` more have no answer and do not count."""

    images: int
    failed: int
    top1: float
    top5: float

    def standard_error(self, rate: float) -> float:
        """Of a share measured on that many images: sqrt(p (1 - p) / n)."""
        return math.sqrt(max(rate * (1 - rate), 0.0) / self.images) if self.images else math.nan


@dataclass(frozen=True, slots=True)
class Evaluation:
    """An engine's answers under one protocol.

    Attributes:
        protocol: how it was tested.
        posteriors: float32 [n, classes]; a row of NaN where the image failed.
        failures: images without an answer.
        computed: images that were scored now; the others were known.
        seconds: from decoding to answers, of all that have one: of those that were known, when they were computed.
    """

    protocol: Protocol
    posteriors: Floats
    failures: tuple[Failure, ...]
    computed: int
    seconds: float

    @property
    def ms_per_image(self) -> float:
        """NaN where there is no answer."""
        answered = len(self.posteriors) - len(self.failures)
        return 1000 * self.seconds / answered if answered else math.nan

    @property
    def views(self) -> int:
        """Views of a landscape photo."""
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
    """Posteriors of images under a protocol; those in the cache, whole or in parts, are not computed again.

    Args:
        engine: any.
        paths: image files.
        protocol: see `vgg_deploy.views.protocols.choose_protocol`.
        cache: posteriors that are known; new ones are put there as they come.
        model: fingerprint of the engine's weights; the cache needs it.
        progress: called after each image.

    Raises:
        UsageError: a cache without `model`; see also `vgg_deploy.inference.prediction.predict`.
        EngineError: the engine failed; what came before is in the cache.
        OutputError: the cache cannot be read or written.
    """
    info = engine.info
    if cache is not None and not model:
        raise UsageError("model is empty; a cache needs the fingerprint of the engine's weights to tell them apart")
    # Not of the manifest whole: other labels, or another S, are no other answers.
    network = repr(info.manifest.spec), repr(info.manifest.normalization)
    tested = fingerprint(model, *network, info.runtime, info.device, info.precision)
    setting, *parts = (
        (tested, fingerprint(repr(one), repr(info.manifest.rescaling))) for one in (protocol, *protocol.parts)
    )
    posteriors = np.full((len(paths), len(info.manifest.classes)), np.nan, np.float32)
    missing, seconds = [], 0.0
    for index, path in enumerate(paths):
        image = None if cache is None else cache.fingerprint(path)
        known = None
        if cache is not None and image is not None:
            known = cache.get(*setting, image) or _together([cache.get(*part, image) for part in parts])
        if known is None or known.probabilities.shape != posteriors[index].shape:
            missing.append(index)
            continue
        posteriors[index] = known.probabilities
        seconds += known.seconds
        progress()
    failures: list[Failure] = []
    results = predict(engine, [paths[index] for index in missing], protocol, batch=batch)
    began = time.perf_counter()
    for index, result in zip(missing, results, strict=True):
        if isinstance(result, Failure):
            failures.append(result)
        else:
            # Images run at once: what one cost is the time since the last one came.
            now = time.perf_counter()
            spent, began = now - began, now
            posteriors[index] = result.probabilities
            seconds += spent
            image = None if cache is None else cache.fingerprint(result.path)
            if cache is not None and image is not None:
                cache.put(*setting, image, result.probabilities, spent)
        progress()
    return Evaluation(protocol, posteriors, tuple(failures), len(missing) - len(failures), seconds)


def _together(parts: Sequence[Known | None]) -> Known | None:
    """The mean of a protocol's parts, and what they cost together; None where one is not known."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts) or len({part.probabilities.shape for part in known}) > 1:
        return None
    return Known(fused([part.probabilities for part in known]), sum(part.seconds for part in known))


def fused(posteriors: Sequence[Floats]) -> Floats:
    """The mean of several networks' posteriors, float32 [n, classes] each (section 4.4); NaN where one has none.

    Raises:
        UsageError: they have other numbers of classes.
    """
    if len({rows.shape for rows in posteriors}) > 1:
        counts = ", ".join(str(rows.shape[1]) for rows in posteriors)
        raise UsageError(f"networks of {counts} classes cannot be fused: their classes must be the same")
    return np.asarray(np.mean(np.stack(posteriors), axis=0, dtype=np.float64), np.float32)


def error_rates(posteriors: Floats, truth: npt.NDArray[np.int64]) -> ErrorRates:
    """Error rates over the images that have an answer; how many have none."""
    answered = np.isfinite(posteriors).all(axis=1)
    rows, wanted = posteriors[answered], truth[answered]
    failed = len(posteriors) - len(rows)
    return ErrorRates(len(rows), failed, top_k_error(rows, wanted, 1), top_k_error(rows, wanted, 5))


def fingerprint(*parts: str) -> str:
    """One fingerprint of several texts."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
