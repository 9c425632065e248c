"""The types of the layers of an ONNX graph, from its nodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vgg_deploy.artifacts.onnx_layers import layer_types

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


def graph(*nodes: tuple[str, str, list[str], dict[str, Any]], **constants: np.ndarray) -> onnx.ModelProto:
    """A model of nodes (operator, output, inputs, attributes)."""
    made = [helper.make_node(kind, inputs, [name], name=name, **fields) for kind, name, inputs, fields in nodes]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    images = helper.make_tensor_value_info("images", FLOAT, (1, 3, 8, 8))
    return helper.make_model(helper.make_graph(made, "g", [images], [], tensors))


def quantized(kind: type[np.integer[Any]] = np.int8, scale: type[np.floating[Any]] = np.float32) -> onnx.ModelProto:
    """One convolution between Q/DQ nodes, as quantizers write it."""
    return graph(
        ("QuantizeLinear", "q", ["images", "s", "z"], {}),
        ("DequantizeLinear", "d", ["q", "s", "z"], {}),
        ("DequantizeLinear", "w", ["i", "s", "z"], {}),
        ("Conv", "conv", ["d", "w"], {}),
        s=np.array(0.5, scale),
        z=np.array(0, kind),
        i=np.ones((2, 3, 3, 3), kind),
    )


@pytest.mark.parametrize(("dtype", "kind"), [(np.float16, "float16"), (np.float64, "double")])
def test_floating_point_is_the_type_of_the_weights(dtype: Any, kind: str) -> None:
    assert layer_types(graph(("Conv", "c", ["images", "w"], {}), w=np.ones((2, 3, 3, 3), dtype))) == {"c": kind}


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_int8_is_data_and_weights_from_eight_bits(kind: Any) -> None:
    assert layer_types(quantized(kind)) == {"conv": "int8"}


@pytest.mark.parametrize(("scale", "kind"), [(np.float32, "float32"), (np.float16, "float16")])
def test_weights_alone_in_eight_bits_compute_in_the_type_of_their_scale(scale: Any, kind: str) -> None:
    model = quantized(scale=scale)
    model.graph.node[3].input[0] = "images"
    assert layer_types(model) == {"conv": kind}


def test_sixteen_bits_are_not_int8() -> None:
    model = quantized()
    for tensor in model.graph.initializer:
        if tensor.name == "i":
            tensor.CopyFrom(numpy_helper.from_array(np.ones((2, 3, 3, 3), np.int16), "i"))
    assert layer_types(model) == {"conv": "float32"}


def test_weights_are_followed_through_what_keeps_their_type() -> None:
    weights = np.ones((3, 3, 3, 2), np.float16)
    model = graph(
        ("Identity", "same", ["w"], {}),
        ("Transpose", "turned", ["same"], {"perm": [3, 2, 0, 1]}),
        ("Conv", "c", ["images", "turned"], {}),
        w=weights,
    )
    assert layer_types(model) == {"c": "float16"}


def test_weights_from_a_cast_or_a_constant_node_have_the_type_that_it_gives() -> None:
    value = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float16))
    model = graph(
        ("Constant", "k", [], {"value": value}),
        ("Cast", "wide", ["k"], {"to": FLOAT}),
        ("Conv", "a", ["images", "k"], {}),
        ("Conv", "b", ["images", "wide"], {}),
    )
    assert layer_types(model) == {"a": "float16", "b": "float32"}


def test_weights_that_are_computed_are_unknown() -> None:
    model = graph(
        ("Mul", "product", ["w", "w"], {}),
        ("Conv", "c", ["images", "product"], {}),
        w=np.ones((2, 3, 3, 3), np.float32),
    )
    assert layer_types(model) == {"c": "unknown"}
    assert layer_types(graph(("Conv", "c", ["images", "absent"], {}))) == {"c": "unknown"}


def test_nodes_without_names_have_those_that_tensorrt_gives_them() -> None:
    model = graph(("Conv", "c", ["images", "w"], {}), w=np.ones((2, 3, 3, 3), np.float32))
    model.graph.node[0].name = ""
    assert layer_types(model) == {"node_of_c": "float32"}


def test_a_graph_without_convolutions_has_no_layers() -> None:
    assert layer_types(graph(("Identity", "i", ["images"], {}))) == {}


def test_nodes_without_inputs_and_nodes_in_a_circle_have_unknown_types() -> None:
    circle = [
        helper.make_node("Identity", ["second"], ["first"]),
        helper.make_node("Identity", ["first"], ["second"]),
        helper.make_node("Conv", ["images", "first"], ["scores"], name="conv1_1"),
        helper.make_node("Conv", [], ["nothing"], name="conv1_2"),
        helper.make_node("DequantizeLinear", [], ["integers"]),
        helper.make_node("Conv", ["integers", "integers"], ["more"], name="conv2_1"),
    ]
    model = helper.make_model(helper.make_graph(circle, "circle", [], []))
    assert layer_types(model) == {"conv1_1": "unknown", "conv1_2": "unknown", "conv2_1": "unknown"}
