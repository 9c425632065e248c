"""The exact evaluation of an ONNX file, against PyTorch in float64 and onnx's own reference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from export.proof.layers.exact import Exact
from export.proof.layers.operators import Window, convolution
from export.proof.layers.value import Rounding, Value
from vgg_deploy.errors import ModelFileError


def maps(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, shape)


def evaluated(
    node: onnx.NodeProto, inputs: dict[str, np.ndarray], rounding: Rounding = Rounding.FILE, **constants: np.ndarray
) -> Value:
    """The result of one node."""
    values = {name: Value(array, array.dtype) for name, array in inputs.items()}
    return Exact([node], constants, rounding).run(values, ["y"])["y"]


def reference(node: onnx.NodeProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The result of one node in onnx's reference evaluation."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in inputs.items()}
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in inputs.items()],
        [helper.make_empty_tensor_value_info("y")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    result: np.ndarray = ReferenceEvaluator(model).run(None, inputs)[0]
    return result


CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [1, 1]},
    {"kernel_shape": [3, 3], "dilations": [2, 2]},
    {"kernel_shape": [1, 1]},
    {"kernel_shape": [7, 7]},
    {"kernel_shape": [2, 3], "pads": [0, 2, 1, 0], "strides": [2, 1], "dilations": [1, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 3], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"},
]


@pytest.mark.parametrize("attributes", CONVOLUTIONS, ids=str)
def test_a_convolution_is_that_of_pytorch_in_float64(attributes: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    x, weight, bias = maps(2, 3, 11, 9), maps(5, 3, *attributes["kernel_shape"], seed=1), maps(5, seed=2)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], **attributes)
    received = evaluated(node, {"x": x}, w=weight, b=bias).exact
    if "auto_pad" in attributes:  # PyTorch has no such rule for strides
        expected = reference(node, {"x": x, "w": weight, "b": bias})
    else:
        top, left, bottom, right = attributes.get("pads", [0] * 4)
        padded = torch.nn.functional.pad(torch.from_numpy(x), (left, right, top, bottom))
        expected = torch.nn.functional.conv2d(
            padded,
            torch.from_numpy(weight),
            torch.from_numpy(bias),
            stride=attributes.get("strides", 1),
            dilation=attributes.get("dilations", 1),
        ).numpy()
    np.testing.assert_allclose(received, expected, rtol=1e-12, atol=1e-12)


def test_a_convolution_in_small_strips_and_blocks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias = maps(2, 4, 13, 10), maps(7, 4, 3, 3, seed=1), maps(7, seed=2)
    window = Window(kernel=(3, 3), before=(1, 1), after=(1, 1))
    whole = convolution(x, 7, lambda chosen: weight[chosen], bias, window)
    monkeypatch.setattr("export.proof.layers.operators._STRIP_BYTES", 8 * 36 * 10 * 3)  # three rows
    monkeypatch.setattr("export.proof.layers.operators._BLOCK_BYTES", 8 * 36 * 2)  # two channels
    np.testing.assert_allclose(
        convolution(x, 7, lambda chosen: weight[chosen], bias, window), whole, rtol=1e-13, atol=1e-13
    )


POOLINGS: list[tuple[str, dict[str, Any]]] = [
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [1, 1]}),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1}),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [1, 1], "dilations": [2, 2]}),
    ("MaxPool", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [0, 1, 2, 0]}),
    ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
]


@pytest.mark.parametrize(("operator", "attributes"), POOLINGS, ids=str)
def test_a_pooling_is_that_of_onnx(operator: str, attributes: dict[str, Any]) -> None:
    x = maps(2, 3, 11, 8).astype(np.float32) - 5  # mostly negative: padding must not win
    node = helper.make_node(operator, ["x"], ["y"], **attributes)
    np.testing.assert_allclose(evaluated(node, {"x": x}).exact, reference(node, {"x": x}), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count_padding", [False, True])
@pytest.mark.parametrize("size", [7, 8, 10])
def test_an_average_over_a_last_window_beyond_the_map_is_that_of_pytorch(size: int, count_padding: bool) -> None:
    torch = pytest.importorskip("torch")
    x = maps(1, 2, size, size)
    node = helper.make_node(
        "AveragePool",
        ["x"],
        ["y"],
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        ceil_mode=1,
        count_include_pad=int(count_padding),
    )
    expected = torch.nn.functional.avg_pool2d(
        torch.from_numpy(x), 3, 2, 1, ceil_mode=True, count_include_pad=count_padding
    ).numpy()
    np.testing.assert_allclose(evaluated(node, {"x": x}).exact, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "channels"), [(5, 12), (5, 3), (3, 4), (1, 4)])
def test_lrn_is_that_of_pytorch_in_float64(size: int, channels: int) -> None:
    torch = pytest.importorskip("torch")
    x = 100 * maps(2, channels, 3, 4)
    node = helper.make_node("LRN", ["x"], ["y"], size=size, alpha=0.5, beta=0.75, bias=2.0)
    expected = torch.nn.functional.local_response_norm(torch.from_numpy(x), size, 0.5, 0.75, 2.0).numpy()
    np.testing.assert_allclose(evaluated(node, {"x": x}).exact, expected, rtol=1e-12)


def test_lrn_over_an_even_number_of_channels_has_one_more_behind() -> None:
    x = np.array([1.0, 2.0, 4.0, 8.0]).reshape(1, 4, 1, 1)
    node = helper.make_node("LRN", ["x"], ["y"], size=2, alpha=2.0, beta=1.0, bias=1.0)
    sums = np.array([1 + 4, 4 + 16, 16 + 64, 64.0])  # ONNX: ceil((size - 1) / 2) channels behind, floor before
    np.testing.assert_allclose(evaluated(node, {"x": x}).exact.ravel(), x.ravel() / (1 + sums), rtol=1e-12)


@pytest.mark.parametrize("zero_point", [np.int8(0), np.uint8(0), np.uint8(37)])
def test_quantizing_rounds_to_even_and_clips_as_onnx_does(zero_point: Any) -> None:
    x = np.array([[-400, -0.75, -0.25, 0, 0.25, 0.75, 1.25, 1.75, 12.3, 63.25, 400]], np.float32)
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    inputs = {"s": np.float32(0.5), "z": np.array(zero_point)}
    received = evaluated(node, {"x": x}, **inputs)
    np.testing.assert_array_equal(received.exact, reference(node, {"x": x, **inputs}))
    assert received.dtype == np.array(zero_point).dtype


@pytest.mark.parametrize("axis", [0, 1])
def test_dequantizing_has_a_scale_for_each_channel(axis: int) -> None:
    integers = np.random.default_rng(0).integers(-128, 128, (4, 4, 3, 3)).astype(np.int8)
    scales = np.array([0.5, 0.25, 2, 1 / 3], np.float32)
    zero_points = np.array([0, 3, 0, -5], np.int8)
    node = helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"], axis=axis)
    received = evaluated(node, {"x": integers}, s=scales, z=zero_points)
    expected = reference(node, {"x": integers, "s": scales, "z": zero_points})
    np.testing.assert_allclose(received.exact, expected, rtol=1e-6)
    np.testing.assert_allclose(received.part(slice(1, 3)).exact, expected[1:3], rtol=1e-6)


def int8_convolution(dtype: Any) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray], np.ndarray]:
    """Nodes, constants and an input on the levels."""
    chance = np.random.default_rng(3)
    constants = {
        "s": np.array(0.037, dtype),
        "z": np.array(11, np.uint8),
        "w": chance.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8),
        "ws": chance.uniform(1e-3, 1e-2, 6).astype(dtype),
        "wz": np.zeros(6, np.int8),
        "b": chance.normal(0, 1, 6).astype(dtype),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["f"], axis=0),
        helper.make_node("Conv", ["d", "f", "b"], ["y"], pads=[1, 1, 1, 1]),
    ]
    integers = chance.integers(0, 256, (1, 4, 6, 5))
    return nodes, constants, integers


def test_int8_products_are_summed_as_integers_and_scaled_once() -> None:
    nodes, constants, integers = int8_convolution(np.float32)
    x = ((integers - 11) * constants["s"]).astype(np.float32)
    received = Exact(nodes, constants, Rounding.FILE).run({"x": Value(x, x.dtype)}, ["y"])["y"].exact
    window = Window(kernel=(3, 3), before=(1, 1), after=(1, 1))
    # Python's whole numbers have no limit, so these sums are exact.
    padded = np.pad(integers - 11, [(0, 0), (0, 0), (1, 1), (1, 1)]).astype(object)
    sums = np.zeros((1, 6, 6, 5), object)
    for row in range(3):
        for column in range(3):
            weight = constants["w"][:, :, row, column].astype(object)  # [out, in]
            sums += np.einsum("oc,nchw->nohw", weight, padded[:, :, row : row + 6, column : column + 5])
    scale = float(constants["s"]) * constants["ws"].astype(np.float64)
    expected = sums.astype(np.float64) * scale[:, None, None] + constants["b"].astype(np.float64)[:, None, None]
    np.testing.assert_array_equal(received, expected)
    assert window.over((6, 5))[0].count == 6


def test_readings_of_an_fp16_layer_differ_in_what_is_rounded() -> None:
    nodes, constants, integers = int8_convolution(np.float16)
    x = ((integers - 11) * constants["s"].astype(np.float64)).astype(np.float16)
    results = {
        rounding: Exact(nodes, constants, rounding).run({"x": Value(x, x.dtype)}, ["y"])["y"] for rounding in Rounding
    }
    scale = constants["s"].astype(np.float64)
    weight = constants["w"] * constants["ws"].astype(np.float64)[:, None, None, None]
    activation, halves = (integers - 11) * scale, lambda values: values.astype(np.float16).astype(np.float64)
    window = Window(kernel=(3, 3), before=(1, 1), after=(1, 1))
    bias = constants["b"].astype(np.float64)
    for rounding, (left, right) in {
        Rounding.FILE: (halves(activation), halves(weight)),
        Rounding.STORED: (activation, halves(weight)),
        Rounding.NONE: (activation, weight),
    }.items():
        expected = convolution(left, 6, lambda chosen, right=right: right[chosen], bias, window)
        np.testing.assert_allclose(results[rounding].exact, expected, rtol=1e-12, atol=1e-12)
    assert results[Rounding.FILE].dtype == np.float16


def test_an_fp16_value_is_rounded_once_where_a_node_reads_it() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
    ]
    x = np.array([1.0002441, -3.0, 70000.0], np.float32)  # FP16 has 1 and 1.00098 here, and ends at 65,504
    value = Value(x, x.dtype)
    np.testing.assert_array_equal(Exact(nodes, {}, Rounding.FILE).run({"x": value}, ["y"])["y"].exact, [1, 0, np.inf])
    kept = Exact(nodes, {}, Rounding.NONE).run({"x": value}, ["y"])["y"].exact
    np.testing.assert_array_equal(kept, np.maximum(x.astype(np.float64), 0))


@pytest.mark.parametrize(("configuration", "fine"), [("A-LRN", False), ("C", True)])
def test_a_whole_file_answers_as_pytorch_does_in_float64(
    configuration: str,
    fine: bool,
    exported: Callable[..., Any],
    narrow_checkpoint: Callable[..., Path],
    batch: Callable[..., np.ndarray],
) -> None:
    torch = pytest.importorskip("torch")
    from train.network.checkpoint import read
    from train.network.model import VGG, folded

    result = exported(configuration, dynamic=True, fine=fine)
    model, spec = onnx.load(result.path), result.manifest.spec
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    images = batch(2, 70, 117)
    evaluation = Exact(model.graph.node, constants, Rounding.FILE)
    received = evaluation.run({"images": Value(images, images.dtype)}, ["probabilities"])["probabilities"].exact

    network = VGG(spec, convolutional=True).double().eval()
    network.load_state_dict(folded(spec, read(narrow_checkpoint(configuration)).weights))
    mean = np.array(result.manifest.normalization.mean, np.float32).astype(np.float64)
    pixels = torch.from_numpy((images - mean).transpose(0, 3, 1, 2))  # [n, 3, h, w]
    with torch.inference_mode():
        *_layers, (_name, scores) = network.steps(pixels)
    expected = scores.mean(dim=(2, 3)).softmax(dim=1).numpy()  # [n, classes]
    np.testing.assert_allclose(received, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        (helper.make_node("Tanh", ["x"], ["y"], name="odd"), r"node odd \(Tanh\) is an operator that the exact"),
        (helper.make_node("Relu", ["x"], ["y"], name="odd", domain="own"), r"node odd \(Relu\) is an operator"),
        (helper.make_node("Conv", ["x", "w"], ["y"], name="odd", group=2), r"node odd \(Conv\) cannot be computed"),
        (helper.make_node("MaxPool", ["x"], ["y"], name="odd", kernel_shape=[2, 2], new=1), "has the attribute new"),
        (helper.make_node("Relu", ["z"], ["y"], name="odd"), "reads z, which no node computes"),
    ],
)
def test_a_node_that_is_not_known_is_named(node: onnx.NodeProto, reason: str) -> None:
    with pytest.raises(ModelFileError, match=reason):
        evaluated(node, {"x": maps(1, 4, 6, 6)}, w=maps(4, 4, 3, 3))
