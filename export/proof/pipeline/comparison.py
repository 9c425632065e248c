"""How far the answers of a file may be from those of the user's own pipeline."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.proof.pipeline.witness_rows import Rows
from vgg_deploy.evaluation.parity import THRESHOLDS, Parity, Thresholds, above, compare
from vgg_deploy.inference.engine import EngineInfo
from vgg_deploy.network.precision import FLOAT16, FLOAT32, INT8
from vgg_deploy.network.tensors import Floats


@dataclass(frozen=True, slots=True)
class WitnessLimits:
    """Limits on the figures of a `WitnessComparison`.

    Attributes:
        parity: of the posteriors.
        score_error: see `WitnessComparison`. It decides on easy pictures, whose posteriors are near 0 and 1 and hide
            nearly everything: a mean that is off by 10 moves most of them by less than 1e-6.
    """

    parity: Thresholds
    score_error: float


# Exact pixels in FP32: only the order of sums differs. On a trained VGG-16 and 46 photos, PyTorch and three runtimes
# differ by up to 3.4e-6 in a posterior, and the score error is below 1e-5. A mean that is off by 1 moves a posterior by
# 1.2e-2, with a score error of 5e-3.
EXACT = WitnessLimits(
    dataclasses.replace(THRESHOLDS[FLOAT32], max_dp=1e-4, mean_dp=1e-5, divergence=1e-5, agreement=0.995), 1e-4
)

# Image files: decoders and rescalers differ. The same VGG-16 against Pillow's bilinear filter, on 46 photos of things
# that it was not trained on, and the score error on 40 photos of its classes too:
#                                            max |dp|   mean |dp|   divergence   agreement   score error
#   torch's bilinear filter, antialiased       0.022      8.4e-4       1.3e-4      100 %      0.010  0.008
#   mean + 1                                   0.012      5.8e-4       4.7e-5      100 %      0.005  0.004
#   mean + 3                                   0.036      1.7e-3       4.2e-4      100 %      0.015  0.011
#   mean + 5                                   0.058      2.8e-3       1.1e-3      100 %      0.024  0.019
#   mean + 10                                  0.11       5.4e-3       4.3e-3      100 %      0.048  0.038
#   bicubic                                    0.22       1.1e-2       2.2e-2     95.7 %      0.10   0.08
#   bilinear, not antialiased                  0.21       1.1e-2       2.8e-2     97.8 %      0.16   0.006 (enlarged)
#   blocks averaged                            0.59       2.0e-2       7.2e-2     87.0 %      0.15   0.08
#   mean in the order B, G, R                  0.64       2.5e-2       0.11       82.6 %      0.19   0.13
#   nearest pixel                              0.72       3.2e-2       0.28       89.1 %      0.33   0.18
#   short side 224 instead of 256              0.94       4.5e-2       0.35       67.4 %      0.32   0.25
#   squashed to 256x256, then cropped          0.85       5.3e-2       0.45       67.4 %      0.42   -
#   pixels in the order B, G, R                0.69       4.7e-2       0.44       73.9 %      0.43   0.29
#   no mean                                    0.91       7.3e-2       0.90       56.5 %      0.57   0.31
#   torchvision's normalization                0.93       0.13         1.4        19.6 %      0.94   0.94
# So image files cannot show a mean that is off by 3, and another filter looks like a mean that is off by more than 10.
# These limits accept the same filter only, with a factor of 3.5.
FILES = WitnessLimits(
    dataclasses.replace(THRESHOLDS[FLOAT32], max_dp=0.08, mean_dp=3e-3, divergence=5e-4, agreement=0.985), 0.035
)

# The score error that a precision adds. The same VGG-16 showed 4.6e-4 in FP16, and 0.048 in INT8 (0.12 on one photo).
# bfloat16 is judged as FP16 is, and rounds eight times as much.
_SCORE_ERROR_OF = {FLOAT16: 0.02, INT8: 0.15}

SMALLEST = 1e-30  # smaller posteriors count as this; float32 ends at 1e-38


@dataclass(frozen=True, slots=True)
class WitnessComparison:
    """The answers of an engine beside those of the witness.

    Attributes:
        parity: figures of the posteriors.
        score_error: the error of the class scores as a share of their spread, a root mean square over images. Scores
            are the logarithms of posteriors, minus their mean over the classes. NaN if a posterior is NaN.
        floor: smaller posteriors count as this.
        limits: what they are judged by.
        failures: the limits that are exceeded, as text.
    """

    parity: Parity
    score_error: float
    floor: float
    limits: WitnessLimits
    failures: tuple[str, ...]


def compared(
    info: EngineInfo, expected: Rows, received: Floats, names: Sequence[str], *, exact: bool
) -> WitnessComparison:
    """Judges an engine's answers.

    Args:
        info: describes the engine. Its precision decides the limits.
        expected: float64 [n, classes], the logarithms of the witness's posteriors.
        received: float32 [n, classes], the engine's posteriors.
        names: of the images.
        exact: whether both saw the same pixels.
    """
    limits = limits_of(info.lowest, exact=exact)
    parity = compare(np.exp(expected).astype(np.float32), received, names, info.manifest.classes)
    failures = parity.failures(limits.parity)
    floor = _floor(expected)
    error = _score_error(expected, received, floor)
    if not error <= limits.score_error:  # true for NaN too
        text = above(error, limits.score_error) if math.isfinite(error) else f"is {error}"
        failures = (*failures, f"score error {text}")
    return WitnessComparison(parity, error, floor, limits, failures)


def _floor(expected: Rows) -> float:
    """`SMALLEST`; more if the file has rounded figures, so that a posterior of 0 is any small number."""
    given = expected[np.isfinite(expected)]
    smallest = float(np.exp(given.min()))
    rounded = not np.isfinite(expected).all() and smallest > SMALLEST
    return min(0.01, 100 * smallest) if rounded else SMALLEST


def _score_error(expected: Rows, received: Floats, floor: float) -> float:
    def scores(posteriors: Rows) -> Rows:
        logarithms = np.log(np.maximum(posteriors, floor))  # keeps NaN
        centred: Rows = logarithms - logarithms.mean(axis=1, keepdims=True)
        return centred

    before, after = scores(np.exp(expected)), scores(received.astype(np.float64))  # [n, classes]
    spread = np.maximum((before**2).mean(axis=1), np.finfo(np.float32).eps)  # [n], squared
    return float(np.sqrt((((before - after) ** 2).mean(axis=1) / spread).mean()))


def limits_of(precision: str, *, exact: bool) -> WitnessLimits:
    """Limits for the precision of a file: what two right pipelines differ by, and what FP16 or INT8 costs."""
    limits = EXACT if exact else FILES
    if precision == FLOAT32:
        return limits
    price = THRESHOLDS[precision]
    parity = dataclasses.replace(
        limits.parity,
        max_dp=min(1.0, limits.parity.max_dp + price.max_dp),
        mean_dp=limits.parity.mean_dp + price.mean_dp,
        divergence=limits.parity.divergence + price.divergence,
        agreement=limits.parity.agreement + price.agreement - 1,
    )
    return WitnessLimits(parity, limits.score_error + _SCORE_ERROR_OF[precision])
