"""What a contestant does in a turn: calls on one batch, or a pass over image files."""

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
from vgg_deploy.inference.engine import ContextManaged, Engine
from vgg_deploy.inference.prediction import Failure, predict
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.views.protocols import Protocol

TURN_S, MOST_SAMPLES = 0.1, 20
# After another engine's turn its threads still spin for a moment (ONNX Runtime's), and the caches hold its weights. So
# the first call of a turn does not count if it is shorter than this.
SETTLING_S = 0.2

Forward = Callable[[Images], Floats]  # uint8 [n, h, w, 3], RGB -> posteriors, float32 [n, classes]


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn measured. A sample is a call, several calls at once, or a pass over image files.

    Attributes:
        images: how many images one sample answers.
        seconds: wall time of each sample.
        cpu_s: CPU time of the contestant's process, all threads, in all samples together; NaN: not measured.
        answers: posteriors float32 [distinct images, classes], one array for each call that was computed at once.
        failures: images without an answer (their rows are NaN), with the reason.
    """

    images: int
    seconds: tuple[float, ...]
    cpu_s: float = math.nan
    answers: tuple[Floats, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def image_s(self) -> float:
        """Seconds an image, in the median sample."""
        return statistics.median(self.seconds) / self.images

    @property
    def cores_busy(self) -> float:
        """CPU seconds divided by wall seconds."""
        return self.cpu_s / sum(self.seconds)


class Calls(ContextManaged):
    """Answers a batch again and again.

    Args:
        run: answers one batch.
        at_once: calls that are computed side by side.
        queued: calls that one sample submits for each of them; with more than one, the shorter wait for the last call
            counts less.
        least_s: a turn repeats the sample until this much time has passed, at most `MOST_SAMPLES` times.
        settles: whether the first call of a turn does not count if it is shorter than `SETTLING_S`.
    """

    def __init__(
        self, run: Forward, *, at_once: int = 1, queued: int = 1, least_s: float = TURN_S, settles: bool = False
    ) -> None:
        self._run, self._calls, self._least_s, self._settles = run, at_once * queued, least_s, settles
        self._pool = ThreadPoolExecutor(at_once)

    def __call__(self, batch: ImageBatch, once: bool = False) -> Turn:
        """One turn; `once`: a single sample."""
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
    """One pass over image files, from decoding to averaged posteriors, as `predict` makes it: a turn of one sample."""
    watch = Stopwatch()
    with watch.sample():
        results = list(predict(engine, paths, protocol))
    missing = np.full(len(engine.info.manifest.classes), np.nan, np.float32)
    rows = [missing if isinstance(result, Failure) else result.probabilities for result in results]
    failures = [f"{result.path.name}: {result.reason}" for result in results if isinstance(result, Failure)]
    return Turn(len(paths), tuple(watch.seconds), watch.cpu_s, (np.stack(rows),), tuple(failures))
