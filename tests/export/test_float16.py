"""Which layers would overflow FP16, and the copy that shows the cost of its rounding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engines import open_engine
from export.float16 import (
    HEADROOM,
    LARGEST_FLOAT16,
    measure_activations,
    overflowing_layers,
    rounding_copy,
    unrepresentable_layers,
)
from export.graph import build_graph
from export.quantize import quantized_weights
from vgg_deploy.artifacts.export_options import ExportOptions, GraphOptions
from vgg_deploy.errors import VGGDeployError
from vgg_deploy.inference.engine import Scores
from vgg_deploy.network.manifest import MANIFEST_KEY, PAPER_NORMALIZATION
from vgg_deploy.network.precision import Quantization
from vgg_deploy.network.spec import CONFIGURATIONS, NetworkSpec
from vgg_deploy.network.tensors import ACTIVATION


def with_activations(model: onnx.ModelProto, spec: NetworkSpec) -> onnx.ModelProto:
    """A copy of a graph with an output float32 `activation/LAYER` for each layer, after its rounding to FP16."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = {node.name: node.output[0] for node in copy.graph.node}
    for layer in spec.layers:
        tensor, name = tensors.get(f"{layer.name}/from_half", tensors[layer.name]), ACTIVATION + layer.name
        copy.graph.node.append(helper.make_node("Cast", [tensor], [name], name=name, to=TensorProto.FLOAT))
        copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return copy


def scores_of(model: onnx.ModelProto, folder: Path, images: np.ndarray) -> Scores:
    path = folder / "scores.onnx"
    onnx.save(model, path)
    with open_engine(path, runtime="onnxruntime", threads=1) as engine:
        return engine.run(images)


def check_against_torch(
    checkpoint: Path,
    images: np.ndarray,
    received: Mapping[str, np.ndarray],
    float32_layers: tuple[str, ...] = (),
    quantization: Quantization | None = None,
) -> None:
    """Compares the output of each layer with PyTorch's, computed from the layer's input and rounded to FP16 or INT8.

    Layer by layer, because a sum in another order may round to a neighbouring FP16 number and change all later layers.
    A value between two integers may be rounded either way.
    """
    import torch
    from torch.nn import functional

    from train.network.checkpoint import read
    from train.network.model import LRN, folded
    from train.network.reference import normalize

    weights = read(checkpoint)
    spec, normalization = weights.manifest.spec, weights.manifest.normalization
    values = folded(spec, weights.weights)
    x = normalize(torch.from_numpy(images), normalization)
    int8 = {} if quantization is None else {name: quantization.ranges[name] for name in quantization.layers}
    layers = list(spec.layers)
    for before, layer, following in zip([None, *layers], layers, [*layers[1:], None], strict=False):
        output = torch.from_numpy(received[layer.name])
        if layer.kind == "pool":
            if following is not None and following.name in int8:
                # LRN and the pooling behind it compute in FP32.
                x = in_eight_bits(x, int8[following.name], half=before is None or before.kind != "lrn")
            expected = functional.max_pool2d(x, 2)
        elif layer.kind == "lrn":
            expected = functional.local_response_norm(x, **LRN)  # type: ignore[arg-type]
        else:
            half = layer.name not in float32_layers
            weight, bias = values[f"{layer.name}.weight"], values[f"{layer.name}.bias"]
            if layer.name in int8:
                x = in_eight_bits(x.half().float(), int8[layer.name], half=True)
                integers, scales = quantized_weights(weight.numpy(), np.float16)
                weight = torch.from_numpy(integers * scales.astype(np.float32)[:, None, None, None])
            if half:
                x, weight, bias = (value.half().float() for value in (x, weight, bias))
            expected = functional.conv2d(x, weight, bias, padding=layer.padding)
            if half:
                expected = expected.half().float()
                assert (output == expected).float().mean() > 0.97, layer.name
            else:
                assert (output == output.half().float()).float().mean() < 0.1, layer.name
        # At most the neighbouring FP16 number: 2^-10 of a value.
        assert torch.allclose(output, expected, rtol=2**-10, atol=1e-5 * float(expected.abs().max())), layer.name
        x = functional.relu(output) if layer.has_relu else output


def measured_quantization(checkpoint: Path, images: np.ndarray, kept: tuple[str, ...], score_map: bool) -> Quantization:
    """Every layer but `kept` in INT8 for TensorRT, with the ranges of these images."""
    from export.calibrate import measure
    from export.int8 import Variants
    from train.network.checkpoint import read

    weights = read(checkpoint)
    names = tuple(layer.name for layer in weights.manifest.spec.weight_layers)
    exported = ExportOptions(graph=GraphOptions(score_map=score_map))
    with (
        Variants(weights, lambda path: open_engine(path, runtime="onnxruntime", threads=1), exported) as made,
        made.open(observed=True) as engine,
    ):
        spans = measure(engine.run, [images], "minmax").spans
    layers = tuple(name for name in names if name not in kept)
    return Quantization("tensorrt", layers, kept, "minmax", spans, (), (64,), True)


def in_eight_bits(x: Any, span: tuple[float, float], half: bool) -> Any:
    """Torch values after Q and DQ: multiples of the scale. With `half`, both are rounded to FP16."""
    import torch

    scale = torch.tensor(max(-span[0], span[1]) / 127)
    if half:
        scale = scale.half().float()
    values = (x / scale).round().clamp(-128, 127) * scale
    return values.half().float() if half else values


@pytest.mark.parametrize("kept", [(), ("conv2_1", "fc6")])
@pytest.mark.parametrize("configuration", ["A-LRN", "C", "E"])
def test_the_rounding_copy_of_int8_with_fp16_equals_pytorch_rounding_to_both(
    configuration: str,
    kept: tuple[str, ...],
    narrow_checkpoint: Callable[..., Path],
    exported: Callable[..., Any],
    batch: Callable[..., np.ndarray],
    tmp_path: Path,
) -> None:
    images = batch(1, 97, 131)
    quantization = measured_quantization(narrow_checkpoint(configuration), images, kept, score_map=True)
    made = exported(configuration, dynamic=True, half=True, score_map=True, quantization=quantization)
    copy = rounding_copy(onnx.load(made.path))
    onnx.checker.check_model(copy, full_check=True)
    floats = {tensor.data_type for tensor in copy.graph.initializer}
    assert floats == {TensorProto.FLOAT, TensorProto.INT8}  # no FP16 left, in which a CPU would not compute
    received = scores_of(with_activations(copy, made.manifest.spec), tmp_path, images).activations
    check_against_torch(narrow_checkpoint(configuration), images, received, quantization=quantization)


def test_the_rounding_copy_of_an_int8_graph_without_fp16_is_that_graph(
    narrow_checkpoint: Callable[..., Path], exported: Callable[..., Any], batch: Callable[..., np.ndarray]
) -> None:
    quantization = measured_quantization(narrow_checkpoint("A"), batch(1, 80, 64), ("fc8",), score_map=False)
    model = onnx.load(exported("A", dynamic=True, quantization=quantization).path)
    assert rounding_copy(model) == model


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_rounding_copy_equals_pytorch_with_rounded_weights_and_activations(
    configuration: str,
    narrow_checkpoint: Callable[..., Path],
    exported: Callable[..., Any],
    batch: Callable[..., np.ndarray],
    tmp_path: Path,
) -> None:
    made = exported(configuration, dynamic=True, half=True, score_map=True)
    images = batch(2, 97, 131)
    copy = with_activations(rounding_copy(onnx.load(made.path)), made.manifest.spec)
    received = scores_of(copy, tmp_path, images)
    check_against_torch(narrow_checkpoint(configuration), images, received.activations)
    scores = received.activations["fc8"].mean(axis=(2, 3), dtype=np.float64)
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    np.testing.assert_allclose(received.probabilities, exponents / exponents.sum(axis=1, keepdims=True), atol=1e-6)
    # A CPU computes the file itself in FP32, which hides this.
    plain = scores_of(onnx.load(made.path), tmp_path, images)
    assert np.abs(plain.probabilities - received.probabilities).max() > 1e-6


def test_the_rounding_copy_leaves_layers_kept_in_fp32_exact(
    narrow_checkpoint: Callable[..., Path], batch: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    from train.network.checkpoint import read

    path, kept, images = narrow_checkpoint("A"), ("conv2_1", "fc6"), batch(1, 80, 96)
    checkpoint = read(path)
    spec = checkpoint.manifest.spec
    weights = {name: tensor.numpy() for name, tensor in checkpoint.weights.items()}
    options = GraphOptions(dynamic=True, half=True, float32_layers=frozenset(kept), score_map=True)
    model = build_graph(spec, weights, PAPER_NORMALIZATION, options)
    model.metadata_props.add(key=MANIFEST_KEY, value=checkpoint.manifest.to_json())
    received = scores_of(with_activations(rounding_copy(model), spec), tmp_path, images)
    check_against_torch(path, images, received.activations, kept)


def test_the_rounding_copy_of_an_fp32_graph_is_that_graph(graph: Callable[..., onnx.ModelProto]) -> None:
    model = graph("A-LRN", dynamic=True, score_map=True, features=True)
    assert rounding_copy(model) == model


def test_the_rounding_copy_is_fp32_except_for_its_rounding_and_the_original_is_unchanged(
    graph: Callable[..., onnx.ModelProto],
) -> None:
    model = graph("A-LRN", half=True, dynamic=True, score_map=True, features=True)
    before = model.SerializeToString(deterministic=True)
    copy = rounding_copy(model)
    onnx.checker.check_model(copy, full_check=True)
    assert model.SerializeToString(deterministic=True) == before
    known = onnx.shape_inference.infer_shapes(copy, check_type=True, strict_mode=True).graph
    halves = {value.name for value in known.value_info if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    assert halves
    assert all(name.endswith("/half") for name in halves)
    assert {tensor.data_type for tensor in copy.graph.initializer} == {TensorProto.FLOAT}


def test_the_largest_activation_of_each_layer_over_all_batches_is_measured(
    narrow_checkpoint: Callable[..., Path], batch: Callable[..., np.ndarray]
) -> None:
    from train.network.checkpoint import read
    from train.network.reference import Reference

    batches = [batch(2, 64, 80), batch(1, 90, 70, seed=1)]
    with Reference(read(narrow_checkpoint("A-LRN")), keep_activations=True) as reference:
        spec = reference.info.manifest.spec
        largest = measure_activations(reference.run, iter(batches), spec)
        outputs = [reference.run(images).activations for images in batches]
    assert list(largest) == [layer.name for layer in spec.weight_layers]
    for name, value in largest.items():
        assert value == max(float(np.abs(output[name]).max()) for output in outputs)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_calibration_stops_on_activations_that_are_not_finite_in_fp32(
    value: float, narrow_spec: Callable[..., NetworkSpec]
) -> None:
    spec = narrow_spec("A")

    def run(images: np.ndarray) -> Scores:
        outputs = {layer.name: np.zeros((1, 4, 4, 4), np.float32) for layer in spec.weight_layers}
        outputs["conv3_2"][0, 1, 2, 3] = value
        return Scores(np.ones((1, 5), np.float32), activations=outputs)

    with pytest.raises(VGGDeployError, match=r"conv3_2 returns (nan|inf) on a calibration image"):
        measure_activations(run, [np.zeros((1, 64, 64, 3), np.uint8)], spec)


def largest_except(spec: NetworkSpec, **others: float) -> dict[str, float]:
    return {layer.name: others.get(layer.name, 100.0) for layer in spec.weight_layers}


@pytest.mark.parametrize(
    ("overflowing", "kept"),
    [
        ({}, ()),
        ({"conv3_1": 40_000.0}, ("conv3_1", "conv3_2")),
        ({"conv2_1": 1e6}, ("conv2_1", "conv3_1")),  # the pooling between them changes nothing
        ({"conv1_1": 1e6, "conv2_1": 1e6}, ("conv1_1", "conv2_1", "conv3_1")),
        ({"conv5_2": 33_000.0}, ("conv5_2", "fc6")),
        ({"fc8": 1e6}, ("fc8",)),
    ],
)
def test_layers_that_overflow_and_those_that_read_them_stay_fp32(
    overflowing: dict[str, float], kept: tuple[str, ...], narrow_spec: Callable[..., NetworkSpec]
) -> None:
    spec = narrow_spec("A")
    assert overflowing_layers(spec, largest_except(spec, **overflowing)) == kept


def test_half_of_fp16s_range_is_kept_in_reserve(narrow_spec: Callable[..., NetworkSpec]) -> None:
    spec = narrow_spec("A")
    assert overflowing_layers(spec, largest_except(spec, conv4_1=LARGEST_FLOAT16 / HEADROOM)) == ()
    assert overflowing_layers(spec, largest_except(spec, conv4_1=LARGEST_FLOAT16 / HEADROOM + 1)) == (
        "conv4_1",
        "conv4_2",
    )


def test_weights_and_biases_beyond_fp16_name_their_layer_once() -> None:
    weights = {
        "conv1_1.weight": np.array([65_504.0], np.float32),
        "conv1_1.bias": np.array([-65_504.0], np.float32),
        "conv2_1.weight": np.array([1.0, -70_000.0], np.float32),
        "conv2_1.bias": np.array([70_000.0], np.float32),
        "fc8.weight": np.array([1.0], np.float32),
        "fc8.bias": np.array([1e30], np.float32),
    }
    assert unrepresentable_layers(weights) == ("conv2_1", "fc8")
