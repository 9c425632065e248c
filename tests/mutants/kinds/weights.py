"""Damages of weights and biases."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.mutants.damage import LAYERS, add, damage
from tests.mutants.edit import Edit, NotApplicable

# Layers that every configuration has.
LAYER, DEEPER, EQUAL = "conv3_2", "conv4_2", "conv5_1"  # the last two have weights of one shape

Array = npt.NDArray[Any]


def _magnitudes(file: Edit, tensor: str) -> Array:
    """The absolute values of a tensor; of integers, what they stand for."""
    values = np.abs(file.values(tensor).astype(np.float64))
    scale = tensor.replace(".integers", ".scale")
    if scale == tensor:
        return values
    return np.asarray(values * file.values(scale).astype(np.float64).reshape(-1, *[1] * (values.ndim - 1)))


def _strongest_filter(file: Edit, layer: str) -> int:
    return int(_magnitudes(file, file.weight(layer)).sum(axis=(1, 2, 3)).argmax())


def _middle(file: Edit, tensor: str) -> int:
    """Index of a value of median magnitude in the flattened tensor, neither 0 nor the largest.

    Of weights, it is taken from the strongest filter and its strongest input channel: training with weight decay leaves
    dead units small weights, and a change of them would change nothing.
    """
    sizes = _magnitudes(file, tensor)
    begin = 0
    if sizes.ndim == 4:
        filter_index = int(sizes.sum(axis=(1, 2, 3)).argmax())
        channel = int(sizes[filter_index].sum(axis=(1, 2)).argmax())
        begin = int(np.ravel_multi_index((filter_index, channel, 0, 0), sizes.shape))
        sizes = sizes[filter_index, channel]
    return begin + int(np.argsort(sizes, axis=None)[sizes.size // 2])


def _one(file: Edit, tensor: str, function: Callable[[Any], Any]) -> None:
    index = _middle(file, tensor)

    def changed(values: Array) -> Array:
        flat = values.reshape(-1)
        flat[index] = function(flat[index])
        return values

    file.change(tensor, changed)


def _flip(file: Edit, tensor: str, bits: dict[int, int]) -> None:
    """Flips the bit that `bits` names for the size of a value in bytes."""
    before = file.values(tensor)
    if before.itemsize not in bits:
        raise NotApplicable(f"{before.dtype} has no such bit")
    raw = before.reshape(-1).view(f"u{before.itemsize}").copy()
    raw[_middle(file, tensor)] ^= 1 << bits[before.itemsize]
    file.put(tensor, raw.view(before.dtype).reshape(before.shape))


# By the size of a value in bytes: float32 and int32, float16, int8.
BITS = {
    "the sign bit": {4: 31, 2: 15, 1: 7},
    "the highest bit of the exponent": {4: 30, 2: 14},
    "the lowest bit of the exponent": {4: 23, 2: 10},
    "the highest bit of the mantissa": {4: 22, 2: 9, 1: 6},
    "the lowest bit of the mantissa": {4: 0, 2: 0, 1: 0},
}


def _flip_weight(file: Edit, bits: dict[int, int]) -> None:
    _flip(file, file.weight(LAYER), bits)


def _flip_bias(file: Edit, bits: dict[int, int]) -> None:
    _flip(file, file.bias(LAYER), bits)


for _bit, _positions in BITS.items():
    _lowest = _bit == "the lowest bit of the mantissa"
    _visible = _bit == "the highest bit of the exponent"  # a bias is small beside the activations
    add(f"{_bit} of one weight", partial(_flip_weight, bits=_positions), *(() if _lowest else (LAYERS,)))
    add(f"{_bit} of one bias", partial(_flip_bias, bits=_positions), *((LAYERS,) if _visible else ()))


def _negate(file: Edit, layer: str) -> None:
    _one(file, file.weight(layer), lambda value: -value)


for _layer in ("conv1_1", LAYER, "fc8"):
    add(f"one weight of {_layer} negated", partial(_negate, layer=_layer), LAYERS)


@damage("one weight zeroed", LAYERS)
def zeroed(file: Edit) -> None:
    _one(file, file.weight(DEEPER), lambda value: value * 0)


@damage("one weight NaN", LAYERS)
def not_a_number(file: Edit) -> None:
    if file.has(f"{LAYER}.weight.integers"):
        raise NotApplicable("integers have no NaN")
    _one(file, file.weight(LAYER), lambda value: np.nan)


# Of a thousand inputs, one moves a quantized output by less than half a level.
@damage("the largest weight of fc6 halved")
def halved(file: Edit) -> None:
    def largest_halved(weight: Array) -> Array:
        flat = weight.reshape(-1)
        index = np.abs(flat.astype(np.float32)).argmax()
        flat[index] = flat[index] / 2
        return weight

    file.change(file.weight("fc6"), largest_halved)


@damage("one bias raised by five times the layer's largest", LAYERS)
def raised(file: Edit) -> None:
    index = _middle(file, file.bias(LAYER))

    def one_raised(bias: Array) -> Array:
        bias[index] += 5 * np.abs(bias).max()
        return bias

    file.change(file.bias(LAYER), one_raised)


# A trained bias may be smaller than half a step of an output in FP16 or INT8, which is what rounding may do.
@damage("biases zeroed")
def no_biases(file: Edit) -> None:
    file.change(file.bias(LAYER), np.zeros_like)


@damage("bias not added")
def bias_not_read(file: Edit) -> None:
    del file.node(LAYER).input[2]


@damage("one integer of a bias + 1000")
def integer_bias(file: Edit) -> None:
    tensor = f"{LAYER}.bias.integers"
    _one(file, tensor, lambda value: value + 1000)


@damage("a filter zeroed", LAYERS)
def filter_zeroed(file: Edit) -> None:
    weight = file.values(file.weight(LAYER))
    weight[_strongest_filter(file, LAYER)] = 0
    file.put(file.weight(LAYER), weight)


@damage("two filters exchanged", LAYERS)
def filters_exchanged(file: Edit) -> None:
    file.change(file.weight(LAYER), lambda weight: weight[[1, 0, *range(2, len(weight))]])


@damage("two input channels exchanged", LAYERS)
def inputs_exchanged(file: Edit) -> None:
    file.change(file.weight(LAYER), lambda weight: weight[:, [1, 0, *range(2, weight.shape[1])]])


@damage("kernels transposed", LAYERS)
def transposed(file: Edit) -> None:
    file.change(file.weight(LAYER), lambda weight: weight.swapaxes(2, 3))


@damage("kernels mirrored", LAYERS)
def mirrored(file: Edit) -> None:
    file.change(file.weight(LAYER), lambda weight: weight[..., ::-1])


@damage("kernels rotated by 180 degrees", LAYERS)
def rotated(file: Edit) -> None:
    file.change(file.weight(LAYER), lambda weight: weight[:, :, ::-1, ::-1])


@damage("kernels of fc6 transposed", LAYERS)
def fc6_transposed(file: Edit) -> None:
    if file.values(file.weight("fc6")).shape[2] == 1:
        raise NotApplicable("fc6 is 1x1")
    file.change(file.weight("fc6"), lambda weight: weight.swapaxes(2, 3))


@damage("fc6 folded from rows, columns, channels", LAYERS)
def fc6_order(file: Edit) -> None:
    weight = file.values(file.weight("fc6"))
    out, inputs, rows, columns = weight.shape
    if rows == 1:
        raise NotApplicable("fc6 is 1x1")
    file.put(file.weight("fc6"), weight.reshape(out, rows, columns, inputs).transpose(0, 3, 1, 2))


@damage("8 units of fc6 zeroed", LAYERS)
def units_zeroed(file: Edit) -> None:
    weight, bias = file.values(file.weight("fc6")), file.values(file.bias("fc6"))
    weight[:8], bias[:8] = 0, 0
    file.put(file.weight("fc6"), weight)
    file.put(file.bias("fc6"), bias)


def _swap(file: Edit, *parts: str) -> None:
    for part in parts:
        for name in (part, f"{part}.integers", f"{part}.scale"):
            if file.has(f"{DEEPER}.{name}"):
                file.swap(f"{DEEPER}.{name}", f"{EQUAL}.{name}")


@damage("weights of two layers of one shape exchanged", LAYERS)
def layers_exchanged(file: Edit) -> None:
    _swap(file, "weight", "bias")


@damage("biases of two layers of one shape exchanged", LAYERS)
def biases_exchanged(file: Edit) -> None:
    _swap(file, "bias")


def _floats(file: Edit) -> str:
    if file.has(f"{LAYER}.weight.integers"):
        raise NotApplicable("the weights are integers")
    return file.weight(LAYER)


@damage("weights rounded to bfloat16")
def rounded_to_bfloat16(file: Edit) -> None:
    def rounded(weight: Array) -> Array:
        bits = weight.astype(np.float32).view(np.uint32)
        return ((bits + 0x8000) & 0xFFFF0000).astype(np.uint32).view(np.float32)

    file.change(_floats(file), rounded)


@damage("weights rounded to half")
def rounded_to_half(file: Edit) -> None:
    if file.values(_floats(file)).dtype == np.float16:
        raise NotApplicable("they are half")
    file.change(_floats(file), lambda weight: weight.astype(np.float16))


@damage("weights rounded to INT8", LAYERS)
def rounded_to_int8(file: Edit) -> None:
    def rounded(weight: Array) -> Array:
        step = np.abs(weight).max() / 127
        return np.rint(weight / step) * step

    file.change(_floats(file), rounded)


@damage("weights one step nearer to 0")
def truncated(file: Edit) -> None:
    file.change(_floats(file), lambda weight: np.nextafter(weight, np.zeros((), weight.dtype)))


@damage("weights of an earlier training", LAYERS)
def earlier(file: Edit) -> None:
    def moved(weight: Array) -> Array:
        noise = np.random.default_rng(0).normal(0, 0.1, weight.shape)
        other = weight + noise * np.std(weight.astype(np.float64))
        return np.clip(np.rint(other), -127, 127) if weight.dtype == np.int8 else other

    file.change(file.weight(LAYER), moved)


@damage("sign of a zero", also=frozenset({"inspect"}))
def sign_of_zero(file: Edit) -> None:
    weight = file.values(_floats(file))
    zeros = np.flatnonzero(weight == 0)
    if not zeros.size:
        raise NotApplicable("no weight is 0")
    weight.reshape(-1)[zeros[0]] *= -1
    file.put(file.weight(LAYER), weight)
