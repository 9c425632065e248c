"""A stopwatch, and figures that are computed from its samples."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np


class Stopwatch:
    """Times blocks of code.

    Attributes:
        seconds: wall time of each block.
        cpu_s: CPU time of this process over all blocks: user and system time of all its threads.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.cpu_s = 0.0

    @contextmanager
    def sample(self) -> Iterator[None]:
        """Times the `with` block."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.seconds.append(time.perf_counter() - wall)
        self.cpu_s += time.process_time() - cpu


def standard_error(samples: Sequence[float]) -> float:
    """Standard error of the median of some samples; NaN for one sample.

    It is computed from the median absolute deviation, which is robust to a few disturbed samples. For normal noise,
    sigma is 1.4826 deviations, and the standard error of the median is 1.2533 sigma / sqrt(n).
    """
    if len(samples) < 2:
        return math.nan
    middle = statistics.median(samples)
    deviation = statistics.median(abs(sample - middle) for sample in samples)
    return 1.2533 * 1.4826 * deviation / math.sqrt(len(samples))


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of samples that all did the same work.

    Attributes:
        images: the number of images in one sample.
        seconds: the time of each sample, in order.
    """

    images: int
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ValueError("a latency without a sample")

    @property
    def p50_ms(self) -> float:
        return self._percentile_ms(50)

    @property
    def p90_ms(self) -> float:
        return self._percentile_ms(90)

    @property
    def p99_ms(self) -> float:
        return self._percentile_ms(99)

    def _percentile_ms(self, percent: float) -> float:
        """A percentile of the samples, linear between the two nearest samples."""
        return 1000 * float(np.percentile(self.seconds, percent))

    @property
    def lowest_ms(self) -> float:
        return 1000 * min(self.seconds)

    @property
    def highest_ms(self) -> float:
        return 1000 * max(self.seconds)

    @property
    def images_per_s(self) -> float:
        """At the median time."""
        return self.images / statistics.median(self.seconds)

    def gflops_per_s(self, gflop: float) -> float:
        """Effective rate at the median time, if one sample does `gflop` of work (`BatchShape.gflop`)."""
        return gflop / statistics.median(self.seconds)


@dataclass(frozen=True, slots=True)
class Ratio:
    """The speed of one contestant relative to another: median, lowest and highest over the repetitions.

    Attributes:
        error: standard error of the median; NaN for one repetition.
    """

    median: float
    lowest: float
    highest: float
    error: float = field(default=math.nan, compare=False)

    @staticmethod
    def of(first: Sequence[float], other: Sequence[float]) -> Ratio:
        """From the times of two contestants in the same repetitions. Above 1: `other` is faster than `first`."""
        ratios = [a / b for a, b in zip(first, other, strict=True)]
        return Ratio(statistics.median(ratios), min(ratios), max(ratios), standard_error(ratios))

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.lowest:.2f} to {self.highest:.2f})"
