"""Which reading of a checkpoint fits labelled images best, and whether the images are enough to say so."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from train.network.reading import Reading
from vgg_deploy.evaluation.paired_difference import PairedDifference

Doubles = npt.NDArray[np.float64]

CLEAR = 3.0  # standard errors by which the best reading must be better than each other one, and than chance
# The standard error of few differences is itself uncertain. With 16 images, one of two equally good readings passes for
# clear in 1 % of cases; with 100 images, in 0.3 %.
FEWEST_IMAGES = 16
# How far a right reading may be over- or underconfident. Its scores divided by such a temperature fit best.
TEMPERATURES = (1 / 4, 4.0)
_SEARCHED = (-12.0, 12.0)  # base-2 logarithms of the smallest and largest temperature that is tried


@dataclass(frozen=True, slots=True)
class MeasuredReading:
    """A reading, and its class scores for the first images.

    Attributes:
        reading: how the checkpoint took its pixels.
        scores: float64 [n, classes], before the soft-max.
        truth: int64 [n].
        losses: float64 [n], the cross-entropy of each image, in nats.
        hits: float64 [n], 1 where the largest score is that of the image's class, else 0.
    """

    reading: Reading
    scores: Doubles
    truth: npt.NDArray[np.int64]
    losses: Doubles
    hits: Doubles

    @staticmethod
    def of(reading: Reading, scores: npt.NDArray[np.floating], truth: npt.NDArray[np.int64]) -> MeasuredReading:
        """Measures scores [n, classes]. Scores that are not finite, of an overflow, count as no answer: all equal."""
        finite = np.isfinite(scores).all(axis=1, keepdims=True)  # [n, 1]
        clean = np.where(finite, scores, 0.0).astype(np.float64)  # [n, classes]
        hits = (clean.argmax(axis=1) == truth) & finite[:, 0]  # [n]
        return MeasuredReading(reading, clean, truth, _losses(clean, truth), hits.astype(np.float64))

    @property
    def images(self) -> int:
        return len(self.losses)

    @property
    def cross_entropy(self) -> float:
        """Mean cross-entropy in nats."""
        return float(self.losses.mean())

    @property
    def top1(self) -> float:
        """Share of images of which the largest score is right, in 0..1."""
        return float(self.hits.mean())

    def over(self, other: MeasuredReading) -> PairedDifference:
        """The cross-entropy minus that of a reading with at least as many images, on the images of both."""
        return PairedDifference.of(self.losses - other.losses[: self.images])

    def top1_over(self, other: MeasuredReading) -> PairedDifference:
        """Top-1 minus that of a reading with at least as many images, on the images of both."""
        return PairedDifference.of(self.hits - other.hits[: self.images])

    def apart_from(self, best: MeasuredReading, standard_errors: float) -> bool:
        """Whether this reading is clearly worse than the best one."""
        enough = self.images >= FEWEST_IMAGES
        return enough and self.over(best).above(standard_errors) and not self.only_less_calibrated_than(best)

    def only_less_calibrated_than(self, best: MeasuredReading) -> bool:
        """Whether this reading fits better than `best` once the confidence of both is set right.

        A network is often overconfident on new images. A wrong reading with smaller inputs then has the smaller
        cross-entropy, only because its scores are smaller. So both are compared at their best temperature too.
        """
        loss, temperature = self.calibrated(self.images)
        return TEMPERATURES[0] <= temperature <= TEMPERATURES[1] and loss < best.calibrated(self.images)[0]

    def calibrated(self, images: int) -> tuple[float, float]:
        """The smallest cross-entropy of the first images with the scores divided by a temperature, and that
        temperature.
        """
        scores, truth = self.scores[:images], self.truth[:images]

        def loss(exponent: float) -> float:
            return float(_losses(scores / 2**exponent, truth).mean())

        # The loss is convex in 1 / temperature, so it has one valley, which golden-section search finds.
        low, high = _SEARCHED
        ratio = (math.sqrt(5) - 1) / 2
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        loss_left, loss_right = loss(left), loss(right)
        while high - low > 1e-3:
            if loss_left <= loss_right:
                high, right, loss_right = right, left, loss_left
                left = high - ratio * (high - low)
                loss_left = loss(left)
            else:
                low, left, loss_left = left, right, loss_right
                right = low + ratio * (high - low)
                loss_right = loss(right)
        return loss((low + high) / 2), 2 ** ((low + high) / 2)


def _losses(scores: Doubles, truth: npt.NDArray[np.int64]) -> Doubles:
    """Cross-entropy float64 [n] of scores [n, classes]."""
    shifted = scores - scores.max(axis=1, keepdims=True)  # [n, classes]
    losses: Doubles = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(truth)), truth]  # [n]
    return losses


@dataclass(frozen=True, slots=True)
class Ranking:
    """Readings of a checkpoint, the best first.

    Attributes:
        measured: by cross-entropy. The first has seen all images; a hopeless one may have seen only the first of them.
        coloured: how many of the images are not grey.
    """

    measured: tuple[MeasuredReading, ...]
    coloured: int

    @staticmethod
    def of(measured: Sequence[MeasuredReading], coloured: int) -> Ranking:
        """Ranks by the paired difference of cross-entropy to the best of those that have seen all images."""
        most = max(row.images for row in measured)
        best = min((row for row in measured if row.images == most), key=lambda row: row.cross_entropy)
        others = [row for row in measured if row is not best]
        return Ranking((best, *sorted(others, key=lambda row: row.over(best).mean)), coloured)

    @property
    def best(self) -> MeasuredReading:
        return self.measured[0]

    @property
    def chance(self) -> float:
        """Top-1, in 0..1, of always giving the most frequent class of the images."""
        return float(np.bincount(self.best.truth).max()) / self.best.images

    @property
    def better_than_chance(self) -> bool:
        """Whether the best reading's top-1 is above chance by more than `CLEAR` standard errors."""
        chance = self.chance
        spread = math.sqrt(chance * (1 - chance) / self.best.images)
        return self.best.top1 - chance > CLEAR * spread

    @property
    def rivals(self) -> tuple[MeasuredReading, ...]:
        """Readings that cannot be told apart from the best."""
        return tuple(row for row in self.measured[1:] if self._grey_twin(row) or not row.apart_from(self.best, CLEAR))

    def _grey_twin(self, row: MeasuredReading) -> bool:
        """Whether a reading differs from the best only by its channels, and too few images have colours.

        RGB and BGR give grey images other values only where the means of the channels differ. This shows the order of
        the channels only if the mean is exactly right, which nobody knows.
        """
        twin = dataclasses.replace(row.reading, channels=self.best.reading.channels) == self.best.reading
        return twin and self.coloured < FEWEST_IMAGES

    @property
    def one_class(self) -> bool:
        """Whether all images are of one class, so that nothing can be better than chance."""
        return bool((self.best.truth == self.best.truth[0]).all())

    @property
    def clear(self) -> bool:
        """Whether the best reading can be recommended."""
        return self.best.images >= FEWEST_IMAGES and self.better_than_chance and not self.rivals
