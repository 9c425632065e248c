"""INT8 arithmetic: from float weights and biases to their integers and scales. `vgg_deploy.network.levels` has that of
activations.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vgg_deploy.network.levels import Levels, bias_scales, step
from vgg_deploy.network.tensors import Floats

_LARGEST_BIAS = 2.0**30  # of an int32 bias; the other half of the range is left to the sum of products


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
    scales = np.array([step(value, dtype) for value in steps.tolist()])  # [out]
    integers = np.empty(weights.shape, np.int8)  # [out, in, kernel, kernel]
    for channel, scale in enumerate(scales.astype(np.float32)):  # by channel, because a float copy of fc6 takes 400 MB
        integers[channel] = np.clip(np.rint(weights[channel] / scale), -127, 127)  # [in, kernel, kernel]
    return integers, scales


def quantized_bias(
    bias: Floats, activation: Levels, weight_scales: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Bias as ONNX Runtime's integer kernels take it: int32 [out], in the units of the sum, and scales [out]."""
    scales = bias_scales(activation, weight_scales)  # [out]
    limits = np.iinfo(np.int32)
    return np.clip(np.rint(bias / scales.astype(np.float64)), limits.min, limits.max).astype(np.int32), scales
