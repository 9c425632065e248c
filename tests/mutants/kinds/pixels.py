"""Damages of what the graph does to pixels, and of the order of channels and classes."""

from __future__ import annotations

from functools import partial

import numpy as np
from onnx import TensorProto

from tests.mutants.damage import ANSWERS, LAYERS, add, damage
from tests.mutants.edit import Edit

MEAN, STD = "mean_rgb", "std_rgb"


def _shift(file: Edit, channels: slice | int, by: float) -> None:
    def shifted(mean: np.ndarray) -> np.ndarray:
        mean[channels] += by
        return mean

    file.change(MEAN, shifted)


def _scale(file: Edit, channel: int, factor: float) -> None:
    def scaled(std: np.ndarray) -> np.ndarray:
        std[channel] *= factor
        return std

    file.change(STD, scaled)


for _index, _color in enumerate(("red", "green", "blue")):
    add(f"mean of {_color} + 1", partial(_shift, channels=_index, by=1.0), LAYERS)
    add(f"std of {_color} x 1.01", partial(_scale, channel=_index, factor=1.01), LAYERS)
for _by in (1.0, 3.0, 5.0):
    add(f"mean + {_by:g}", partial(_shift, channels=slice(None), by=_by), LAYERS)


@damage("mean in the last place of its float")
def mean_last_place(file: Edit) -> None:
    file.change(MEAN, lambda mean: np.nextafter(mean, np.float32(np.inf)))


@damage("mean in BGR order", LAYERS)
def mean_reversed(file: Edit) -> None:
    file.change(MEAN, lambda mean: mean[::-1])


@damage("std in BGR order", LAYERS)
def std_reversed(file: Edit) -> None:
    file.change(STD, lambda std: std[::-1])


@damage("mean not subtracted", LAYERS, ANSWERS)
def no_mean(file: Edit) -> None:
    file.bypass("subtract_mean")


@damage("mean added", LAYERS, ANSWERS)
def mean_added(file: Edit) -> None:
    file.node("subtract_mean").op_type = "Add"


@damage("not divided by std", LAYERS, ANSWERS)
def no_std(file: Edit) -> None:
    file.bypass("divide_std")


@damage("multiplied by std", LAYERS, ANSWERS)
def multiplied(file: Edit) -> None:
    file.node("divide_std").op_type = "Mul"


@damage("pixels taken for 0..1", LAYERS)
def unit_pixels(file: Edit) -> None:
    file.put("unit", np.array(255, np.float32))
    file.insert("Div", "to_unit", file.node("cast").output[0], "unit")


@damage("conv1_1 reads BGR", LAYERS)
def bgr(file: Edit) -> None:
    file.change(file.weight("conv1_1"), lambda weight: weight[:, ::-1])


@damage("rows and columns exchanged", LAYERS)
def exchanged(file: Edit) -> None:
    file.set(file.node("transpose"), perm=[0, 3, 2, 1])


@damage("pixels cast through int8", LAYERS, ANSWERS)
def signed_pixels(file: Edit) -> None:
    file.insert("Cast", "signed", file.node("cast").input[0], to=TensorProto.INT8)


@damage("cast of the pixels removed", LAYERS)
def no_cast(file: Edit) -> None:
    file.bypass("cast")


@damage("two classes exchanged", LAYERS)
def classes_exchanged(file: Edit) -> None:
    names = [file.weight("fc8"), file.bias("fc8")]
    names += [name for name in ("fc8.weight.scale", "fc8.bias.scale") if file.has(name)]
    for name in names:
        file.change(name, lambda rows: rows[[1, 0, *range(2, len(rows))]])


@damage("classes in reverse order", LAYERS, ANSWERS)
def classes_reversed(file: Edit) -> None:
    names = [file.weight("fc8"), file.bias("fc8")]
    names += [name for name in ("fc8.weight.scale", "fc8.bias.scale") if file.has(name)]
    for name in names:
        file.change(name, lambda rows: rows[::-1])
