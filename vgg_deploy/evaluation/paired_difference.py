"""The mean difference of two networks on the same images, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean of paired differences, image by image, and its standard error (NaN for a single image).

    Both networks answer the same images, so only the images on which they differ add to the error.
    """

    mean: float
    standard_error: float

    @staticmethod
    def of(values: npt.NDArray[np.floating]) -> PairedDifference:
        """Of differences [n], n > 0."""
        error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return PairedDifference(float(values.mean()), error)

    def above(self, standard_errors: float) -> bool:
        """Whether the mean is above zero by more than so many standard errors."""
        return self.mean > 0 and self.mean > standard_errors * self.standard_error
