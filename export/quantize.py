"""INT8 arithmetic: from measured ranges and float weights to the integers and scales of Q/DQ nodes.

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
_LARGEST_BIAS = 2.0**30  # of an int32 bias; the other half of the range is left to the sum of products


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
        return Levels(_scale(max(-low, high) / 127, dtype), np.array(0, np.int8))
    # Unsigned, with 0 at the bottom if nothing is negative: quantizing then computes the ReLU as well.
    scale = _scale((high - low) / 255, dtype)
    return Levels(scale, np.array(round(-low / float(scale)), np.uint8))


def quantized_weights(
    weights: Floats, dtype: Any = np.float32, *, bias: Floats | None = None, activation: Levels | None = None
) -> tuple[npt.NDArray[np.int8], npt.NDArray[Any]]:
    """Quantizes weights symmetrically, with one scale for each output channel.

    Args:
        weights: float32 [out, in, kernel, kernel].
        dtype: the type of the scales. FP16 has few digits for small scales, so integers are computed for the rounded
            scales.
        bias, activation: the arguments for `quantized_bias`. They keep the scale of a channel with near-zero weights
            large enough for its bias.

    Returns:
        int8 weights of the same shape, -127..127, and scales [out].
    """
    largest = np.maximum(weights.max(axis=(1, 2, 3)), -weights.min(axis=(1, 2, 3)))  # [out], without copying weights
    steps = largest.astype(np.float64) / 127  # [out]
    if bias is not None and activation is not None:
        steps = np.maximum(steps, np.abs(bias) / (activation.scale.astype(np.float64) * _LARGEST_BIAS))  # [out]
    scales = np.array([_scale(value, dtype) for value in steps.tolist()])  # [out]
    integers = np.empty(weights.shape, np.int8)  # [out, in, kernel, kernel]
    for channel, scale in enumerate(scales.astype(np.float32)):  # by channel, because a float copy of fc6 takes 400 MB
        integers[channel] = np.clip(np.rint(weights[channel] / scale), -127, 127)  # [in, kernel, kernel]
    return integers, scales


def quantized_bias(
    bias: Floats, activation: Levels, weight_scales: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Bias as ONNX Runtime's integer kernels take it: int32 [out], in the units of the sum, and scales [out]."""
    scales = (activation.scale.astype(np.float64) * weight_scales).astype(np.float32)  # [out]
    limits = np.iinfo(np.int32)
    return np.clip(np.rint(bias / scales.astype(np.float64)), limits.min, limits.max).astype(np.int32), scales


def _scale(value: float, dtype: Any) -> npt.NDArray[Any]:
    """A step as `dtype`; 1 for a tensor that is 0 everywhere, for which any step is right."""
    if value == 0:
        return np.array(1, dtype)
    smallest = _SMALLEST_HALF if dtype == np.float16 else float(np.finfo(np.float32).tiny)
    scale = np.array(max(value, smallest), dtype)
    # FP16's smallest numbers are far apart. A step rounded down to one of them would clip values.
    return scale if float(scale) >= 0.999 * value else np.nextafter(scale, np.array(np.inf, dtype))
