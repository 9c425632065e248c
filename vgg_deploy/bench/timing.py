"""Measured times: taken in turn, told with their spread, and set in relation to the work that was done."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vgg_deploy.errors import UsageError
from vgg_deploy.network.spec import NetworkSpec


def interleaved(repetitions: int, *contestants: Callable[[], float]) -> list[list[float]]:
    """Runs each contestant in turn, `repetitions` times over, so that a drift of the machine meets all of them alike.

    Returns:
        What each contestant gave, in the order of the contestants; the samples of one repetition have the same index.
    """
    samples: list[list[float]] = [[] for _ in contestants]
    for _ in range(repetitions):
        for index, contestant in enumerate(contestants):
            samples[index].append(contestant())
    return samples


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, float, float]:
    """Median, lowest and highest of the ratios of each pair."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def standard_error(samples: Sequence[float]) -> float:
    """Of the median of some samples, from their median absolute deviation, which a few disturbed ones do not move; NaN for one.

    Of normal noise, 1.4826 deviations are its sigma, and the median's own is 1.2533 sigma / sqrt(n).
    """
    if len(samples) < 2:
        return math.nan
    middle = statistics.median(samples)
    deviation = statistics.median(abs(sample - middle) for sample in samples)
    return 1.2533 * 1.4826 * deviation / math.sqrt(len(samples))


def percentile(samples: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of the samples lie, linear between the two nearest of them."""
    ordered = sorted(samples)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


@dataclass(frozen=True, slots=True)
class BatchShape:
    """A batch of images of one size: how many, and their height and width in pixels."""

    images: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if min(self.images, self.height, self.width) < 1:
            raise UsageError(f"a shape is {self}; expected NxHxW of at least 1 each, such as 1x224x224")

    def __str__(self) -> str:
        return f"{self.images}x{self.height}x{self.width}"

    @staticmethod
    def parse(text: str) -> BatchShape:
        """'8x224x224' -> 8 images of 224 rows and 224 columns.

        Raises:
            UsageError: anything else.
        """
        words = text.strip().lower().split("x")
        if len(words) != 3 or not all(word.isascii() and word.isdecimal() for word in words):
            raise UsageError(f"a shape is {text!r}; expected NxHxW: images, rows and columns, such as 1x224x224")
        return BatchShape(*map(int, words))

    def gflop(self, spec: NetworkSpec) -> float:
        """Work of one batch in 1e9 operations: two (a product and a sum) for each multiply-accumulate of the spec.

        VGG-16 at 224x224: 30.9. It is that of the network, however it is computed: our files run fc8 once, on the mean over positions.

        Raises:
            UsageError: smaller than the network's crop.
        """
        return 2 * self.images * spec.macs(self.height, self.width) / 1e9


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of calls that all did the same.

    Attributes:
        images: how many one call answers.
        seconds: of each call, in the order they were made.
    """

    images: int
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ValueError("a latency without a sample")

    @property
    def p50_ms(self) -> float:
        return 1000 * percentile(self.seconds, 0.5)

    @property
    def p90_ms(self) -> float:
        return 1000 * percentile(self.seconds, 0.9)

    @property
    def p99_ms(self) -> float:
        return 1000 * percentile(self.seconds, 0.99)

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
        """Effective rate, at the median time, of calls that do `gflop` of work each (`BatchShape.gflop`)."""
        return gflop / statistics.median(self.seconds)


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast as another a contestant is: the median of the ratios within each repetition, lowest and highest.

    Attributes:
        error: standard error of the median; NaN for one repetition.
    """

    median: float
    lowest: float
    highest: float
    error: float = field(default=math.nan, compare=False)

    @staticmethod
    def of(first: Sequence[float], other: Sequence[float]) -> Ratio:
        """Of a contestant with times `other` to one with times `first`, taken in the same repetitions; above 1: faster."""
        error = standard_error([a / b for a, b in zip(first, other, strict=True)])
        return Ratio(*paired_ratio(first, other), error)

    def __str__(self) -> str:
        return f"{self.median:.2f}x ({self.lowest:.2f} to {self.highest:.2f})"
