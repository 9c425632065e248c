"""From image files to averaged posteriors (section 3.2), streamed.

Images are decoded and rescaled in threads ahead of the engine; views of one shape share a batch, also across images; results
come in input order. How views are put into batches depends on the order of the images alone, never on timing. What is held at
once is bounded, however many images there are.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vgg_deploy.cores import usable_cores
from vgg_deploy.errors import ImageError, UsageError
from vgg_deploy.inference.compatibility import check_compatible, view_refusal
from vgg_deploy.inference.engine import CPU_BATCH, DEVICE_BATCH, Engine, EngineInfo, Scores
from vgg_deploy.inference.memory import given_back
from vgg_deploy.inference.posteriors import top_k
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.manifest import Rescaling
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.views.images import MAX_VIEW_PIXELS, decode_reduced, mirrored, rescale
from vgg_deploy.views.protocols import Protocol, choose_protocol
from vgg_deploy.views.view import View


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """Class scores of one view, float32 [classes, rows, columns]."""

    view: View
    scores: Floats


@dataclass(frozen=True, slots=True)
class Prediction:
    """An image's answer.

    Attributes:
        path: the image file.
        size: its height and width, upright.
        probabilities: float32 [classes], the mean of the views' posteriors.
        classes: their names.
        score_maps: of each view, where they were asked for.
        features: float32 [fc_width], the mean of the views' spatial means of fc7, where the model gives them.
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
    """An image that has no answer, and why."""

    path: Path
    reason: str


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
    """Classifies images, in order, each with its result or its failure. Once a second freed memory is given back to the system.

    Args:
        engine: any; its manifest names classes, rescaling and defaults.
        paths: image files.
        protocol: which views are averaged; None: the paper's default for this network.
        batch: views of one shape in one call, at most; less where the engine takes less. None: `CPU_BATCH` or `DEVICE_BATCH`.
        keep_score_maps: give `Prediction.score_maps`; the engine must have the output.
        max_view_pixels: an image that would be rescaled to more is a failure.
        reduced_decoding: decode large JPEGs at a reduced size, see `vgg_deploy.views.images.decode_reduced`; changes posteriors.
        decoders: threads that decode and rescale; None: as many as compute, at most 8.

    Raises, as the first result is asked for or later:
        UsageError: `batch` is below 1; the engine takes no view that the protocol can make.
        EngineError: the engine failed; earlier results have been given.
    """
    if batch is None:
        batch = CPU_BATCH if engine.info.device == "cpu" else DEVICE_BATCH
    if batch < 1:
        raise UsageError(f"batch is {batch}; expected 1 or more")
    manifest = engine.info.manifest
    if protocol is None:
        info = engine.info
        protocol = choose_protocol(manifest, free_size=info.shapes.free, built_for=info.scales).protocol
    check_compatible(engine.info, protocol)
    prepare = _Preparation(protocol, manifest.rescaling, max_view_pixels, reduced_decoding, engine.info)
    decoding = ThreadPoolExecutor(
        decoders or min(8, engine.info.threads or usable_cores()), thread_name_prefix="decode"
    )
    running = ThreadPoolExecutor(engine.info.concurrency, thread_name_prefix="engine")
    try:
        scheduler = _Scheduler(engine, running, batch, keep_score_maps)
        ahead = _ahead(decoding, prepare, (Path(path) for path in paths), ahead=max(4, 2 * batch))
        for prepared in given_back(ahead):
            yield from scheduler.add(prepared)
            yield from scheduler.finished()
        yield from scheduler.flush()
        yield from scheduler.finished(wait=True)
    finally:
        decoding.shutdown(cancel_futures=True)
        running.shutdown(cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A decoded image as views, or the reason why not. Views that are mirrors of each other share their pixels."""

    path: Path
    size: tuple[int, int] = (0, 0)
    views: tuple[tuple[View, Images], ...] = ()
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class _Preparation:
    protocol: Protocol
    rescaling: Rescaling
    max_view_pixels: int
    reduced: bool
    info: EngineInfo

    def __call__(self, path: Path) -> _Prepared:
        try:
            image = decode_reduced(path, max(self.protocol.scales) if self.reduced else None)
            height, width = image.size
            views = self.protocol.views(height, width, self.rescaling)
            rescaled = {
                scale: rescale(image.pixels, scale, self.rescaling, self.max_view_pixels, image.size)
                for scale in {view.short_side for view in views}
            }
            cut = tuple((view, view.cut(rescaled[view.short_side], self.rescaling)) for view in views)
            self._check(cut)
        except ImageError as error:
            return _Prepared(path, failure=str(error))
        return _Prepared(path, (height, width), cut)

    def _check(self, views: tuple[tuple[View, Images], ...]) -> None:
        for _view, pixels in views:
            reason = view_refusal(self.info, pixels.shape[0], pixels.shape[1])
            if reason is not None:
                raise ImageError(reason)


def _ahead(
    pool: ThreadPoolExecutor, prepare: Callable[[Path], _Prepared], paths: Iterator[Path], ahead: int
) -> Iterator[_Prepared]:
    """Results of `prepare` in order, with `ahead` of them under way or waiting."""
    waiting: deque[Future[_Prepared]] = deque()
    for path in paths:
        waiting.append(pool.submit(prepare, path))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@dataclass(eq=False, slots=True)
class _Image:
    """An image between its preparation and its result."""

    prepared: _Prepared
    total: npt.NDArray[np.float64] | None = None
    features: npt.NDArray[np.float64] | None = None
    to_submit: int = 0
    to_come: int = 0
    score_maps: list[ScoreMap] = field(default_factory=list)


_Slot = tuple[_Image, View, Images]


class _Scheduler:
    """Groups views by shape into batches, runs them, and hands out finished images in order."""

    def __init__(self, engine: Engine, running: ThreadPoolExecutor, batch: int, keep_score_maps: bool) -> None:
        shapes = engine.info.shapes.batch
        self._engine, self._running, self._keep = engine, running, keep_score_maps
        self._batch = max(shapes.minimum, batch if shapes.maximum is None else min(batch, shapes.maximum))
        self._least = shapes.minimum
        # Images that may be held while the oldest waits for company, and batches that may wait for the engine.
        self._patience, self._backlog = 2 * self._batch, engine.info.concurrency + 1
        self._images: deque[_Image] = deque()
        self._groups: dict[tuple[int, ...], list[_Slot]] = {}
        self._under_way: deque[tuple[list[_Slot], Future[Scores]]] = deque()

    def add(self, prepared: _Prepared) -> Iterator[Prediction | Failure]:
        """Takes an image on; gives the results that it had to wait for."""
        image = _Image(prepared, to_submit=len(prepared.views), to_come=len(prepared.views))
        self._images.append(image)
        # The largest first: where there is little else to do, the requests then end at nearly the same time.
        for view, pixels in sorted(prepared.views, key=lambda pair: -pair[1].size):
            group = self._groups.setdefault(pixels.shape, [])
            group.append((image, view, pixels))
            if len(group) >= self._batch:
                yield from self._submit(pixels.shape)
        # Whatever follows the oldest image whose views wait is held until it is done, waiting or not.
        oldest = next((place for place, image in enumerate(self._images) if image.to_submit), len(self._images))
        if len(self._images) - oldest > self._patience:
            waiting = self._images[oldest]
            for shape in [shape for shape, group in self._groups.items() if any(slot[0] is waiting for slot in group)]:
                yield from self._submit(shape)

    def flush(self) -> Iterator[Prediction | Failure]:
        """Submits what waits for company."""
        for shape in sorted(self._groups, key=math.prod, reverse=True):
            yield from self._submit(shape)

    def finished(self, *, wait: bool = False) -> Iterator[Prediction | Failure]:
        """Images that are done, in order, as far as no earlier one is missing; with `wait`, all."""
        while self._under_way and (wait or self._under_way[0][1].done()):
            self._collect()
            yield from self._pop_done()
        yield from self._pop_done()

    def _pop_done(self) -> Iterator[Prediction | Failure]:
        while self._images and self._images[0].to_come == 0:
            yield self._result(self._images.popleft())

    def _submit(self, shape: tuple[int, ...]) -> Iterator[Prediction | Failure]:
        slots = self._groups.pop(shape)
        while len(self._under_way) >= self._backlog:
            self._collect()
            yield from self._pop_done()
        for image, _view, _pixels in slots:
            image.to_submit -= 1
        self._under_way.append((slots, self._running.submit(self._run, slots, shape)))

    def _run(self, slots: list[_Slot], shape: tuple[int, ...]) -> Scores:
        # A model of a fixed batch gets blank images for company.
        images = np.zeros((max(len(slots), self._least), *shape), np.uint8)
        for index, (_image, view, pixels) in enumerate(slots):
            images[index] = mirrored(pixels) if view.mirror else pixels
        return self._engine.run(images)

    def _collect(self) -> None:
        """Waits for the oldest batch and adds its scores to their images."""
        slots, future = self._under_way.popleft()
        scores = future.result()
        for index, (image, view, _pixels) in enumerate(slots):
            row = view.weight * scores.probabilities[index].astype(np.float64)
            image.total = row if image.total is None else image.total + row
            image.to_come -= 1
            if scores.features is not None:
                features = view.weight * scores.features[index].astype(np.float64)
                image.features = features if image.features is None else image.features + features
            if self._keep and scores.score_map is not None:
                image.score_maps.append(ScoreMap(view, scores.score_map[index].copy()))

    def _result(self, image: _Image) -> Prediction | Failure:
        prepared = image.prepared
        if prepared.failure is not None or image.total is None:
            return Failure(prepared.path, prepared.failure or "the protocol has no view of it")
        weight = sum(view.weight for view, _pixels in prepared.views)
        probabilities = (image.total / weight).astype(np.float32)
        if not np.isfinite(probabilities).all():
            return Failure(
                prepared.path,
                "the model gave NaN for it: its weights are damaged, or FP16 overflowed (vgg-deploy verify)",
            )
        features = None if image.features is None else (image.features / weight).astype(np.float32)
        classes = self._engine.info.manifest.classes
        return Prediction(prepared.path, prepared.size, probabilities, classes, tuple(image.score_maps), features)
