"""Classifies a stream of image files by averaged posteriors (section 3.2).

Threads decode and rescale images ahead of the engine. Views of one shape share a batch, also across images. Results
come in the order of the paths. Memory is bounded, however many images there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vgg_deploy.cores import usable_cores
from vgg_deploy.errors import UsageError
from vgg_deploy.inference.averaging import ScoreMap
from vgg_deploy.inference.compatibility import check_compatible
from vgg_deploy.inference.engine import CPU_BATCH, DEVICE_BATCH, Engine, EngineInfo
from vgg_deploy.inference.memory import with_memory_trimmed
from vgg_deploy.inference.posteriors import top_k
from vgg_deploy.inference.preparation import Preparation, prepare_ahead
from vgg_deploy.inference.scheduler import Scheduler, ScoredImage
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.tensors import Floats
from vgg_deploy.views.images import MAX_VIEW_PIXELS
from vgg_deploy.views.protocols import Protocol, choose_protocol

MOST_DECODERS = 8  # limits the decoding threads if `decoders` is not given


@dataclass(frozen=True, slots=True)
class Prediction:
    """The prediction for an image.

    Attributes:
        path: the image file.
        size: its height and width, upright.
        probabilities: float32 [classes], the mean of the views' posteriors.
        classes: their names.
        score_maps: one per view, if requested.
        features: float32 [fc_width], the spatial mean of fc7, averaged over the views, if the model gives it.
    """

    path: Path
    size: tuple[int, int]
    probabilities: Floats
    classes: tuple[ClassName, ...]
    score_maps: tuple[ScoreMap, ...] = ()
    features: Floats | None = None

    def top(self, k: int) -> list[tuple[ClassName, float]]:
        """The k most probable classes with their posteriors, most probable first."""
        return [(self.classes[index], float(self.probabilities[index])) for index in top_k(self.probabilities, k)]


@dataclass(frozen=True, slots=True)
class Failure:
    """An image without a prediction, and the reason."""

    path: Path
    reason: str


def default_batch(info: EngineInfo) -> int:
    """The largest number of views in one call, if nothing else is asked for."""
    return CPU_BATCH if info.device == "cpu" else DEVICE_BATCH


def predict(
    engine: Engine,
    paths: Iterable[str | Path],
    protocol: Protocol | None = None,
    *,
    batch: int | None = None,
    keep_score_maps: bool = False,
    max_view_pixels: int = MAX_VIEW_PIXELS,
    reduced_decoding: bool = False,
    decoders: int | None = None,
) -> Iterator[Prediction | Failure]:
    """Classifies images. Yields a prediction or a failure for each image, in the order of the paths.

    Args:
        engine: any. Its manifest names the classes, the rescaling and the training scale.
        paths: image files. They are consumed a few images ahead of the results.
        protocol: which views are averaged; None: the paper's default for this network.
        batch: the largest number of views of one shape in one call; fewer if the engine takes fewer. None: `CPU_BATCH`
            or `DEVICE_BATCH`.
        keep_score_maps: fill `Prediction.score_maps`. The engine must have this output.
        max_view_pixels: an image that would be rescaled to more pixels is a failure.
        reduced_decoding: decode large JPEGs at a reduced size, which changes posteriors: see
            `vgg_deploy.views.images.decode_reduced`.
        decoders: threads that decode and rescale. None: as many as there are compute threads, at most `MOST_DECODERS`.

    Raises, when the first result is requested or later:
        UsageError: `batch` is below 1, or the engine accepts no view of the protocol.
        EngineError: the engine failed. The results of earlier images have been yielded.
    """
    info = engine.info
    manifest = info.manifest
    if batch is None:
        batch = default_batch(info)
    if batch < 1:
        raise UsageError(f"batch is {batch}; expected 1 or more")
    if protocol is None:
        protocol = choose_protocol(manifest, free_size=info.shapes.free, built_for=info.scales).protocol
    check_compatible(info, protocol)
    prepare = Preparation(
        protocol=protocol,
        rescaling=manifest.rescaling,
        max_view_pixels=max_view_pixels,
        reduced_decoding=reduced_decoding,
        info=info,
    )
    decoders = decoders or min(MOST_DECODERS, info.threads or usable_cores())
    decoding = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
    requests = ThreadPoolExecutor(info.concurrency, thread_name_prefix="engine")
    try:
        scheduler = Scheduler(engine, requests, batch, keep_score_maps=keep_score_maps)
        images = prepare_ahead(decoding, prepare, map(Path, paths), ahead=max(4, 2 * batch, decoders))
        for image in with_memory_trimmed(images):
            scheduler.add(image)
            yield from _results(scheduler, manifest)
            while scheduler.full:
                scheduler.wait()
                yield from _results(scheduler, manifest)
        scheduler.flush()
        yield from _results(scheduler, manifest)
        while scheduler.busy:
            scheduler.wait()
            yield from _results(scheduler, manifest)
    finally:
        decoding.shutdown(cancel_futures=True)
        requests.shutdown(cancel_futures=True)


def _results(scheduler: Scheduler, manifest: Manifest) -> Iterator[Prediction | Failure]:
    return (_result(image, manifest.classes) for image in scheduler.drain())


def _result(image: ScoredImage, classes: tuple[ClassName, ...]) -> Prediction | Failure:
    if image.failure is not None or image.scores is None:
        return Failure(image.path, image.failure or "the protocol makes no view of this image")
    scores = image.scores
    if not np.isfinite(scores.probabilities).all():
        return Failure(
            image.path,
            "the model gave NaN: its weights are damaged, or FP16 overflowed; run vgg-deploy verify to find out",
        )
    return Prediction(image.path, image.size, scores.probabilities, classes, scores.score_maps, scores.features)
