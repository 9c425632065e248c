"""Damages of the layer graph: ReLU, poolings, convolutions, LRN, types."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto

from tests.mutants.damage import LAYERS, add, damage
from tests.mutants.edit import Edit, NotApplicable

LAYER, POOL = "conv3_2", "pool3"


def _without(file: Edit, name: str) -> None:
    file.bypass(name)


for _name in ("relu1_1", "relu3_2", "relu7"):
    add(f"no {_name}", partial(_without, name=_name), LAYERS)


@damage("a leaky ReLU", LAYERS)
def leaky(file: Edit) -> None:
    relu = file.node("relu3_2")
    relu.op_type = "LeakyRelu"
    file.set(relu, alpha=0.01)


@damage("a ReLU that ends at 6", LAYERS)
def relu6(file: Edit) -> None:
    relu = file.node("relu3_2")
    half = file.has(f"{LAYER}.weight") and file.values(f"{LAYER}.weight").dtype == np.float16
    half = half or (file.has(f"{LAYER}.weight.scale") and file.values(f"{LAYER}.weight.scale").dtype == np.float16)
    kind = np.float16 if half else np.float32
    file.put("zero", np.array(0, kind))
    file.put("six", np.array(6, kind))
    relu.op_type = "Clip"
    relu.input.extend(["zero", "six"])


@damage("a ReLU behind fc8", LAYERS)
def relu8(file: Edit) -> None:
    softmax = file.node("softmax")
    file.insert("Relu", "relu8", softmax.input[0])


@damage("a sigmoid instead of a ReLU", LAYERS)
def sigmoid(file: Edit) -> None:
    file.node("relu7").op_type = "Sigmoid"


def _pooling(file: Edit, **attributes: Any) -> None:
    file.set(file.node(POOL), **attributes)


def _pool1(file: Edit, **attributes: Any) -> None:
    file.set(file.node("pool1"), **attributes)


add("pooling rounds up", partial(_pool1, ceil_mode=1), LAYERS)
add("pooling of 3x3", partial(_pooling, kernel_shape=[3, 3]), LAYERS)
add("pooling with stride 1", partial(_pooling, strides=[1, 1]), LAYERS)
add("pooling with padding", partial(_pooling, pads=[1, 1, 1, 1]), LAYERS)
add("pooling with dilation", partial(_pooling, dilations=[2, 2]), LAYERS)


@damage("the last pooling with another stride", LAYERS)
def toggle_stride(file: Edit) -> None:
    pool = file.node("pool5")
    (before,) = (list(attribute.ints) for attribute in pool.attribute if attribute.name == "strides")
    file.set(pool, strides=[1, 1] if before == [2, 2] else [2, 2])


@damage("average pooling", LAYERS)
def average(file: Edit) -> None:
    file.node(POOL).op_type = "AveragePool"


@damage("a pooling missing", LAYERS)
def no_pooling(file: Edit) -> None:
    file.bypass(POOL)


@damage("a pooling before its ReLU", also=frozenset({"inspect", "source"}))
def pooling_before_relu(file: Edit) -> None:
    pool = file.node(POOL)
    relu = next((node for node in file.nodes if pool.input[0] in node.output and node.op_type == "Relu"), None)
    if relu is None:
        raise NotApplicable("Q/DQ nodes stand between them")
    relu.op_type, pool.op_type = pool.op_type, relu.op_type
    attributes = list(pool.attribute)
    del pool.attribute[:]
    relu.attribute.extend(attributes)


def _convolution(file: Edit, layer: str = LAYER, **attributes: Any) -> None:
    file.set(file.node(layer), **attributes)


add("padding 0", partial(_convolution, pads=[0, 0, 0, 0]), LAYERS)
add("padding on one side", partial(_convolution, pads=[0, 0, 2, 2]), LAYERS)
add("padding as SAME_LOWER", partial(_convolution, pads=None, auto_pad="SAME_LOWER"))
add("stride 2", partial(_convolution, strides=[2, 2]), LAYERS)
add("dilation 2", partial(_convolution, dilations=[2, 2], pads=[2, 2, 2, 2]), LAYERS)
add("padding of fc6", partial(_convolution, layer="fc6", pads=[1, 1, 1, 1]), LAYERS)


@damage("dilation of fc6", LAYERS)
def toggle_dilation(file: Edit) -> None:
    fc6 = file.node("fc6")
    if file.values(file.weight("fc6")).shape[2] == 1:
        raise NotApplicable("fc6 is 1x1")
    dilated = any(attribute.name == "dilations" and attribute.ints[0] == 2 for attribute in fc6.attribute)
    file.set(fc6, dilations=[1, 1] if dilated else [2, 2])


def _lrn(file: Edit, **attributes: Any) -> None:
    file.set(file.first("LRN"), **attributes)


add("LRN over 3 channels", partial(_lrn, size=3), LAYERS)
add("LRN with alpha divided by 5", partial(_lrn, alpha=1e-4), LAYERS)
add("LRN with beta 0.5", partial(_lrn, beta=0.5), LAYERS)
add("LRN with bias 1", partial(_lrn, bias=1.0), LAYERS)


@damage("LRN missing", LAYERS)
def no_lrn(file: Edit) -> None:
    file.bypass(file.first("LRN").name)


@damage("a layer reads another", LAYERS)
def reads_another(file: Edit) -> None:
    names = [layer.name for layer in file.spec.convolutions if layer.in_channels == layer.out_channels]
    node = file.node(names[-1])
    behind = next(reader for reader in file.nodes if node.output[0] in reader.input)
    file.reread(behind.output[0], node.input[0])


@damage("a layer doubled", LAYERS)
def doubled(file: Edit) -> None:
    names = [layer.name for layer in file.spec.convolutions if layer.in_channels == layer.out_channels]
    node = file.node(names[-1])
    file.insert("Add", "sum", node.output[0], node.output[0])


@damage("outputs times 1.001", LAYERS)
def scaled(file: Edit) -> None:
    node = file.node("conv4_2")
    source = f"{'conv4_2.weight.scale' if file.has('conv4_2.weight.scale') else 'conv4_2.weight'}"
    file.put("factor", np.array(1.001, file.values(source).dtype))
    file.insert("Mul", "scaled", node.output[0], "factor")


@damage("a layer in another type")
def other_type(file: Edit) -> None:
    if file.has(f"{LAYER}.weight.integers"):
        _in_floats(file)
        return
    weight, bias = file.values(f"{LAYER}.weight"), file.values(f"{LAYER}.bias")
    half = weight.dtype == np.float16
    kind, back = (np.float32, np.float16) if half else (np.float16, np.float32)
    file.put(f"{LAYER}.weight", weight.astype(kind))
    file.put(f"{LAYER}.bias", bias.astype(kind))
    names = {np.float32: TensorProto.FLOAT, np.float16: TensorProto.FLOAT16}
    node = file.node(LAYER)
    file.add("Cast", "to_other", node.input[0], to=names[kind])
    node.input[0] = "to_other"
    file.insert("Cast", "to_own", node.output[0], to=names[back])


def _in_floats(file: Edit) -> None:
    """Gives an INT8 layer the float values of its integers, and its input unquantized."""
    node = file.node(LAYER)
    integers, scale = file.values(f"{LAYER}.weight.integers"), file.values(f"{LAYER}.weight.scale")
    file.put("floats", (integers.astype(np.float32) * scale.reshape(-1, 1, 1, 1)).astype(scale.dtype))
    node.input[1] = "floats"


# Proof 2 gives a layer an input that lies on its levels already, so it cannot see this. The answers only become better.
@damage("an INT8 layer without Q/DQ on its input")
def unquantized(file: Edit) -> None:
    file.bypass(f"{LAYER}.input_quantize")
    file.bypass(f"{LAYER}.input_dequantize")


@damage("float32 between layers of half", also=frozenset({"inspect", "source"}))
def no_casts(file: Edit) -> None:
    node = file.node(f"{LAYER}")
    if not file.has(f"{LAYER}.weight") or file.values(f"{LAYER}.weight").dtype != np.float16:
        raise NotApplicable("the layer is not half")
    file.add("Cast", "up", node.output[0], to=TensorProto.FLOAT)
    file.reread(node.output[0], "up", but=("up",))
    relu = file.node("relu3_2")
    file.insert("Cast", "down", relu.output[0], to=TensorProto.FLOAT16)


# The constant is smaller than half a level of an INT8 output.
@damage("a ReLU that ends at a small constant")
def max_relu(file: Edit) -> None:
    relu = file.node("relu3_2")
    source = f"{LAYER}.weight.scale" if file.has(f"{LAYER}.weight.scale") else f"{LAYER}.weight"
    file.put("small", np.array(0.01, file.values(source).dtype))
    relu.op_type = "Max"
    if len(relu.input) == 2:
        relu.input[1] = "small"
    else:
        relu.input.append("small")
