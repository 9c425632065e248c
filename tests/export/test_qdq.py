"""Where the graph has Q/DQ nodes: for TensorRT only on inputs, for ONNX Runtime so that its kernels take the layers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graph import build_graph, relu_name
from export.qdq import observed_inputs
from vgg_deploy.artifacts.export_options import GraphOptions
from vgg_deploy.artifacts.onnx_layers import layer_types
from vgg_deploy.errors import ManifestError, UsageError
from vgg_deploy.network.manifest import PAPER_NORMALIZATION
from vgg_deploy.network.precision import TARGETS, Quantization
from vgg_deploy.network.spec import CONFIGURATIONS, NetworkSpec

FLOAT, HALF, INT8, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT8, TensorProto.UINT8
OUTPUTS: list[dict[str, bool]] = [
    {"score_map": score_map, "features": features} for score_map in (False, True) for features in (False, True)
]
# Layers kept in floating point: none, the first, one behind a pooling, one before a pooling, one between two others,
# two in a row across a pooling, the FC layers one by one and together. Layers that a configuration lacks
# are left out.
KEPT: list[tuple[str, ...]] = [
    (),
    ("conv1_1",),
    ("conv2_1",),
    ("conv3_2",),
    ("conv4_1",),
    ("conv3_2", "conv4_1"),
    ("conv5_2", "fc6"),
    ("fc6",),
    ("fc7",),
    ("fc8",),
    ("fc6", "fc7", "fc8"),
    ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1", "fc6"),
]
Graphs = Callable[..., tuple[onnx.ModelProto, Quantization]]


def ranges(spec: NetworkSpec, score_map: bool) -> dict[str, tuple[float, float]]:
    """A different range for each observed node, so a scale identifies its range."""
    names = observed_inputs(spec, score_map)
    return {name: (-100.0 if index == 0 else 0.0, 127.0 * (index + 1)) for index, name in enumerate(names)}


@pytest.fixture(scope="module")
def quantized(
    narrow_spec: Callable[..., NetworkSpec], numpy_weights: Callable[..., dict[str, np.ndarray]]
) -> Callable[..., tuple[onnx.ModelProto, Quantization]]:
    """`quantized(configuration, target, float_layers=(), spec={}, **GraphOptions fields)` -> model and quantization."""

    def make(
        configuration: str,
        target: str,
        float_layers: Collection[str] = (),
        *,
        spec: dict[str, Any] | None = None,
        **options: Any,
    ) -> tuple[onnx.ModelProto, Quantization]:
        network = narrow_spec(configuration, **(spec or {}))
        names = [layer.name for layer in network.weight_layers]
        if target == "onnxruntime":
            float_layers = {*float_layers, "fc8"}
        layers = tuple(name for name in names if name not in float_layers)
        float_layers = tuple(name for name in names if name in float_layers)
        spans = ranges(network, options.get("score_map", False))
        quantization = Quantization(target, layers, float_layers, "minmax", spans, (), (64,), True)
        fields = GraphOptions(quantization=quantization, dynamic=True, **options)
        return build_graph(network, numpy_weights(network), PAPER_NORMALIZATION, fields), quantization

    return make


def test_a_missing_range_is_named(narrow_spec: Callable[..., NetworkSpec], numpy_weights: Callable[..., Any]) -> None:
    network = narrow_spec("A-LRN")
    spans = ranges(network, score_map=False)
    del spans["lrn1"]
    layers = tuple(layer.name for layer in network.weight_layers)
    quantization = Quantization("onnxruntime", layers[:-1], layers[-1:], "minmax", spans, (), (64,), True)
    with pytest.raises(ManifestError, match=re.escape("the quantization has no range of lrn1; measure")):
        build_graph(network, numpy_weights(network), PAPER_NORMALIZATION, GraphOptions(quantization=quantization))


class Reader:
    """The nodes of a graph by name and by output, and its constants."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = {node.name: node for node in model.graph.node}
        self.makers = {node.output[0]: node for node in model.graph.node}
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}

    def readers(self, tensor: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes.values() if tensor in node.input]

    def maker(self, name: str, index: int = 0) -> onnx.NodeProto | None:
        """The node that computes a node's input; None for a constant or an input of the graph."""
        return self.makers.get(self.nodes[name].input[index])

    def scale_before(self, name: str) -> float | None:
        """The scale of the Q/DQ pair through which a node reads its data; None without one."""
        dequantize = self.maker(name)
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            return None
        quantize = self.makers[dequantize.input[0]]
        assert quantize.op_type == "QuantizeLinear"
        assert list(quantize.input[1:]) == list(dequantize.input[1:])
        return float(self.constants[quantize.input[1]])

    def zero_point_before(self, name: str) -> np.ndarray:
        dequantize = self.maker(name)
        return self.constants[dequantize.input[2]]


@pytest.mark.parametrize(("target", "half"), [("tensorrt", False), ("tensorrt", True), ("onnxruntime", False)])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_every_quantized_graph_is_valid_and_its_types_are_as_requested(
    configuration: str, target: str, half: bool, quantized: Graphs
) -> None:
    for float_layers, options in zip(KEPT, itertools.cycle(OUTPUTS), strict=False):
        model, quantization = quantized(configuration, target, float_layers, half=half, **options)
        onnx.checker.check_model(model)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        rest = "float16" if half else "float32"
        types = layer_types(model)
        assert types == {name: "int8" if name in quantization.layers else rest for name in types}
        assert len(types) == len(quantization.layers) + len(quantization.kept)
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names)


def test_int8_for_onnxruntime_cannot_be_combined_with_fp16(quantized: Graphs) -> None:
    with pytest.raises(UsageError, match="CPU kernels, which have no FP16"):
        quantized("A", "onnxruntime", half=True)


@pytest.mark.parametrize("float_layers", KEPT, ids=lambda float_layers: "+".join(float_layers) or "none")
@pytest.mark.parametrize("configuration", ["A-LRN", "C"])
def test_for_tensorrt_only_the_inputs_of_int8_layers_and_of_poolings_before_them_have_q_and_dq(
    configuration: str, float_layers: tuple[str, ...], quantized: Graphs, narrow_spec: Callable[..., NetworkSpec]
) -> None:
    spec = narrow_spec(configuration)
    names = [layer.name for layer in spec.layers]
    for options in OUTPUTS:
        model, quantization = quantized(configuration, "tensorrt", float_layers, **options)
        graph, expected = Reader(model), set()
        for index, layer in enumerate(spec.layers):
            reader = names[index + 1] if layer.kind == "pool" else layer.name
            span = quantization.ranges[reader]
            if reader in quantization.layers and layer.kind != "lrn":
                expected.add(layer.name)
                assert graph.scale_before(layer.name) == np.float32(max(-span[0], span[1]) / 127)
                zero_point = graph.zero_point_before(layer.name)
                assert (zero_point.dtype, int(zero_point)) == (np.int8, 0)
            else:
                assert graph.scale_before(layer.name) is None, layer.name
        quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
        assert len(quantizers) == len(expected)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_for_tensorrt_weights_are_int8_by_channel_and_the_bias_is_floating_point(
    configuration: str, half: bool, quantized: Graphs, narrow_spec: Callable[..., NetworkSpec]
) -> None:
    model, quantization = quantized(configuration, "tensorrt", ("conv2_1",), half=half)
    graph, dtype = Reader(model), np.float16 if half else np.float32
    for layer in narrow_spec(configuration).weight_layers:
        bias = graph.constants[graph.nodes[layer.name].input[2]]
        assert (bias.dtype, bias.shape) == (dtype, (layer.out_channels,))
        if layer.name in quantization.kept:
            assert graph.constants[graph.nodes[layer.name].input[1]].dtype == dtype
            continue
        dequantize = graph.maker(layer.name, 1)
        assert dequantize.op_type == "DequantizeLinear"
        integers, scales, zero_points = (graph.constants[name] for name in dequantize.input)
        assert (integers.dtype, integers.shape) == (np.int8, layer.weight_shape)
        assert (scales.dtype, scales.shape) == (dtype, (layer.out_channels,))
        assert (zero_points.dtype, zero_points.any()) == (np.int8, False)
        assert helper.get_node_attr_value(dequantize, "axis") == 0
        assert integers.min() >= -127


@pytest.mark.parametrize("float_layers", KEPT, ids=lambda float_layers: "+".join(float_layers) or "none")
@pytest.mark.parametrize("configuration", ["A-LRN", "C"])
def test_for_onnxruntime_every_reader_of_an_int8_layer_reads_it_through_one_pair_of_q_and_dq(
    configuration: str, float_layers: tuple[str, ...], quantized: Graphs
) -> None:
    for options in OUTPUTS:
        model, quantization = quantized(configuration, "onnxruntime", float_layers, **options)
        graph = Reader(model)
        for name in quantization.layers:
            assert graph.scale_before(name) is not None
            assert graph.zero_point_before(name).dtype == np.uint8
            readers = graph.readers(relu_name(name))
            assert [reader.op_type for reader in readers] == ["QuantizeLinear"], name
            bias = graph.maker(name, 2)
            assert graph.constants[bias.input[0]].dtype == np.int32
            # ONNX Runtime does not read the scale of the bias; it assumes this product.
            weight = graph.maker(name, 1)
            product = graph.scale_before(name) * graph.constants[weight.input[1]].astype(np.float64)
            np.testing.assert_allclose(graph.constants[bias.input[1]], product, rtol=1e-6)
        for name in quantization.kept:
            assert graph.constants[graph.nodes[name].input[1]].dtype == np.float32


def optimized(model: onnx.ModelProto, folder: Path) -> dict[str, list[str]]:
    """The nodes that ONNX Runtime makes of a model: names by operator."""
    runtime = pytest.importorskip("engines.ort").onnxruntime  # imported through our module, which turns telemetry off
    path, written = folder / "model.onnx", folder / "optimized.onnx"
    onnx.save(model, path)
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(written)
    runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    operators: dict[str, list[str]] = {}
    for node in onnx.load(written).graph.node:
        operators.setdefault(node.op_type, []).append(node.name)
    return operators


@pytest.mark.parametrize("float_layers", KEPT, ids=lambda float_layers: "+".join(float_layers) or "none")
@pytest.mark.parametrize("configuration", ["A-LRN", "C"])
def test_onnxruntime_runs_the_int8_layers_and_no_others_with_its_integer_kernels(
    configuration: str, float_layers: tuple[str, ...], quantized: Graphs, tmp_path: Path
) -> None:
    """Unprevented, it would quantize a layer between two INT8 layers, with one scale for all channels."""
    for options in OUTPUTS if float_layers in ((), ("fc7",)) else OUTPUTS[:1]:
        model, quantization = quantized(configuration, "onnxruntime", float_layers, **options)
        operators = optimized(model, tmp_path)
        assert operators.get("QLinearConv", []) == list(quantization.layers)
        floating = {name.split("/")[0] for operator in ("Conv", "FusedConv") for name in operators.get(operator, [])}
        assert len(floating) == len(quantization.kept)
        if not float_layers and configuration != "A-LRN":  # eight bits from conv1_1 to fc7
            assert len(operators["QuantizeLinear"]) == 1


def test_onnxruntime_leaves_layers_kept_in_floating_point_alone_in_a_file_for_tensorrt_too(
    quantized: Graphs, tmp_path: Path
) -> None:
    for float_layers in KEPT:
        model, quantization = quantized("A", "tensorrt", float_layers)
        operators = optimized(model, tmp_path)
        assert not set(operators.get("QLinearConv", [])) & set(quantization.kept)
        assert not any(name.endswith("_weight_q") for names in operators.values() for name in names)


def without_quantization(model: onnx.ModelProto) -> list[tuple[str, str, list[str], dict[str, Any]]]:
    """The other nodes (operator, name, data input and attributes), as if there were no Q/DQ pairs."""
    passed: dict[str, str] = {}
    nodes = []
    for node in model.graph.node:
        data = passed.get(node.input[0], node.input[0])
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            passed[node.output[0]] = data
            continue
        operator = "Relu" if node.op_type == "Max" else node.op_type
        values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        nodes.append((operator, node.name, [data, *node.output], values))
    return nodes


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_quantized_graph_without_its_q_and_dq_nodes_is_the_plain_graph(
    configuration: str, target: str, quantized: Graphs, graph: Callable[..., onnx.ModelProto]
) -> None:
    for half in (False, True) if target == "tensorrt" else (False,):
        plain = [graph(configuration, dynamic=True, half=half, **options) for options in OUTPUTS]
        for index, float_layers in enumerate(KEPT):
            expected, options = plain[index % 4], OUTPUTS[index % 4]
            model, _quantization = quantized(configuration, target, float_layers, half=half, **options)
            assert not any("quantize" in node.op_type.lower() for node in expected.graph.node)
            assert without_quantization(model) == without_quantization(expected)
            assert model.graph.output == expected.graph.output


@pytest.mark.parametrize("target", TARGETS)
def test_layers_kept_in_floating_point_have_the_weights_of_the_plain_graph(
    target: str, quantized: Graphs, graph: Callable[..., onnx.ModelProto]
) -> None:
    plain = Reader(graph("A", dynamic=True)).constants
    model, quantization = quantized("A", target, ("conv3_1", "fc6", "fc8"))
    constants = Reader(model).constants
    for name in quantization.kept:
        for part in ("weight", "bias"):
            np.testing.assert_array_equal(constants[f"{name}.{part}"], plain[f"{name}.{part}"])
    for name in quantization.layers:
        assert f"{name}.weight" not in constants  # none twice


def test_the_inputs_of_weight_layers_lrn_and_the_mean_are_observed(narrow_spec: Callable[..., NetworkSpec]) -> None:
    weights = ["conv1_1", "conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "conv5_1", "conv5_2", "fc6", "fc7"]
    assert observed_inputs(narrow_spec("A"), False) == (*weights, "spatial_mean", "fc8")
    assert observed_inputs(narrow_spec("A"), True) == (*weights, "fc8")
    assert observed_inputs(narrow_spec("A-LRN"), True) == (weights[0], "lrn1", *weights[1:], "fc8")


@pytest.mark.parametrize("target", TARGETS)
def test_a_fine_grids_dilated_fc6_is_quantized_like_any_other(target: str, quantized: Graphs, tmp_path: Path) -> None:
    model, quantization = quantized("A", target, spec={"fine": True})
    assert layer_types(model)["fc6"] == "int8"
    graph = Reader(model)
    assert graph.scale_before("pool5") == graph.scale_before("fc6")
    if target == "onnxruntime":
        assert optimized(model, tmp_path)["QLinearConv"] == list(quantization.layers)
