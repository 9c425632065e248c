"""Damages of INT8: scales, zero points, integers, and where the Q/DQ nodes are."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.mutants.damage import LAYERS, add, damage
from tests.mutants.edit import Edit, NotApplicable

LAYER, OTHER, EQUAL = "conv4_2", "conv3_2", "conv5_1"
ACTIVATION, WEIGHT, BIAS = f"{LAYER}.input.scale", f"{LAYER}.weight.scale", f"{LAYER}.bias.scale"
FACTORS = (0.25, 0.9, 1.1)


def _times(file: Edit, tensor: str, factor: float) -> None:
    file.change(tensor, lambda scale: scale.astype(np.float64) * factor)


def _channel(file: Edit, tensor: str, factor: float) -> None:
    """Scales the channel whose step is largest."""

    def scaled(scale: npt.NDArray[Any]) -> npt.NDArray[Any]:
        scale[scale.argmax()] *= scale.dtype.type(factor)
        return scale

    file.change(tensor, scaled)


def _zero_point(file: Edit, factor: float) -> None:
    before = file.values("conv1_1.input.zero_point")
    after = np.rint(before * factor).astype(before.dtype)
    if before == after:
        raise NotApplicable("the zero point is 0")
    file.put("conv1_1.input.zero_point", after)


# The scale of a bias has no judge that computes: ONNX Runtime's kernels do not read it, and in other runtimes a small
# bias moves a quantized output by less than half a level, which is what rounding may do.
for _factor in FACTORS:
    add(f"scale of an input x {_factor:g}", partial(_times, tensor=ACTIVATION, factor=_factor), LAYERS)
    add(f"scale of the pixels x {_factor:g}", partial(_times, tensor="conv1_1.input.scale", factor=_factor), LAYERS)
    add(f"scales of weights x {_factor:g}", partial(_times, tensor=WEIGHT, factor=_factor), LAYERS)
    add(f"scale of one filter x {_factor:g}", partial(_channel, tensor=WEIGHT, factor=_factor), LAYERS)
    add(f"scales of a bias x {_factor:g}", partial(_times, tensor=BIAS, factor=_factor))
    add(f"scale of one bias x {_factor:g}", partial(_channel, tensor=BIAS, factor=_factor))
    add(f"zero point of the pixels x {_factor:g}", partial(_zero_point, factor=_factor), LAYERS)


# Only the highest level is lost, which no value of a view may reach.
@damage("zero point of an input + 1")
def zero_point(file: Edit) -> None:
    file.change(f"{LAYER}.input.zero_point", lambda point: point + 1)


@damage("zero point of the pixels + 1", LAYERS)
def pixel_zero_point(file: Edit) -> None:
    file.change("conv1_1.input.zero_point", lambda point: point + 1)


@damage("zero point of one filter + 1", LAYERS)
def weight_zero_point(file: Edit) -> None:
    def shifted(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
        points[file.values(WEIGHT).argmax()] += 1
        return points

    file.change(f"{LAYER}.weight.zero_point", shifted)


@damage("scales of two inputs exchanged", LAYERS)
def inputs_exchanged(file: Edit) -> None:
    file.swap(ACTIVATION, f"{OTHER}.input.scale")


@damage("scales of two layers' weights exchanged", LAYERS)
def weights_exchanged(file: Edit) -> None:
    file.swap(WEIGHT, f"{EQUAL}.weight.scale")


@damage("scales of two filters exchanged", LAYERS)
def filters_exchanged(file: Edit) -> None:
    def exchanged(scale: npt.NDArray[Any]) -> npt.NDArray[Any]:
        low, high = scale.argmin(), scale.argmax()
        scale[[low, high]] = scale[[high, low]]
        return scale

    file.change(WEIGHT, exchanged)


@damage("one scale for all filters", LAYERS)
def one_scale(file: Edit) -> None:
    file.change(WEIGHT, lambda scale: np.full_like(scale, scale.max()))


@damage("dequantized with another scale", LAYERS)
def other_dequantized(file: Edit) -> None:
    scale = file.values(ACTIVATION)
    file.put("other.scale", (scale * scale.dtype.type(0.9)).astype(scale.dtype))
    file.node(f"{LAYER}.input_dequantize").input[1] = "other.scale"


@damage("quantized with another layer's scale", LAYERS)
def other_layer(file: Edit) -> None:
    for name in (f"{LAYER}.input_quantize", f"{LAYER}.input_dequantize"):
        file.node(name).input[1] = f"{OTHER}.input.scale"


@damage("weights dequantized along the input channels", LAYERS)
def other_axis(file: Edit) -> None:
    file.set(file.node(f"{LAYER}.weight_dequantize"), axis=1)


@damage("one integer of a weight + 1")
def integer(file: Edit) -> None:
    def shifted(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        flat = values.reshape(-1)
        flat[np.flatnonzero(flat < 127)[flat.size // 2]] += 1
        return values

    file.change(f"{LAYER}.weight.integers", shifted)


@damage("integers of weights halved", LAYERS)
def halved(file: Edit) -> None:
    file.change(f"{LAYER}.weight.integers", lambda values: values // 2)


@damage("integers of weights clipped at 64", LAYERS)
def clipped(file: Edit) -> None:
    file.change(f"{LAYER}.weight.integers", lambda values: np.clip(values, -64, 64))


@damage("four-bit weights", LAYERS)
def four_bits(file: Edit) -> None:
    file.change(f"{LAYER}.weight.integers", lambda values: values // 16 * 16)


@damage("quantized twice, coarsely", LAYERS)
def twice(file: Edit) -> None:
    scale = file.values(ACTIVATION)
    file.put("coarse.scale", (scale * scale.dtype.type(16)).astype(scale.dtype))
    tensor = file.node(f"{LAYER}.input_quantize").input[0]
    file.insert("QuantizeLinear", "coarse_quantize", tensor, "coarse.scale", f"{LAYER}.input.zero_point")
    file.insert("DequantizeLinear", "coarse_dequantize", "coarse_quantize", "coarse.scale", f"{LAYER}.input.zero_point")
