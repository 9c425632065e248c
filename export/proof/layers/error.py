"""How far a runtime's output of one layer is from the exact one, beyond what rounding the output allows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from export.proof.layers.operators import Doubles
from export.proof.layers.pieces import Cut
from export.proof.layers.value import HALF, Value


class ShapeError(Exception):
    """An output has another shape than the exact one."""


def error_of(
    received: npt.NDArray[Any], cut: Cut, exact: Mapping[str, Value], constants: Mapping[str, npt.NDArray[Any]]
) -> float:
    """The largest error as a share of the layer's largest value; NaN if anything is NaN or infinite.

    Rounding may move a value by half a step: of its levels if the output is quantized, of FP16 if the runtime gives
    FP16. Only what is beyond that counts. Among thousands of values some lie just below half a step, so an error that
    is much smaller than a step is seen as well.

    Args:
        received: the runtime's output.
        cut: the layer.
        exact: its values.
        constants: of the file.

    Raises:
        ShapeError: the output has another shape.
    """
    expected, allowed = exact[cut.result].exact, np.zeros(())
    if received.shape != expected.shape:
        raise ShapeError(f"the output is {list(received.shape)}; expected {list(expected.shape)}")
    largest = float(np.abs(expected).max()) or 1.0
    values = received.astype(np.float64)
    if cut.output != cut.result:
        expected, allowed = _on_levels(expected, cut, constants)
    # FP16 values are rounded before they are quantized, and again when they are dequantized.
    roundings = 2 if cut.output != cut.result and exact[cut.output].dtype == HALF else int(received.dtype == HALF)
    if roundings:
        allowed = allowed + roundings * _half_step(np.maximum(np.abs(values), np.abs(expected)))
    excess = np.abs(values - expected) - allowed
    return float(np.maximum(excess, 0).max() / largest)  # NaN stays NaN


def _on_levels(expected: Doubles, cut: Cut, constants: Mapping[str, npt.NDArray[Any]]) -> tuple[Doubles, Doubles]:
    """The values within the range of the layer's output levels, and half of the step between two levels."""
    quantize = next(node for node in cut.nodes if node.input[0] == cut.result)
    scale, zero_point = (constants[name] for name in quantize.input[1:3])
    limits, step = np.iinfo(zero_point.dtype), scale.astype(np.float64)
    low, high = (step * (limit - float(zero_point)) for limit in (limits.min, limits.max))
    return np.clip(expected, low, high), step / 2


def _half_step(values: Doubles) -> Doubles:
    """Half of the distance between neighbouring FP16 numbers, for each absolute value."""
    exponents = np.maximum(np.frexp(values)[1] - 1, -14)  # FP16's smallest normal number is 2^-14
    return np.asarray(np.ldexp(0.5, exponents - 10))
