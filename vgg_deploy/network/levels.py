"""The levels of INT8: from a measured range to the scale and the zero-point of Q/DQ nodes.

A tensor x is stored as q = clip(round(x / scale) + zero_point) in eight bits, and read back as (q - zero_point) *
scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vgg_deploy.network.tensors import Floats

_SMALLEST_HALF = 2.0**-24  # the smallest FP16 number above 0


@dataclass(frozen=True, slots=True)
class Levels:
    """How the activations of one tensor are stored.

    Attributes:
        scale: the step between neighbouring values, in the type of the dequantized tensor: float32 or float16.
        zero_point: the integer that represents 0: int8 0 for TensorRT, uint8 for ONNX Runtime.
    """

    scale: npt.NDArray[Any]
    zero_point: npt.NDArray[Any]


def activation_levels(span: tuple[float, float], target: str, dtype: Any = np.float32) -> Levels:
    """Levels for values from span[0] to span[1], a range that includes 0.

    Args:
        span: the smallest and the largest value to represent.
        target: see `vgg_deploy.network.precision.Quantization`.
        dtype: the type of the scale.
    """
    low, high = span
    if target == "tensorrt":
        return Levels(step(max(-low, high) / 127, dtype), np.array(0, np.int8))
    # Unsigned, with 0 at the bottom if nothing is negative: quantizing then computes the ReLU as well.
    scale = step((high - low) / 255, dtype)
    return Levels(scale, np.array(round(-low / float(scale)), np.uint8))


def bias_scales(activation: Levels, weight_scales: npt.NDArray[Any]) -> Floats:
    """The scales [out] of an integer bias: the units of the sum of products.

    Args:
        activation: the levels of the layer's input.
        weight_scales: scales of the layer's weights, [out].
    """
    scales: Floats = (activation.scale.astype(np.float64) * weight_scales).astype(np.float32)  # [out]
    return scales


def step(value: float, dtype: Any) -> npt.NDArray[Any]:
    """A step as `dtype`; 1 for a tensor that is 0 everywhere, for which any step is right."""
    if value == 0:
        return np.array(1, dtype)
    smallest = _SMALLEST_HALF if dtype == np.float16 else float(np.finfo(np.float32).tiny)
    scale = np.array(max(value, smallest), dtype)
    # FP16's smallest numbers are far apart. A step rounded down to one of them would clip values.
    return scale if float(scale) >= 0.999 * value else np.nextafter(scale, np.array(np.inf, dtype))
