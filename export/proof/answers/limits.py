"""How far the posteriors of a healthy runtime may be from the simulation of exactly its file.

Floating point moves them by the rounding of float32 alone. In INT8, a value that lies between two levels may fall on
either side, so a single rounding error of float32 becomes a whole step, and that spreads to the end. It moves the class
scores, and a posterior p by p (1 - p) times that: much if the network is unsure, hardly if it is sure of a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.proof.layers.operators import Doubles
from vgg_deploy.network.precision import FLOAT16, FLOAT32, INT8


@dataclass(frozen=True, slots=True)
class AnswerLimit:
    """A limit on the largest difference of a view's posteriors, from the nearest reading of its file.

    Attributes:
        absolute: what any view may differ by.
        log_odds: what is added, times the largest p (1 - p) of the view's simulated posteriors p.
        reason: where the difference comes from, and what healthy runtimes reach.
    """

    absolute: float
    log_odds: float
    reason: str

    def of(self, simulated: Doubles) -> Doubles:
        """The limit for each view: posteriors [views, classes] -> [views]."""
        return np.asarray(self.absolute + self.log_odds * (simulated * (1 - simulated)).max(axis=1))


LIMITS = {
    FLOAT32: AnswerLimit(1e-5, 0, "float32 sums in another order: up to 1.6e-6, with Winograd's convolutions"),
    FLOAT16: AnswerLimit(1e-5, 0, "as for float32, on CPUs, which compute FP16 files in float32: up to 5e-7"),
    INT8: AnswerLimit(1e-3, 0.5, "values between two levels: log-odds moved by up to 0.15, in files with FP16 as well"),
}
BFLOAT16 = AnswerLimit(1e-3, 0.2, "every value has 8 significant bits: log-odds moved by up to 0.06")
# Of a GPU, which computes FP16 itself. Not measured on one yet: a quarter of what bfloat16, with three bits less, may.
FLOAT16_ON_GPU = AnswerLimit(1e-3, 0.05, "every value has 11 significant bits")


def answer_limit(precision: str, *, bf16: bool = False, gpu: bool = False) -> AnswerLimit:
    """The limit for a file in a runtime.

    Args:
        precision: float32, float16 or int8; see `Precision.lowest`.
        bf16: whether the runtime computes floating point in bfloat16.
        gpu: whether it runs on a GPU.
    """
    if gpu and precision == FLOAT16:
        return FLOAT16_ON_GPU
    if not bf16:
        return LIMITS[precision]
    return AnswerLimit(BFLOAT16.absolute, max(BFLOAT16.log_odds, LIMITS[precision].log_odds), BFLOAT16.reason)
