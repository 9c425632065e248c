"""A graph that computes something else than its manifest states is found, with digests and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tests.vgg_deploy.artifacts.damage import (
    changed,
    named,
    node_of,
    replace_values,
    tensor_of,
    values,
    without_digests,
)
from vgg_deploy.network.manifest import TORCHVISION_NORMALIZATION


def attribute(name: str, key: str, value: Any) -> Callable[[onnx.ModelProto], None]:
    """A change of one attribute of a node."""

    def change(model: onnx.ModelProto) -> None:
        node = node_of(model, name)
        kept = [item for item in node.attribute if item.name != key]
        del node.attribute[:]
        node.attribute.extend([*kept, onnx.helper.make_attribute(key, value)])

    return change


def without_attributes(name: str) -> Callable[[onnx.ModelProto], None]:
    """Removes the attributes of a node."""

    def change(model: onnx.ModelProto) -> None:
        del node_of(model, name).attribute[:]

    return change


def bypass(name: str) -> Callable[[onnx.ModelProto], None]:
    """Removes a node: its readers read its input."""

    def change(model: onnx.ModelProto) -> None:
        node = node_of(model, name)
        for other in model.graph.node:
            for index, value in enumerate(other.input):
                if value == node.output[0]:
                    other.input[index] = node.input[0]
        model.graph.node.remove(node)

    return change


def operator(name: str, kind: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        node_of(model, name).op_type = kind

    return change


def mean_after_softmax(model: onnx.ModelProto) -> None:
    """score_map -> soft-max over classes -> mean."""
    softmax, mean = node_of(model, "softmax"), node_of(model, "spatial_mean")
    del model.graph.node[-3:]
    model.graph.node.add(op_type="Softmax", name="softmax", input=mean.input, output=["soft"]).attribute.append(
        onnx.helper.make_attribute("axis", 1)
    )
    model.graph.node.add(op_type="GlobalAveragePool", name="spatial_mean", input=["soft"], output=["mean"])
    model.graph.node.add(op_type="Flatten", name="scores", input=["mean"], output=list(softmax.output))


def swap_scales(model: onnx.ModelProto) -> None:
    first, second = tensor_of(model, "conv2_1.input.scale"), tensor_of(model, "conv3_1.input.scale")
    first.raw_data, second.raw_data = second.raw_data, first.raw_data


def other_scale_back(model: onnx.ModelProto) -> None:
    """conv3_1's input is read back with another scale than it was stored with."""
    other = tensor_of(model, "conv3_1.input.scale")
    copy = model.graph.initializer.add()
    copy.CopyFrom(other)
    copy.name = "other"
    node_of(model, "conv3_1.input_dequantize").input[1] = "other"
    replace_values(model, "other", lambda scale: scale * 2)


def rounding_casts(model: onnx.ModelProto) -> None:
    """A cast to FP16 and back before conv3_1."""
    conv = node_of(model, "conv3_1")
    index = list(model.graph.node).index(conv)
    half = onnx.helper.make_node("Cast", [conv.input[0]], ["half"], name="half", to=TensorProto.FLOAT16)
    single = onnx.helper.make_node("Cast", ["half"], ["single"], name="single", to=TensorProto.FLOAT)
    conv.input[0] = "single"
    model.graph.node.insert(index, single)
    model.graph.node.insert(index, half)


def circle(model: onnx.ModelProto) -> None:
    node_of(model, "conv1_1").input[0] = "relu5_1"


def missing_value(model: onnx.ModelProto) -> None:
    node_of(model, "conv4_1").input[0] = "nothing"


def no_inputs(model: onnx.ModelProto) -> None:
    del node_of(model, "conv4_1").input[:]


FAULTS: list[tuple[str, dict[str, Any], Callable[[onnx.ModelProto], None], tuple[str, ...]]] = [
    ("mean + 1", {}, values("mean_rgb", lambda mean: mean + 1), ("subtracts the mean 124.68", "mean_rgb", "123.68")),
    ("mean swapped", {"half": True}, values("mean_rgb", lambda mean: mean[::-1]), ("subtracts the mean",)),
    ("mean in the last bit", {}, values("mean_rgb", lambda mean: np.nextafter(mean, np.inf)), ("the mean",)),
    (
        "std",
        {"checkpoint": {"manifest": {"normalization": TORCHVISION_NORMALIZATION}}},
        values("std_rgb", lambda std: std * 1.1),
        ("divides by the std", "std_rgb"),
    ),
    (
        "no std",
        {"checkpoint": {"manifest": {"normalization": TORCHVISION_NORMALIZATION}}},
        bypass("divide_std"),
        ("expected Div",),
    ),
    ("transposed axes", {}, attribute("transpose", "perm", [0, 3, 2, 1]), ("transpose", "perm=[0, 3, 2, 1]")),
    ("no permutation", {}, without_attributes("transpose"), ("transpose has perm=nothing; expected [0, 3, 1, 2]",)),
    ("no ReLU", {}, bypass("relu2_1"), ("after conv2_1 comes MaxPool", "expected Relu")),
    ("another activation", {}, operator("relu4_1", "Tanh"), ("after conv4_1 comes Tanh relu4_1",)),
    ("padding", {}, attribute("conv2_1", "pads", [0, 1, 0, 1]), ("conv2_1 has pads=[0, 1, 0, 1]",)),
    ("stride", {}, attribute("conv2_1", "strides", [2, 2]), ("conv2_1 has strides=[2, 2]", "[1, 1]")),
    ("dilation", {}, attribute("conv2_1", "dilations", [2, 2]), ("conv2_1 has dilations=[2, 2]",)),
    ("automatic padding", {}, attribute("conv2_1", "auto_pad", "SAME_UPPER"), ("conv2_1 has auto_pad=SAME_UPPER",)),
    ("fine grid lost", {"fine": True}, attribute("fc6", "dilations", [1, 1]), ("fc6 has dilations", "[2, 2]")),
    ("average pooling", {}, operator("pool2", "AveragePool"), ("AveragePool pool2", "expected MaxPool")),
    ("pooling rounds up", {}, attribute("pool2", "ceil_mode", 1), ("pool2 has ceil_mode=1; expected 0",)),
    ("pooling pads", {}, attribute("pool2", "pads", [1, 1, 1, 1]), ("pool2 has pads",)),
    ("pooling window", {}, attribute("pool2", "kernel_shape", [3, 3]), ("pool2 has kernel_shape",)),
    ("LRN alpha", {"configuration": "A-LRN"}, attribute("lrn1", "alpha", 1e-4), ("lrn1 has alpha=0.0001", "0.0005")),
    ("LRN size", {"configuration": "A-LRN"}, attribute("lrn1", "size", 3), ("lrn1 has size=3",)),
    ("no LRN", {"configuration": "A-LRN"}, bypass("lrn1"), ("expected LRN",)),
    ("soft-max axis", {}, attribute("softmax", "axis", 0), ("softmax has axis=0",)),
    ("no soft-max", {}, operator("softmax", "Sigmoid"), ("Sigmoid softmax", "expected Softmax")),
    ("mean after soft-max", {"score_map": True}, mean_after_softmax, ("comes Softmax", "expected GlobalAveragePool")),
    (
        "input scale * 0.25",
        {"target": "tensorrt"},
        values("conv4_1.input.scale", lambda scale: scale / 4),
        ("the scale of conv4_1.input_quantize", "of conv4_1"),
    ),
    (
        "pooling scale * 1.1",
        {"target": "tensorrt"},
        values("pool3.input.scale", lambda scale: scale * 1.1),
        ("the scale of pool3.input_quantize", "of conv4_1"),
    ),
    ("swapped scales", {"target": "onnxruntime"}, swap_scales, ("the scale of conv2_1.input_quantize",)),
    (
        "another scale back",
        {"target": "tensorrt"},
        other_scale_back,
        ("the scale of conv3_1.input_dequantize", "of conv3_1"),
    ),
    (
        "zero point",
        {"target": "onnxruntime"},
        values("conv1_1.input.zero_point", lambda zero: zero + 1),
        ("the zero point of conv1_1.input_quantize",),
    ),
    ("half scale", {"target": "tensorrt", "half": True}, values("fc6.input.scale", lambda s: s * 1.01), ("fc6.input",)),
    (
        "bias scale",
        {"target": "onnxruntime"},
        values("conv2_1.bias.scale", lambda scale: scale * 1.1),
        ("the scales of conv2_1.bias are not those",),
    ),
    (
        "weight scale 0",
        {"target": "tensorrt"},
        values("conv2_1.weight.scale", lambda scale: scale * 0),
        ("conv2_1.weight.scale has a scale that is not a number above 0",),
    ),
    (
        "weight zero point",
        {"target": "tensorrt"},
        values("conv2_1.weight.zero_point", lambda zero: zero + 1),
        ("conv2_1.weight.zero_point is not 0 everywhere",),
    ),
    ("weight axis", {"target": "tensorrt"}, attribute("conv3_1.weight_dequantize", "axis", 1), ("expected axis=0",)),
    ("rounded in between", {}, rounding_casts, ("2 casts come before conv3_1",)),
    ("a circle", {}, circle, ("its nodes form a circle",)),
    ("a missing value", {}, missing_value, ("conv4_1 reads nothing, which no node computes",)),
    ("no inputs", {}, no_inputs, ("conv4_1 reads",)),
    (
        "no Q/DQ before a pooling",
        {"target": "tensorrt"},
        lambda model: (bypass("pool3.input_dequantize")(model), bypass("pool3.input_quantize")(model))[0],
        ("the input of pool3 has no Q/DQ pair; expected one",),
    ),
    ("half of a pair", {"target": "tensorrt"}, bypass("pool3.input_dequantize"), ("half of a Q/DQ pair",)),
    (
        "a layer under another name",
        {},
        lambda model: setattr(node_of(model, "conv2_1"), "name", "conv9_9"),
        ("in the place of conv2_1", "conv9_9"),
    ),
]


@pytest.mark.parametrize("old", [False, True], ids=["digests", "no digests"])
@pytest.mark.parametrize(("options", "change", "words"), [fault[1:] for fault in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_graph_that_computes_something_else_is_found_and_the_place_is_named(
    options: dict[str, Any],
    change: Callable[[onnx.ModelProto], None],
    words: tuple[str, ...],
    old: bool,
    file: Callable[..., Path],
) -> None:
    path = file(**options)
    if old:
        without_digests(path)
    examined = changed(path, change)
    assert examined.recorded is not old
    assert named(examined, *words), examined.contradictions
    assert named(examined, "after the export") is not old
