"""A contestant's turn: calls on one batch, or a pass over image files."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vgg_deploy.bench.batches import ImageBatch
from vgg_deploy.bench.timing import Stopwatch
from vgg_deploy.bench.turn_length import MOST_SAMPLES, SETTLING_S, TURN_S
from vgg_deploy.inference.context_managed import ContextManaged
from vgg_deploy.inference.engine import Engine
from vgg_deploy.inference.prediction import Failure, predict
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.views.protocols import Protocol

Forward = Callable[[Images], Floats]  # uint8 [n, h, w, 3], RGB -> posteriors, float32 [n, classes]


@dataclass(frozen=True, slots=True)
class Turn:
    """The measurements of one turn. A sample is a call, several concurrent calls, or a pass over image files.

    Attributes:
        images: the number of images in one sample.
        seconds: wall time of each sample.
        cpu_s: CPU time of the contestant's process, over all threads and samples; NaN if not measured.
        answers: posteriors float32 [distinct images, classes], one array for each concurrent call.
        failures: images without posteriors (their rows are NaN), with the reason.
    """

    images: int
    seconds: tuple[float, ...]
    cpu_s: float = math.nan
    answers: tuple[Floats, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def image_s(self) -> float:
        """Seconds per image, in the median sample."""
        return statistics.median(self.seconds) / self.images

    @property
    def cores_busy(self) -> float:
        """CPU seconds divided by wall seconds."""
        return self.cpu_s / sum(self.seconds)


class Calls(ContextManaged):
    """Runs a batch repeatedly.

    Args:
        run: computes the posteriors of one batch.
        at_once: calls that run in parallel.
        queued: how many calls a sample submits for each parallel one. The more, the less the wait for the last call
            counts.
        least_s: a turn repeats the sample until this much time has passed, but at most `MOST_SAMPLES` times.
        settles: whether the first call of a turn does not count if it is shorter than `SETTLING_S`.
    """

    def __init__(
        self, run: Forward, *, at_once: int = 1, queued: int = 1, least_s: float = TURN_S, settles: bool = False
    ) -> None:
        self._run, self._calls, self._least_s, self._settles = run, at_once * queued, least_s, settles
        self._pool = ThreadPoolExecutor(at_once)

    def __call__(self, batch: ImageBatch, once: bool = False) -> Turn:
        """One turn, or a single sample if `once`."""
        watch = Stopwatch()
        answers = self._sample(watch, batch.images)
        if self._settles and not once and watch.seconds[0] < SETTLING_S:
            watch = Stopwatch()
            answers = self._sample(watch, batch.images)
        while not once and sum(watch.seconds) < self._least_s and len(watch.seconds) < MOST_SAMPLES:
            answers = self._sample(watch, batch.images)
        distinct = tuple(rows[: batch.distinct] for rows in answers)
        return Turn(self._calls * len(batch.images), tuple(watch.seconds), watch.cpu_s, distinct)

    def _sample(self, watch: Stopwatch, images: Images) -> list[Floats]:
        with watch.sample():
            if self._calls == 1:
                return [self._run(images)]
            return list(self._pool.map(self._run, [images] * self._calls))

    def close(self) -> None:
        self._pool.shutdown()


def timed_pass(engine: Engine, paths: Sequence[Path], protocol: Protocol) -> Turn:
    """A turn of one sample: one pass of `predict` over image files, decoding included."""
    watch = Stopwatch()
    with watch.sample():
        results = list(predict(engine, paths, protocol))
    missing = np.full(len(engine.info.manifest.classes), np.nan, np.float32)
    rows = [missing if isinstance(result, Failure) else result.probabilities for result in results]
    failures = [f"{result.path.name}: {result.reason}" for result in results if isinstance(result, Failure)]
    return Turn(len(paths), tuple(watch.seconds), watch.cpu_s, (np.stack(rows),), tuple(failures))
