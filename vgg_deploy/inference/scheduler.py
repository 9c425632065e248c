"""Decides which views share a batch, and which batches an engine computes at the same time."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from vgg_deploy.inference.averaging import MeanScores, ViewScores, mean_scores
from vgg_deploy.inference.engine import Engine, Scores
from vgg_deploy.inference.preparation import PreparedImage
from vgg_deploy.network.tensors import Images
from vgg_deploy.views.images import MAX_VIEW_PIXELS, mirrored

# Pixels of views to hold per request of the engine, in batches that run or wait. This is one view of the largest
# allowed size, or six batches of a photo and its mirror at Q=512. So a request finds work while another computes a much
# larger batch. These pixels take 12 MiB; a full-width VGG that computes them takes 200 times as much.
PIXELS_PER_REQUEST = MAX_VIEW_PIXELS


@dataclass(frozen=True, slots=True)
class ScoredImage:
    """An image whose views are all scored.

    Attributes:
        path: the image file.
        size: its height and width, upright.
        failure: the reason why it was not scored; None if it was.
        scores: the mean over its views; None if it has no views.
    """

    path: Path
    size: tuple[int, int]
    failure: str | None
    scores: MeanScores | None


class _PendingImage:
    """An image between its preparation and its result.

    It holds no pixels: they are freed with the last batch that needs them.
    """

    def __init__(self, image: PreparedImage, number: int) -> None:
        self.number = number
        self.to_submit = len(image.views)  # views that are in no batch yet
        self._path, self._size, self._failure = image.path, image.size, image.failure
        self._views = [view for view, _pixels in image.views]
        self._scores: dict[int, ViewScores] = {}

    @property
    def done(self) -> bool:
        return len(self._scores) == len(self._views)

    def add_scores(self, index: int, scores: ViewScores) -> None:
        """Adds the scores of view number `index`."""
        self._scores[index] = scores

    def scored(self) -> ScoredImage:
        scores = [self._scores[index] for index in range(len(self._views))]
        return ScoredImage(self._path, self._size, self._failure, mean_scores(self._views, scores) if scores else None)


@dataclass(frozen=True, slots=True)
class _Slot:
    """The place of one view in a batch: view number `index` of an image, with its pixels, uint8 [h, w, 3]."""

    owner: _PendingImage
    index: int
    pixels: Images
    mirror: bool


_Shape = tuple[int, ...]  # of a view's pixels: height, width, 3


class Scheduler:
    """Groups views by shape into batches, runs the batches, and returns the images in the order of `add`.

    Which views share a batch depends only on the order of the images, never on timing. A runtime may compute a view
    differently in another batch, and predictions must not change from run to run. `add`, `flush` and `wait` change
    state; only `drain` yields.

    Args:
        engine: any.
        pool: runs the engine; it has as many threads as the engine takes requests.
        batch: the largest number of views in one batch.
        keep_score_maps: whether `MeanScores.score_maps` are kept.
    """

    def __init__(self, engine: Engine, pool: Executor, batch: int, *, keep_score_maps: bool) -> None:
        sizes = engine.info.shapes.batch
        self._engine, self._pool, self._keep_score_maps = engine, pool, keep_score_maps
        self._requests = engine.info.concurrency
        self._batch = max(sizes.minimum, batch if sizes.maximum is None else min(batch, sizes.maximum))
        self._smallest_batch = sizes.minimum
        # How many images may be added, and how many pixels of views may wait, while a view waits for others of its
        # shape.
        self._patience, self._patience_pixels = 2 * self._batch, self._batch * MAX_VIEW_PIXELS
        self._added = 0
        self._pending: deque[_PendingImage] = deque()
        self._unsubmitted: deque[_PendingImage] = deque()  # images with waiting views; later ones may have none left
        self._groups: dict[_Shape, list[_Slot]] = {}  # views that wait for others of their shape
        self._in_flight: dict[Future[Scores], list[_Slot]] = {}  # batches that run or wait for the engine, oldest first
        self._finished: SimpleQueue[Future[Scores]] = SimpleQueue()
        self._grouped_pixels = self._submitted_pixels = 0
        self._failure: BaseException | None = None

    @property
    def busy(self) -> bool:
        """Whether a batch runs or waits for the engine."""
        return bool(self._in_flight)

    @property
    def full(self) -> bool:
        """Whether to `wait` before the next image is added: each request has work, and enough pixels are held.

        A request always gets work, however large its views: the number of requests, the batch and the largest view
        bound what is computed at once.
        """
        held = self._grouped_pixels + self._submitted_pixels
        return len(self._in_flight) > self._requests and held >= self._requests * PIXELS_PER_REQUEST

    def add(self, image: PreparedImage) -> None:
        """Adds an image. Batches that are full, or have waited long enough for more views, go to the engine."""
        pending = _PendingImage(image, self._added)
        self._added += 1
        self._pending.append(pending)
        self._unsubmitted.append(pending)
        # The largest first, so that at the end of the stream the requests finish at nearly the same time.
        slots = [_Slot(pending, index, pixels, view.mirror) for index, (view, pixels) in enumerate(image.views)]
        for slot in sorted(slots, key=lambda slot: -slot.pixels.size):
            shape = slot.pixels.shape
            group = self._groups.setdefault(shape, [])
            group.append(slot)
            self._grouped_pixels += _area(shape)
            if len(group) >= self._batch:
                self._submit(shape)
        self._submit_overdue()

    def _submit_overdue(self) -> None:
        """Submits the oldest waiting views if they have waited long enough: later results wait for their image."""
        while self._unsubmitted:
            oldest = self._unsubmitted[0]
            if not oldest.to_submit:
                self._unsubmitted.popleft()
            elif self._added - oldest.number > self._patience or self._grouped_pixels > self._patience_pixels:
                groups = list(self._groups.items())
                for shape in (shape for shape, slots in groups if any(slot.owner is oldest for slot in slots)):
                    self._submit(shape)
            else:
                break

    def flush(self) -> None:
        """Submits all waiting views. Call it after the last image."""
        for shape in sorted(self._groups, key=math.prod, reverse=True):
            self._submit(shape)

    def wait(self) -> None:
        """Waits until any batch finishes."""
        self._collect(self._finished.get())

    def drain(self) -> Iterator[ScoredImage]:
        """Yields the scored images, in the order in which they were added, up to the first that is not yet scored.

        Raises:
            Exception: what a batch raised. Images that earlier batches completed are yielded first.
        """
        while not self._finished.empty():
            self._collect(self._finished.get())
        while self._pending and self._pending[0].done:
            yield self._pending.popleft().scored()
        if self._failure is not None:
            raise self._failure

    def _submit(self, shape: _Shape) -> None:
        slots = self._groups.pop(shape)
        for slot in slots:
            slot.owner.to_submit -= 1
        self._grouped_pixels -= len(slots) * _area(shape)
        self._submitted_pixels += len(slots) * _area(shape)
        future = self._pool.submit(self._run, slots, shape)
        self._in_flight[future] = slots
        future.add_done_callback(self._finished.put)

    def _run(self, slots: list[_Slot], shape: _Shape) -> Scores:
        # A model with a fixed batch size gets black images in the unused places.
        images = np.zeros((max(len(slots), self._smallest_batch), *shape), np.uint8)  # [n, h, w, 3]
        for index, slot in enumerate(slots):
            images[index] = mirrored(slot.pixels) if slot.mirror else slot.pixels
        return self._engine.run(images)

    def _collect(self, future: Future[Scores]) -> None:
        """Stores the scores of a batch that has finished, or handles its failure."""
        if future not in self._in_flight:
            return
        if future.exception() is not None:
            self._fail()
        else:
            self._store_scores(self._in_flight.pop(future), future.result())

    def _fail(self) -> None:
        """Stores the scores of the batches before the first one that failed, and drops those after it."""
        for future, slots in self._in_flight.items():
            self._failure = future.exception()  # waits for the batch
            if self._failure is not None:
                break
            self._store_scores(slots, future.result())
        self._in_flight.clear()

    def _store_scores(self, slots: list[_Slot], scores: Scores) -> None:
        maps = scores.score_map if self._keep_score_maps else None  # [n, classes, rows, cols]
        for row, slot in enumerate(slots):
            view_scores = ViewScores(
                scores.probabilities[row],
                None if scores.features is None else scores.features[row],
                None if maps is None else maps[row].copy(),  # a view of it would keep the maps of the whole batch
            )
            slot.owner.add_scores(slot.index, view_scores)
            self._submitted_pixels -= _area(slot.pixels.shape)


def _area(shape: _Shape) -> int:
    return shape[0] * shape[1]
