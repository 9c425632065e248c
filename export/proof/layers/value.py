"""A tensor of a file in exact evaluation: its values, its type, and what is rounded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from export.proof.layers.operators import Doubles

HALF = np.dtype(np.float16)


class Rounding(Enum):
    """What is rounded to FP16. Runtimes differ in this, and each is right: FP16 says what a tensor holds at least.

    FILE: every FP16 tensor, once, as the file says.
    STORED: weights, and values that are quantized. ONNX Runtime on CPUs computes the other nodes in float32.
    NONE: nothing that is computed. OpenVINO multiplies the integers of INT8 layers and scales the sum in float32.
    """

    FILE = "file"
    STORED = "stored"
    NONE = "none"

    @property
    def of_activations(self) -> bool:
        return self is Rounding.FILE

    @property
    def of_stored(self) -> bool:
        return self is not Rounding.NONE


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor.

    Attributes:
        numbers: its values before they are rounded to its type; if `scale` is set, integers minus their zero-point.
        dtype: its type in the file.
        scale: if the tensor was dequantized, what multiplies the integers: one number, or one for each index of `axis`.
        axis: see `scale`.
    """

    numbers: npt.NDArray[Any]
    dtype: np.dtype[Any]
    scale: Doubles | None = None
    axis: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.numbers.shape

    @property
    def exact(self) -> Doubles:
        """The values before they are rounded to the tensor's type."""
        values = self.numbers.astype(np.float64, copy=False)
        return values if self.scale is None else values * along(self.scale, values.ndim, self.axis)

    def stored(self, rounded: bool) -> Doubles:
        """The values as the file stores them. FP16 values are rounded once, and only if `rounded`."""
        return as_half(self.exact) if rounded and self.dtype == HALF else self.exact

    def part(self, chosen: slice) -> Value:
        """Some indices of the first axis."""
        scale = self.scale[chosen] if self.scale is not None and self.scale.size > 1 and not self.axis else self.scale
        return replace(self, numbers=self.numbers[chosen], scale=scale)


def as_half(values: Doubles) -> Doubles:
    """The nearest FP16 numbers; infinite beyond FP16's range."""
    with np.errstate(over="ignore"):
        return values.astype(HALF).astype(np.float64)


def along(numbers: Doubles, dimensions: int, axis: int) -> Doubles:
    """One number as it is; [channels] in the shape that multiplies a tensor's axis."""
    if numbers.size == 1:
        return numbers.reshape(())
    return numbers.reshape([-1 if index == axis % dimensions else 1 for index in range(dimensions)])
