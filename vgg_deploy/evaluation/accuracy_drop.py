"""What a lower precision costs in accuracy: the drop of a candidate against its reference on the same images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vgg_deploy.evaluation.paired_difference import PairedDifference
from vgg_deploy.inference.posteriors import Integers, top_k
from vgg_deploy.network.tensors import Floats


@dataclass(frozen=True, slots=True)
class AccuracyDrop:
    """A drop of top-k accuracy, in percentage points; negative if the candidate is better.

    Attributes:
        k: how many classes count.
        points: the drop.
        standard_error: of the drop, from the images on which the two differ; NaN for a single image.
    """

    k: int
    points: float
    standard_error: float

    def __str__(self) -> str:
        return f"top-{self.k} {0 - self.points:+.2f} ± {self.standard_error:.2f} points"


def accuracy_drop(reference: Floats, candidate: Floats, truth: Integers, k: int) -> AccuracyDrop:
    """The drop of top-k accuracy from a reference to a candidate, with its standard error.

    Args:
        reference, candidate: posteriors, float32 [n, classes], n at least 1.
        truth: int64 [n], the index of each image's class.
        k: how many classes count.
    """
    lost = _hits(reference, truth, k) - _hits(candidate, truth, k)  # [n], each -1, 0 or 1
    drop = PairedDifference.of(lost)
    return AccuracyDrop(k, 100 * drop.mean, 100 * drop.standard_error)


def _hits(posteriors: Floats, truth: Integers, k: int) -> Floats:
    hits: Floats = (top_k(posteriors, k) == truth[:, None]).any(axis=1).astype(np.float32)  # [n]
    return hits
