"""The graph as written: names, shapes, types, nothing twice. tests/parity proves that its answers are right."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, shape_inference

from export.graph import build_graph, relu_name
from vgg_deploy.artifacts.export_options import GraphOptions
from vgg_deploy.network.manifest import PAPER_NORMALIZATION, TORCHVISION_NORMALIZATION, Normalization
from vgg_deploy.network.spec import CONFIGURATIONS, NetworkSpec

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
Graphs = Callable[..., onnx.ModelProto]

OUTPUTS = [
    {"score_map": score_map, "features": features} for score_map, features in itertools.product((False, True), repeat=2)
]


def operators(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def tensors(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def sizes(value: onnx.ValueInfoProto) -> list[int | str]:
    return [
        axis.dim_value if axis.HasField("dim_value") else axis.dim_param for axis in value.type.tensor_type.shape.dim
    ]


def inferred_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of every tensor, from onnx's own inference, which fails if types do not match."""
    known = shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*known.value_info, *known.input, *known.output)}
    return types | {tensor.name: tensor.data_type for tensor in known.initializer}


def type_conflicts(model: onnx.ModelProto) -> list[str]:
    """Nodes whose inputs have different types, and casts that change nothing or follow another cast."""
    types, makers = inferred_types(model), {node.output[0]: node for node in model.graph.node}
    conflicts, casts = [], set()
    for node in model.graph.node:
        if node.op_type == "Cast":
            before, after = types[node.input[0]], attributes(node)["to"]
            maker = makers.get(node.input[0])
            if before == after or (maker is not None and maker.op_type == "Cast") or (node.input[0], after) in casts:
                conflicts.append(node.name)
            casts.add((node.input[0], after))
        elif len({types[name] for name in node.input}) != 1:
            conflicts.append(node.name)
    return conflicts


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_graph_is_valid_onnx_of_opset_20(configuration: str, half: bool, dynamic: bool, graph: Graphs) -> None:
    for outputs in OUTPUTS:
        model = graph(configuration, half=half, dynamic=dynamic, **outputs)
        onnx.checker.check_model(model, full_check=True)
        assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
        expected = ["probabilities", *(name for name, wanted in outputs.items() if wanted)]
        assert [value.name for value in model.graph.output] == expected


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_nodes_carry_the_papers_names_in_its_order(
    configuration: str, graph: Graphs, narrow_spec: Callable[..., NetworkSpec]
) -> None:
    model = graph(configuration)
    layers = narrow_spec(configuration).layers
    nodes = [(node.op_type, node.name) for node in model.graph.node if node.op_type in ("Conv", "MaxPool", "LRN")]
    kinds = {"conv": "Conv", "fc": "Conv", "pool": "MaxPool", "lrn": "LRN"}
    assert nodes == [(kinds[layer.kind], layer.name) for layer in layers]
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_hidden_layer_with_weights_and_no_other_is_followed_by_a_relu(configuration: str, graph: Graphs) -> None:
    nodes = list(graph(configuration).graph.node)
    followed = {node.name: after for node, after in itertools.pairwise(nodes) if node.op_type == "Conv"}
    assert followed.pop("fc8").op_type != "Relu"
    for layer, after in followed.items():
        assert (after.op_type, after.name, after.input[0]) == ("Relu", relu_name(layer), layer)
    assert len(operators(graph(configuration), "Relu")) == len(followed)
    assert (relu_name("conv1_1"), relu_name("conv5_4"), relu_name("fc6")) == ("relu1_1", "relu5_4", "relu6")


@pytest.mark.parametrize(("crop", "kernel"), [(32, 1), (64, 2), (224, 7), (256, 8)])
def test_fully_connected_layers_are_folded_to_convolutions(crop: int, kernel: int, graph: Graphs) -> None:
    model = graph(spec={"crop": crop, "width_divisor": 64, "fc_width": 6})
    weights = tensors(model)
    assert weights["fc6.weight"].shape == (6, 8, kernel, kernel)
    assert weights["fc7.weight"].shape == (6, 6, 1, 1)
    assert weights["fc8.weight"].shape == (5, 6, 1, 1)
    convolutions = {node.name: attributes(node) for node in operators(model, "Conv")}
    assert convolutions["fc6"] == {"kernel_shape": [kernel, kernel], "pads": [0, 0, 0, 0], "strides": [1, 1]}
    assert convolutions["fc7"] == convolutions["fc8"] == {**convolutions["fc6"], "kernel_shape": [1, 1]}


def test_c_has_its_1x1_convolutions_without_padding(graph: Graphs) -> None:
    convolutions = {node.name: attributes(node) for node in operators(graph("C"), "Conv")}
    for name in ("conv3_3", "conv4_3", "conv5_3"):
        assert (convolutions[name]["kernel_shape"], convolutions[name]["pads"]) == ([1, 1], [0, 0, 0, 0])
    assert (convolutions["conv3_2"]["kernel_shape"], convolutions["conv3_2"]["pads"]) == ([3, 3], [1, 1, 1, 1])


@pytest.mark.parametrize("half", [False, True])
def test_a_lrn_has_one_lrn_node_with_krizhevskys_constants(half: bool, graph: Graphs) -> None:
    nodes = operators(graph("A-LRN", half=half), "LRN")
    assert [node.name for node in nodes] == ["lrn1"]
    expected = {"size": 5, "alpha": 5e-4, "beta": 0.75, "bias": 2.0}  # ONNX divides alpha by size
    assert attributes(nodes[0]) == pytest.approx(expected)
    assert not operators(graph("A", half=half), "LRN")


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_no_weight_is_stored_twice(
    configuration: str, outputs: dict[str, bool], graph: Graphs, narrow_spec: Callable[..., NetworkSpec]
) -> None:
    model, spec = graph(configuration, **outputs), narrow_spec(configuration)
    names = [tensor.name for tensor in model.graph.initializer]
    assert len(set(names)) == len(names)
    assert sum(value.size for value in tensors(model).values()) == spec.parameters + 3  # and the mean
    assert model.ByteSize() < 4 * spec.parameters + 16_384
    assert graph(configuration, half=True, **outputs).ByteSize() < 2 * spec.parameters + 16_384


def test_weights_are_stored_unchanged_and_consumed(
    narrow_spec: Callable[..., NetworkSpec], numpy_weights: Callable[..., dict[str, np.ndarray]]
) -> None:
    spec = narrow_spec("B")
    weights = numpy_weights(spec)
    expected = dict(weights)
    model = build_graph(spec, weights, PAPER_NORMALIZATION, GraphOptions())
    assert not weights
    stored = tensors(model)
    for name, value in expected.items():
        np.testing.assert_array_equal(stored[name].reshape(value.shape), value)


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_an_fp32_graph_has_no_cast_but_the_first_node(
    configuration: str, outputs: dict[str, bool], graph: Graphs
) -> None:
    model = graph(configuration, **outputs)
    assert [node.name for node in operators(model, "Cast")] == [model.graph.node[0].name]
    assert attributes(model.graph.node[0])["to"] == FLOAT
    assert set(inferred_types(model).values()) == {FLOAT, TensorProto.UINT8}


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_an_fp16_graph_computes_in_half_from_conv1_1_to_fc8_and_in_fp32_at_lrn_and_soft_max(
    configuration: str, outputs: dict[str, bool], graph: Graphs
) -> None:
    model = graph(configuration, half=True, **outputs)
    types = inferred_types(model)
    for node in operators(model, "Conv"):
        assert {types[name] for name in (*node.input, *node.output)} == {HALF}, node.name
    for node in (*operators(model, "LRN"), *operators(model, "Softmax"), *operators(model, "GlobalAveragePool")):
        assert {types[name] for name in (*node.input, *node.output)} == {FLOAT}, node.name
    for node in operators(model, "Sub"):
        assert types[node.output[0]] == FLOAT
    assert {types[value.name] for value in model.graph.output} == {FLOAT}
    assert type_conflicts(model) == []


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("configuration", ["A-LRN", "C"])
@pytest.mark.parametrize("kept", [{"conv1_1"}, {"conv2_1", "conv3_1"}, {"fc6", "fc7"}, {"fc8"}, {"conv5_2", "fc6"}])
def test_layers_kept_in_fp32_are_fp32_and_the_others_half(
    kept: set[str], configuration: str, outputs: dict[str, bool], graph: Graphs
) -> None:
    model = graph(configuration, half=True, float32_layers=frozenset(kept), **outputs)
    types = inferred_types(model)
    for node in operators(model, "Conv"):
        expected = FLOAT if node.name in kept else HALF
        assert {types[name] for name in (*node.input, *node.output)} == {expected}, node.name
    assert type_conflicts(model) == []


def test_keeping_every_layer_in_fp32_leaves_the_fp32_graph(
    graph: Graphs, narrow_spec: Callable[..., NetworkSpec]
) -> None:
    layers = frozenset(layer.name for layer in narrow_spec("A").weight_layers)
    assert graph("A", half=True, float32_layers=layers) == graph("A")


@pytest.mark.parametrize("half", [False, True])
def test_free_axes_have_names_and_a_fixed_graph_takes_one_image_of_the_crop(half: bool, graph: Graphs) -> None:
    for dynamic, image, (n, rows, columns) in (
        (True, ["batch", "height", "width", 3], ("batch", "rows", "columns")),
        (False, [1, 64, 64, 3], (1, 1, 1)),
    ):
        model = graph(dynamic=dynamic, half=half, score_map=True, features=True)
        assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8
        assert sizes(model.graph.input[0]) == image
        assert [sizes(value) for value in model.graph.output] == [[n, 5], [n, 5, rows, columns], [n, 24]]


def test_without_a_score_map_fc8_runs_on_the_mean_and_with_one_on_every_position(graph: Graphs) -> None:
    def order(**outputs: bool) -> list[str]:
        names = [node.name for node in graph(dynamic=True, **outputs).graph.node]
        return sorted(("fc8", "spatial_mean"), key=names.index)

    assert order() == order(features=True) == ["spatial_mean", "fc8"]
    assert order(score_map=True) == order(score_map=True, features=True) == ["fc8", "spatial_mean"]


def test_pixels_are_divided_only_if_the_std_is_not_one(graph: Graphs) -> None:
    assert not operators(graph(), "Div")
    assert not operators(graph(normalization=Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))), "Div")
    model = graph(normalization=TORCHVISION_NORMALIZATION)
    assert [node.op_type for node in model.graph.node[:4]] == ["Cast", "Sub", "Div", "Transpose"]
    stored = tensors(model)
    np.testing.assert_allclose(stored["mean_rgb"], TORCHVISION_NORMALIZATION.mean, rtol=1e-6)
    np.testing.assert_allclose(stored["std_rgb"], TORCHVISION_NORMALIZATION.std, rtol=1e-6)


def test_normalization_is_fp32_in_an_fp16_graph(graph: Graphs) -> None:
    stored = tensors(graph(half=True, normalization=TORCHVISION_NORMALIZATION))
    assert stored["mean_rgb"].dtype == stored["std_rgb"].dtype == np.float32
    weights = {name: value.dtype for name, value in stored.items() if name.startswith(("conv", "fc"))}
    assert set(weights.values()) == {np.dtype(np.float16)}


def test_the_fp16_weights_are_the_fp32_weights_rounded_to_the_nearest(graph: Graphs) -> None:
    exact, rounded = tensors(graph()), tensors(graph(half=True))
    for name in ("conv1_1.weight", "conv5_2.bias", "fc6.weight", "fc8.bias"):
        np.testing.assert_array_equal(rounded[name], exact[name].astype(np.float16))


@pytest.mark.parametrize(("crop", "height", "width"), [(64, 65, 200), (64, 64, 64), (96, 131, 97)])
def test_the_inferred_score_map_has_a_position_for_each_place_of_the_crop(
    crop: int, height: int, width: int, graph: Graphs
) -> None:
    model = graph(spec={"crop": crop}, dynamic=True, score_map=True)
    for axis, size in zip(model.graph.input[0].type.tensor_type.shape.dim, (2, height, width), strict=False):
        axis.dim_value = size
    for axis in itertools.islice(model.graph.output[1].type.tensor_type.shape.dim, 2, 4):
        axis.Clear()
    known = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    shapes = {value.name: sizes(value) for value in (*known.graph.value_info, *known.graph.output)}
    kernel = crop // 32
    assert shapes["score_map"][2:] == [math.floor(height / 32) - kernel + 1, math.floor(width / 32) - kernel + 1]
