"""Proof 1 against a source: every kind of healthy file passes, and each damage is named, down to one bit."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export import export
from export.proof.source import SourceWeights, prove_source
from export.proof.tensor_differences import TensorComparison
from export.qdq import observed_inputs
from train.network.checkpoint import read
from vgg_deploy.artifacts.integrity import Examination, examine
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.artifacts.plan import PlanManifest, write_plan
from vgg_deploy.artifacts.tensor import StoredTensor
from vgg_deploy.errors import UsageError
from vgg_deploy.evaluation.proof import Proof
from vgg_deploy.files import Source
from vgg_deploy.network.manifest import MANIFEST_KEY, PAPER_NORMALIZATION, TORCHVISION_NORMALIZATION, TrainScale
from vgg_deploy.network.precision import Quantization
from vgg_deploy.network.shapes import Profile
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.weight_facts import WeightFacts

Files = Callable[..., Path]
Edit = Callable[[onnx.ModelProto], object]
Tensors = dict[str, TensorProto]


def unexamined(_path: Path) -> Examination:
    """Stands for the examination without a source, so that only the derivation can find a damage."""
    return Examination(contradictions=(), tensors=0, recorded=False, seconds=0.0)


def quantization(spec: NetworkSpec, target: str, kept: tuple[str, ...] = (), score_map: bool = False) -> Quantization:
    """INT8 with another range for each layer."""
    names = [layer.name for layer in spec.weight_layers]
    kept = (*kept, "fc8") if target == "onnxruntime" else kept
    observed = observed_inputs(spec, score_map)
    ranges = {name: (-100.25 if index == 0 else 0.0, 99.7 * (index + 1)) for index, name in enumerate(observed)}
    layers = tuple(name for name in names if name not in kept)
    return Quantization(
        target, layers, tuple(name for name in names if name in kept), "minmax", ranges, (), (64,), True
    )


@pytest.fixture
def made(narrow_checkpoint: Files, tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """`made("A", int8="tensorrt", kept=(), checkpoint={}, **options of export)` -> ONNX file and its checkpoint."""

    def write(
        configuration: str = "A",
        *,
        int8: str | None = None,
        kept: tuple[str, ...] = (),
        checkpoint: dict[str, Any] | None = None,
        **options: Any,
    ) -> tuple[Path, Path]:
        path = narrow_checkpoint(configuration, **(checkpoint or {}))
        weights = read(path)
        if int8 is not None:
            assert weights.manifest.spec is not None
            options["quantization"] = quantization(weights.manifest.spec, int8, kept, options.get("score_map", False))
        return export(weights, tmp_path / "model.onnx", **options).path, path

    return write


def proved(file: Path, checkpoint: Path, facts: WeightFacts | None = None) -> Proof:
    stated = facts or WeightFacts()
    return prove_source(file, SourceWeights.from_checkpoint(read(checkpoint, stated), stated), unexamined)


def damaged(path: Path, edit: Edit) -> None:
    """Edits an ONNX file in place."""
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path)


def tensors_of(model: onnx.ModelProto) -> Tensors:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def nodes_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node}


def flipped(name: str, bit: int) -> Edit:
    """Flips one bit of a tensor, counted from the lowest of its first value."""

    def edit(model: onnx.ModelProto) -> None:
        data = bytearray(tensors_of(model)[name].raw_data)
        data[bit // 8] ^= 1 << bit % 8
        tensors_of(model)[name].raw_data = bytes(data)

    return edit


HEALTHY: dict[str, dict[str, Any]] = {
    "FP32 of a fixed size": {},
    "dynamic": {"dynamic": True},
    "B": {"configuration": "B", "dynamic": True},
    "C with 1x1 convolutions": {"configuration": "C"},
    "A-LRN in FP16": {"configuration": "A-LRN", "half": True},
    "E": {"configuration": "E"},
    "fine": {"fine": True, "dynamic": True},
    "score map": {"score_map": True, "dynamic": True},
    "features": {"features": True},
    "all outputs in FP16": {"score_map": True, "features": True, "half": True, "dynamic": True},
    "external data": {"external_data": True, "checkpoint": {"fc_width": 256}},
    "FP16": {"half": True},
    "another crop": {"checkpoint": {"crop": 96}},
    "a std": {"checkpoint": {"manifest": {"normalization": TORCHVISION_NORMALIZATION}}},
    "INT8 for TensorRT": {"int8": "tensorrt", "dynamic": True},
    "INT8 for TensorRT with a score map": {"int8": "tensorrt", "score_map": True, "features": True},
    "INT8 for ONNX Runtime": {"int8": "onnxruntime", "dynamic": True},
    "INT8 for ONNX Runtime, A-LRN": {"configuration": "A-LRN", "int8": "onnxruntime", "score_map": True},
    "INT8 and FP16": {"int8": "tensorrt", "half": True, "fine": True},
    "layers kept by a budget": {"int8": "onnxruntime", "kept": ("conv3_1", "conv5_2", "fc6")},
    "layers kept in FP16": {"int8": "tensorrt", "kept": ("conv1_1", "fc7"), "half": True},
}


@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_file_follows_bit_for_bit_from_its_checkpoint_and_from_the_fp32_file(
    kind: str, made: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    file, checkpoint = made(**HEALTHY[kind])
    reference = export(read(checkpoint), tmp_path / "fp32.onnx", dynamic=True).path
    stored = onnx.load(file).graph.initializer
    for source in (
        SourceWeights.from_checkpoint(read(checkpoint)),
        SourceWeights.from_onnx(OnnxFile(reference), unexamined),
    ):
        proof = prove_source(file, source, unexamined)
        assert (proof.failures, proof.passed, proof.number) == ((), True, 1)
        assert proof.figures["tensors_compared"] == len(stored)
        assert proof.figures["values_compared"] == sum(int(np.prod(tensor.dims)) for tensor in stored)
        assert proof.figures["assumed"] == []
        assert len(proof.summary) <= 50
        assert json.dumps(dict(proof.figures))


def test_a_file_with_layers_kept_in_fp32_follows_from_its_checkpoint(
    enlarged_checkpoint: Files, batch: Callable[..., Any], tmp_path: Path
) -> None:
    checkpoint = enlarged_checkpoint(1e4, "conv3_1")
    file = export(read(checkpoint), tmp_path / "half.onnx", half=True, calibration=[batch(1, 64, 64)])
    assert "conv3_1" in file.manifest.precision.float32_layers
    assert proved(file.path, checkpoint).failures == ()


def test_a_weight_that_fp16_cannot_hold_must_be_in_fp32(enlarged_checkpoint: Files, tmp_path: Path) -> None:
    checkpoint = enlarged_checkpoint(1e6, "conv3_1")
    file = export(read(checkpoint), tmp_path / "half.onnx", half=True)
    assert file.manifest.precision.float32_layers == ("conv3_1",)
    assert proved(file.path, checkpoint).passed
    precision = dataclasses.replace(file.manifest.precision, float32_layers=())
    damaged(file.path, lambda model: _rewrite(model, file.manifest.with_(precision=precision).to_json()))
    (failure,) = proved(file.path, checkpoint).failures
    assert "conv3_1 is in FP16, which ends at 65,504" in failure


# The file, the tensor, the number of a bit, and what the failure says.
BITS = [
    ({}, "conv3_2.weight", 0, "conv3_2.weight: 1 of "),
    ({}, "conv3_2.weight", 31, "conv3_2.weight: 1 of "),
    ({}, "conv5_1.bias", 23, "conv5_1.bias: 1 of 32 values differs; [0] is "),
    ({}, "fc8.weight", 8 * 24 * 4 * 4, "in 1 of 5 filters"),
    ({}, "mean_rgb", 3, "but the manifest's mean is [123.68, 116.779, 103.939]"),
    ({"half": True}, "fc6.weight", 0, "fc6.weight: 1 of "),
    ({"half": True}, "fc6.weight", 15, "fc6.weight: 1 of "),
    ({"int8": "tensorrt"}, "conv4_1.weight.integers", 7, "conv4_1.weight.integers: 1 of "),
    ({"int8": "tensorrt"}, "conv4_1.weight.scale", 33, "conv4_1.weight.scale: 1 of 32 values differs; [1] is "),
    ({"int8": "tensorrt"}, "conv4_1.weight.zero_point", 0, "conv4_1.weight.zero_point: 1 of 32"),
    ({"int8": "tensorrt"}, "conv4_1.bias", 0, "conv4_1.bias: 1 of 32"),
    ({"int8": "tensorrt"}, "conv4_1.input.zero_point", 0, "conv4_1.input.zero_point is 1, but the recorded range"),
    ({"int8": "tensorrt"}, "conv4_1.input.scale", 0, "conv4_1.input.scale is "),
    ({"int8": "tensorrt", "half": True}, "conv2_1.input.scale", 0, "conv2_1.input.scale is "),
    ({"int8": "onnxruntime"}, "conv2_1.bias.integers", 31, "conv2_1.bias.integers: 1 of 8"),
    ({"int8": "onnxruntime"}, "conv2_1.bias.scale", 2, "conv2_1.bias.scale: 1 of 8"),
    ({"int8": "onnxruntime"}, "conv1_1.input.zero_point", 2, "conv1_1.input.zero_point is "),
    ({"int8": "onnxruntime"}, "spatial_mean.input.scale", 2, "spatial_mean.input.scale is "),
    ({"int8": "onnxruntime", "kept": ("conv3_2",)}, "relu3_2.zero", 31, "relu3_2.zero is -0.0, but expected is 0.0"),
]


@pytest.mark.parametrize(("kind", "tensor", "bit", "text"), BITS, ids=[f"{row[1]}-{row[2]}" for row in BITS])
def test_one_bit_is_found_and_its_tensor_named(
    kind: dict[str, Any], tensor: str, bit: int, text: str, made: Callable[..., tuple[Path, Path]]
) -> None:
    file, checkpoint = made(**kind)
    damaged(file, flipped(tensor, bit))
    proof = proved(file, checkpoint)
    (failure,) = proof.failures
    assert text in failure
    assert proof.figures["tensors"] == [failure.removesuffix("; export it again")]
    assert proof.summary == "1 difference from its checkpoint"


def test_the_sign_of_zero_and_the_bits_of_a_nan_count(made: Callable[..., tuple[Path, Path]]) -> None:
    file, path = made()
    checkpoint = read(path)
    bits = np.array([0x7FC00000, 0x00000000], np.uint32)  # NaN, 0.0
    weights = {name: tensor.numpy().copy() for name, tensor in checkpoint.weights.items()}
    weights["conv1_1.bias"][:2] = bits.view(np.float32)
    source = dataclasses.replace(SourceWeights.from_checkpoint(checkpoint), weights=weights)

    def stored(values: list[int]) -> Edit:
        def edit(model: onnx.ModelProto) -> None:
            tensor = tensors_of(model)["conv1_1.bias"]
            tensor.raw_data = np.array(values, np.uint32).tobytes() + tensor.raw_data[8:]

        return edit

    damaged(file, stored([0x7FC00000, 0x00000000]))
    assert prove_source(file, source, unexamined).passed
    damaged(file, stored([0x7FC00001, 0x00000000]))
    assert "[0] is 0x7fc00001 instead of 0x7fc00000" in prove_source(file, source, unexamined).failures[0]
    damaged(file, stored([0x7FC00000, 0x80000000]))
    assert "[1] is -0.0 instead of 0.0" in prove_source(file, source, unexamined).failures[0]


def test_a_large_tensor_is_compared_to_its_end() -> None:
    expected = np.zeros((5, 1_500_000), np.float32)
    received = expected.copy()
    received[2, 7] = received[4, -2:] = 1.5
    comparison = TensorComparison(
        [StoredTensor("fc6.weight", TensorProto.FLOAT, (5, 1_500_000), memoryview(received.tobytes()))]
    )
    comparison.compare("fc6.weight", expected)
    (difference,) = comparison.differences
    assert difference.text == "fc6.weight: 3 of 7,500,000 values differ; [2, 7] is 1.5 instead of 0.0"
    assert (comparison.tensors, comparison.values) == (1, 7_500_000)


def test_swapped_filters_are_counted(made: Callable[..., tuple[Path, Path]]) -> None:
    file, checkpoint = made()

    def swap(model: onnx.ModelProto) -> None:
        tensor = tensors_of(model)["conv3_2.weight"]
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[[2, 5]] = values[[5, 2]]
        tensor.raw_data = values.tobytes()

    damaged(file, swap)
    (failure,) = proved(file, checkpoint).failures
    assert failure.startswith("conv3_2.weight: 288 of 2,304 values differ in 2 of 16 filters; [2, 0, 0, 0] is ")


def test_reversed_channels_are_recognized(made: Callable[..., tuple[Path, Path]]) -> None:
    file, checkpoint = made()

    def reverse(model: onnx.ModelProto) -> None:
        tensor = tensors_of(model)["conv1_1.weight"]
        tensor.raw_data = onnx.numpy_helper.to_array(tensor)[:, ::-1].tobytes()

    damaged(file, reverse)
    (failure,) = proved(file, checkpoint).failures
    assert "its input channels are in reverse order" in failure


@pytest.mark.parametrize("factor", [0.25, 0.9, 1.1, 4.0])
def test_an_edited_scale_is_told_with_what_the_range_gives(
    factor: float, made: Callable[..., tuple[Path, Path]]
) -> None:
    file, checkpoint = made(int8="tensorrt")

    def scaled(model: onnx.ModelProto) -> None:
        tensor = tensors_of(model)["conv4_2.input.scale"]
        tensor.raw_data = (onnx.numpy_helper.to_array(tensor) * np.float32(factor)).tobytes()

    expected = onnx.numpy_helper.to_array(tensors_of(onnx.load(file))["conv4_2.input.scale"])
    damaged(file, scaled)
    (failure,) = proved(file, checkpoint).failures
    received, given = str(np.float32(expected * np.float32(factor))), str(np.float32(expected))
    assert failure.startswith(f"conv4_2.input.scale is {received}, but the recorded range gives {given}; export")


def test_a_range_that_was_edited_in_the_manifest_contradicts_the_scale(made: Callable[..., tuple[Path, Path]]) -> None:
    file, checkpoint = made(int8="tensorrt")
    manifest = OnnxFile(file).manifest
    assert manifest is not None
    assert manifest.precision.quantization is not None
    ranges = {**manifest.precision.quantization.ranges, "conv4_2": (0.0, 12.7)}
    edited = dataclasses.replace(manifest.precision.quantization, ranges=ranges)
    precision = dataclasses.replace(manifest.precision, quantization=edited)
    damaged(file, lambda model: _rewrite(model, manifest.with_(precision=precision).to_json()))
    failures = proved(file, checkpoint).failures
    assert any("conv4_2.input.scale is " in line and "the recorded range gives 0.1" in line for line in failures)
    del ranges["conv4_2"], ranges["spatial_mean"]
    edited = dataclasses.replace(edited, ranges=ranges, layers=(), kept=(*edited.layers, *edited.kept))
    precision = dataclasses.replace(precision, quantization=edited)
    damaged(file, lambda model: _rewrite(model, manifest.with_(precision=precision).to_json()))
    assert not proved(file, checkpoint).passed


def _rewrite(model: onnx.ModelProto, manifest: str) -> None:
    del model.metadata_props[:]
    model.metadata_props.add(key=MANIFEST_KEY, value=manifest)


def attribute(node: str, name: str, value: Any) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        found = nodes_of(model)[node]
        kept = [item for item in found.attribute if item.name != name]
        del found.attribute[:]
        found.attribute.extend([*kept, helper.make_attribute(name, value)])

    return edit


def without_node(name: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        node = nodes_of(model)[name]
        for other in model.graph.node:
            other.input[:] = [node.input[0] if value == node.output[0] else value for value in other.input]
        model.graph.node.remove(node)

    return edit


def reordered(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([nodes[1], nodes[0], *nodes[2:]])


def retyped(model: onnx.ModelProto) -> None:
    tensor = tensors_of(model)["conv2_1.bias"]
    values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
    tensor.data_type, tensor.raw_data = TensorProto.FLOAT16, values.tobytes()


GRAPHS: list[tuple[Edit, str]] = [
    (attribute("pool3", "strides", [1, 1]), "the node pool3: strides is [1, 1]; expected [2, 2]"),
    (attribute("pool3", "ceil_mode", 1), "the node pool3: ceil_mode is 1; expected absent"),
    (attribute("conv2_1", "pads", [0, 0, 0, 0]), "the node conv2_1: pads is [0, 0, 0, 0]; expected [1, 1, 1, 1]"),
    (attribute("conv2_1", "dilations", [2, 2]), "the node conv2_1: dilations is [2, 2]; expected absent"),
    (attribute("softmax", "axis", 0), "the node softmax: axis is 0; expected 1"),
    (attribute("transpose", "perm", [0, 3, 2, 1]), "the node transpose: perm is [0, 3, 2, 1]"),
    (without_node("relu3_1"), "the node relu3_1 (Relu) is missing"),
    (
        lambda model: setattr(nodes_of(model)["pool2"], "op_type", "AveragePool"),
        "the node pool2: it is AveragePool; expected MaxPool",
    ),
    (
        lambda model: nodes_of(model)["conv3_2"].input.__setitem__(2, "conv3_1.bias"),
        "the node conv3_2: it reads relu3_1, conv3_2.weight, conv3_1.bias; expected relu3_1, conv3_2.weight,",
    ),
    (
        lambda model: model.graph.node.append(helper.make_node("Identity", ["scores"], ["more"], name="more")),
        "the node more (Identity) is not part of the network",
    ),
    (lambda model: model.graph.node.append(model.graph.node[-1]), "2 nodes are named 'softmax'; expected one"),
    (reordered, "the nodes are in another order: subtract_mean stands in the place of cast"),
    (retyped, "the tensor conv2_1.bias is float16 [8]; expected float [8]"),
    (lambda model: model.graph.initializer.append(model.graph.initializer[0]), "2 tensors are named 'mean_rgb'"),
    (
        lambda model: model.graph.initializer.add(name="more", data_type=1, dims=[1], raw_data=bytes(4)),
        "the tensor more is not part of the network",
    ),
    (
        lambda model: model.graph.initializer.remove(tensors_of(model)["fc7.bias"]),
        "the tensor fc7.bias is missing",
    ),
    (
        lambda model: setattr(tensors_of(model)["fc7.bias"], "raw_data", bytes(8)),
        "fc7.bias has 8 bytes of values; expected 96",
    ),
    (lambda model: setattr(model.opset_import[0], "version", 19), "opset_import is "),
    (lambda model: model.opset_import.add(domain="more", version=1), "opset_import is "),
    (lambda model: model.functions.add(name="Relu", domain=""), "functions is "),
    (
        lambda model: setattr(nodes_of(model)["relu3_1"], "domain", "more"),
        "the node relu3_1: it is more.Relu; expected Relu",
    ),
    (
        lambda model: model.graph.sparse_initializer.add().values.CopyFrom(TensorProto(name="fc7.bias", dims=[1])),
        "graph.sparse_initializer is ",
    ),
    (
        lambda model: tensors_of(model)["fc7.weight"].dims.append(1),
        "the tensor fc7.weight is float [24, 24, 1, 1, 1]; expected float [24, 24, 1, 1]",
    ),
    (
        lambda model: tensors_of(model)["fc7.bias"].float_data.append(1.0),
        "fc7.bias has 0 bytes of values; expected 96",
    ),
    (
        lambda model: setattr(model.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 96),
        "its input images is uint8 [1, 96, 64, 3]; expected uint8 [1, 64, 64, 3]",
    ),
    (
        lambda model: setattr(model.graph.output[0], "name", "scores"),
        "its outputs are scores; expected probabilities",
    ),
]


@pytest.mark.parametrize(("edit", "text"), GRAPHS, ids=[text for _, text in GRAPHS])
def test_an_edited_graph_is_found_and_the_node_named(
    edit: Edit, text: str, made: Callable[..., tuple[Path, Path]]
) -> None:
    file, checkpoint = made()
    damaged(file, edit)
    proof = proved(file, checkpoint)
    assert any(line.startswith(text) for line in proof.failures), proof.failures


def test_documentation_and_the_types_of_inner_values_change_no_answer(
    made: Callable[..., tuple[Path, Path]],
) -> None:
    file, checkpoint = made()

    def describe(model: onnx.ModelProto) -> None:
        model.doc_string = model.graph.doc_string = model.graph.node[3].doc_string = "changed by hand"
        model.graph.input[0].doc_string = "images"
        model.producer_version = "0.1"
        model.metadata_props.add(key="another tool", value="was here")
        model.graph.value_info.append(helper.make_tensor_value_info("conv1_1", TensorProto.FLOAT, None))
        tensors = list(model.graph.initializer)
        del model.graph.initializer[:]
        model.graph.initializer.extend(reversed(tensors))

    damaged(file, describe)
    assert proved(file, checkpoint).passed


# A field of the manifest, as JSON, and what the failure says.
MANIFESTS: list[tuple[tuple[Any, ...], Any, str]] = [
    (("spec", "crop"), 96, "its crop is 96, but that of vgg11-0.safetensors is 64"),
    (("spec", "fc_width"), 25, "its fc_width is 25, but that of vgg11-0.safetensors is 24"),
    (("spec", "configuration"), "A-LRN", "its configuration is A-LRN, but that of"),
    (("spec", "fine"), True, "the node pool5: strides is [2, 2]; expected [1, 1]"),
    (("classes", 0, "label"), "nought", "class 0 is 'nought' in the file and '0' in vgg11-0.safetensors: if --labels"),
    (("classes", 3, "id"), "three", "class 3 is '3' (id 'three') in the file and '3' (id '3') in vgg11-0.safetensors"),
    (("normalization", "mean", 1), 117.0, "its normalization is Normalization(mean=(123.68, 117.0, 103.939)"),
    (("normalization", "std", 1), 2.0, "its normalization is "),
    (("train_scale",), {"minimum": 64, "maximum": 128}, "its train_scale is [64, 128], but that of"),
    (("mirror",), False, "its manifest's mirror is False; vgg11-0.safetensors gives True"),
    (("rescaling", "filter"), "bicubic", "its manifest's rescaling is "),
    (("training",), {"epochs": 3}, "its manifest's training is {'epochs': 3}; vgg11-0.safetensors gives None"),
    (("shapes", "height", "maximum"), 128, "its manifest's shapes is "),
    (("outputs",), ["probabilities", "features"], "its outputs are probabilities; expected probabilities, features"),
    (("source", "sha256"), "0" * 64, "it was made from vgg11-0.safetensors with the SHA-256 000000000000..., but"),
    (("source",), None, "its manifest does not name its checkpoint"),
    (("precision", "arithmetic"), "float16", "the node conv1_1_to_float16 (Cast) is missing"),
    (("precision", "float32_layers"), ["conv9_9"], "its manifest's float32_layers are conv9_9; expected layers"),
    (("channels_reversed",), True, "its channels_reversed is True"),
    (("version",), 7, ""),
]


@pytest.mark.parametrize(("field", "value", "text"), MANIFESTS, ids=["-".join(map(str, row[0])) for row in MANIFESTS])
def test_an_edited_field_of_the_manifest_is_found(
    field: tuple[Any, ...], value: Any, text: str, made: Callable[..., tuple[Path, Path]]
) -> None:
    file, checkpoint = made()

    def edit(model: onnx.ModelProto) -> None:
        manifest = json.loads(model.metadata_props[0].value)
        place = manifest
        for key in field[:-1]:
            place = place[key]
        assert field[-1] == "channels_reversed" or place[field[-1]] != value
        place[field[-1]] = value
        _rewrite(model, json.dumps(manifest))

    damaged(file, edit)
    proof = proved(file, checkpoint)
    assert any(text in line for line in proof.failures), proof.failures


def test_another_checkpoint_of_the_same_network_is_recognized(
    made: Callable[..., tuple[Path, Path]], narrow_checkpoint: Files
) -> None:
    for int8 in (None, "tensorrt"):
        file, _ = made(int8=int8)
        proof = proved(file, narrow_checkpoint("A", seed=1))
        assert any("most weights of every layer differ: give the checkpoint" in line for line in proof.failures)
        assert len(proof.failures) == 6
        assert proof.failures[-1].startswith("and ")
        assert len(proof.figures["tensors"]) > 15


def test_facts_of_a_foreign_checkpoint_are_compared_only_if_the_user_states_them(
    made: Callable[..., tuple[Path, Path]], random_weights: Callable[..., Any], tmp_path: Path, narrow_spec: Any
) -> None:
    from safetensors.torch import save_file

    checkpoint = tmp_path / "foreign.safetensors"
    save_file(random_weights(narrow_spec("A")), checkpoint)
    facts = WeightFacts(
        normalization=PAPER_NORMALIZATION, labels="a\nb\nc\nd\ne\n", train_scale=TrainScale(80, 80), channels="RGB"
    )
    file = export(read(checkpoint, facts), tmp_path / "model.onnx").path
    proof = proved(file, checkpoint, facts)
    assert (proof.failures, proof.figures["assumed"]) == ((), [])

    # As `verify` reads it if the user states nothing: the file's own manifest completes the facts.
    weights = read(checkpoint, dataclasses.replace(facts, labels=None))
    proof = prove_source(file, SourceWeights.from_checkpoint(weights), unexamined)
    assert proof.failures == ()
    assert proof.figures["assumed"] == ["classes", "normalization", "train_scale", "channels_reversed"]
    assert any("not compared" in row[1] for row in proof.tables[0].rows)

    other = dataclasses.replace(facts, normalization=TORCHVISION_NORMALIZATION, labels=None, train_scale=None)
    (failure,) = prove_source(file, SourceWeights.from_checkpoint(weights, other), unexamined).failures or ("",)
    assert failure == ""  # the checkpoint was read with the facts of the file
    (failure,) = proved(file, checkpoint, other).failures
    assert failure.startswith("its normalization is ")


def test_labels_and_scale_that_only_export_was_given_fail_with_advice(narrow_checkpoint: Files, tmp_path: Path) -> None:
    checkpoint = narrow_checkpoint("A")
    facts = WeightFacts(labels="nought\none\ntwo\nthree\nfour\n", train_scale=TrainScale(100, 100))
    file = export(read(checkpoint, facts), tmp_path / "model.onnx").path
    classes, scale = proved(file, checkpoint).failures
    assert classes == (
        f"class 0 is 'nought' in the file and '0' in {checkpoint.name}: if --labels was given to export, give it to "
        "verify too"
    )
    assert scale.endswith("if --train-scale was given to export, give it to verify too")
    assert proved(file, checkpoint, facts).passed


def test_batch_norms_and_convolutional_heads_are_folded_before_the_comparison(
    narrow_spec: Callable[..., NetworkSpec], random_weights: Callable[..., Any], tmp_path: Path
) -> None:
    import torch

    spec = narrow_spec("A")
    weights, state, index = random_weights(spec), {}, 0
    generator = torch.Generator().manual_seed(0)
    heads = {"fc6": "pre_logits.fc1", "fc7": "pre_logits.fc2", "fc8": "head.fc"}
    for layer in spec.layers:
        if layer.kind == "pool":
            index += 1
        elif layer.kind == "conv":
            state[f"features.{index}.weight"] = weights[f"{layer.name}.weight"]
            for part in ("weight", "running_var"):
                state[f"features.{index + 1}.{part}"] = torch.rand(layer.out_channels, generator=generator) + 0.5
            for part in ("bias", "running_mean"):
                state[f"features.{index + 1}.{part}"] = torch.randn(layer.out_channels, generator=generator)
            index += 3
        else:
            shape = layer.weight_shape if layer.name != "fc8" else layer.weight_shape[:2]
            state[f"{heads[layer.name]}.weight"] = weights[f"{layer.name}.weight"].reshape(shape)
            state[f"{heads[layer.name]}.bias"] = weights[f"{layer.name}.bias"]
    torch.save(state, tmp_path / "timm.pth")
    facts = WeightFacts(normalization=TORCHVISION_NORMALIZATION)
    for half in (False, True):
        file = export(read(tmp_path / "timm.pth", facts), tmp_path / "model.onnx", half=half).path
        assert proved(file, tmp_path / "timm.pth", facts).passed
    damaged(file, flipped("conv3_1.bias", 0))
    assert not proved(file, tmp_path / "timm.pth", facts).passed


def test_a_damaged_reference_fails_and_is_named(made: Callable[..., tuple[Path, Path]], tmp_path: Path) -> None:
    file, checkpoint = made(half=True)
    reference = export(read(checkpoint), tmp_path / "fp32.onnx", dynamic=True).path
    damaged(reference, attribute("pool3", "strides", [1, 1]))
    source = SourceWeights.from_onnx(OnnxFile(reference), unexamined)
    (failure,) = prove_source(file, source, unexamined).failures
    assert failure.startswith("fp32.onnx: the node pool3: strides is [1, 1]; expected [2, 2]")


def test_an_onnx_file_that_lost_the_weights_is_no_source(made: Callable[..., tuple[Path, Path]]) -> None:
    with pytest.raises(UsageError, match="is float16, so the weights that it was made from are lost"):
        SourceWeights.from_onnx(OnnxFile(made(half=True)[0]), unexamined)
    file, _ = made()
    damaged(file, lambda model: model.ClearField("metadata_props"))
    with pytest.raises(UsageError, match="has no vgg_deploy manifest"):
        SourceWeights.from_onnx(OnnxFile(file), unexamined)


def test_without_a_source_a_file_is_only_examined(made: Callable[..., tuple[Path, Path]]) -> None:
    file, _ = made()
    proof = prove_source(file, None, lambda _: Examination((), 23, True, 0.0))
    assert (proof.summary, proof.passed) == ("23 tensors and the graph are as exported", True)
    proof = prove_source(file, None, unexamined)
    assert (proof.shown, proof.failures) == (False, ())
    assert "--reference" in proof.summary
    proof = prove_source(file, None, lambda _: Examination(("a is not b",), 23, True, 0.0))
    assert (proof.shown, proof.failures) == (True, ("a is not b",))


def test_a_foreign_file_is_not_judged(made: Callable[..., tuple[Path, Path]]) -> None:
    file, checkpoint = made()

    def rename(model: onnx.ModelProto) -> None:
        model.ClearField("metadata_props")
        model.producer_name = "another"

    damaged(file, rename)
    proof = proved(file, checkpoint)
    assert (proof.shown, proof.failures, proof.summary) == (False, (), "it has no vgg_deploy manifest")


@pytest.fixture
def planned(made: Callable[..., tuple[Path, Path]], tmp_path: Path) -> Callable[..., tuple[Path, Path, Path]]:
    """`planned(**arguments of made)` -> a plan with its sidecar, its ONNX file beside it, and the checkpoint."""

    def write(**options: Any) -> tuple[Path, Path, Path]:
        file, checkpoint = made(dynamic=True, **options)
        plan, data = tmp_path / "model.plan", b"what TensorRT wrote"
        profile = Profile((64,), (1, 64, 64), (4, 64, 85), (8, 128, 128))
        manifest = OnnxFile(file).manifest
        assert manifest is not None
        assert manifest.spec is not None
        sidecar = PlanManifest(
            backend="tensorrt-rtx",
            version="1.7.1",
            compute_capabilities=(),
            hardware_compatibility="none",
            profiles=(profile,),
            layers={layer.name: manifest.precision.of(layer.name) for layer in manifest.spec.weight_layers},
            layers_from="declared",
            plan=Source(plan.name, hashlib.sha256(data).hexdigest()),
            onnx=Source.of(file),
            build_seconds=1.0,
            command="vgg-deploy build model.onnx",
            manifest=manifest.with_(shapes=profile.shapes),
        )
        write_plan(plan, data, sidecar)
        return plan, file, checkpoint

    return write


@pytest.mark.parametrize("int8", [None, "tensorrt"])
def test_a_plan_is_judged_by_its_sidecar_and_the_onnx_file_beside_it(
    int8: str | None, planned: Callable[..., tuple[Path, Path, Path]], narrow_checkpoint: Files
) -> None:
    plan, file, checkpoint = planned(int8=int8)
    source = SourceWeights.from_checkpoint(read(checkpoint))
    proof = prove_source(plan, source, examine)
    assert (proof.failures, proof.passed, proof.artifact) == ((), True, "model.plan")
    assert proof.figures["tensors_compared"] == len(onnx.load(file).graph.initializer)
    assert prove_source(plan, None, examine).passed

    other = SourceWeights.from_checkpoint(read(narrow_checkpoint("A", seed=1)))
    assert prove_source(plan, other, examine).failures[0].startswith("model.onnx: ")

    damaged(file, flipped("conv3_1.bias", 0))
    assert not prove_source(plan, None, examine).passed
    assert prove_source(plan, None, examine).failures

    file.unlink()
    proof = prove_source(plan, source, examine)
    assert (proof.shown, proof.failures) == (False, ())
    assert "its ONNX file is not beside it" in proof.summary
    plan.write_bytes(b"another plan")
    assert prove_source(plan, source, examine).failures


def test_a_plan_without_its_onnx_file_is_still_compared_with_the_facts_of_the_checkpoint(
    planned: Callable[..., tuple[Path, Path, Path]], narrow_checkpoint: Files
) -> None:
    plan, file, _ = planned()
    file.unlink()
    (failure,) = prove_source(
        plan, SourceWeights.from_checkpoint(read(narrow_checkpoint("A", seed=1))), examine
    ).failures
    assert "it was made from vgg11-0.safetensors" in failure
    (failure,) = prove_source(plan, SourceWeights.from_checkpoint(read(narrow_checkpoint("B"))), examine).failures
    assert failure.startswith("its configuration is A, but that of vgg13-0.safetensors is B")


def test_a_plan_without_a_sidecar_is_not_judged(tmp_path: Path) -> None:
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"what TensorRT wrote")
    proof = prove_source(plan, None, examine)
    assert (proof.shown, proof.summary) == (False, "it has no manifest beside it")


@pytest.mark.parametrize("kind", [{}, {"half": True, "features": True}, {"int8": "onnxruntime"}])
@pytest.mark.parametrize("recorded", [True, False], ids=["with digests", "of an older version"])
def test_the_examination_and_the_derivation_are_one_proof(
    kind: dict[str, Any], recorded: bool, made: Callable[..., tuple[Path, Path]]
) -> None:
    file, checkpoint = made(**kind)
    if not recorded:
        manifest = OnnxFile(file).manifest
        assert manifest is not None
        damaged(file, lambda model: _rewrite(model, manifest.with_(digests=None).to_json()))
    source = SourceWeights.from_checkpoint(read(checkpoint))
    proof = prove_source(file, source, examine)
    assert (proof.failures, proof.figures["digests_recorded"]) == ((), recorded)
    alone = prove_source(file, None, examine)
    assert (alone.failures, alone.shown) == ((), recorded)
    damaged(file, attribute("pool3", "strides", [1, 1]))
    failures = prove_source(file, source, examine).failures
    assert failures[0].startswith("the node pool3: strides is [1, 1]")
    assert len(failures) > 1
    assert prove_source(file, None, examine).failures


def test_a_file_whose_manifest_was_removed_fails(made: Callable[..., tuple[Path, Path]]) -> None:
    file, checkpoint = made()
    damaged(file, lambda model: model.ClearField("metadata_props"))
    (failure,) = prove_source(file, SourceWeights.from_checkpoint(read(checkpoint)), examine).failures
    assert "its manifest is missing" in failure


def test_a_file_cut_off_fails_and_says_so(made: Callable[..., tuple[Path, Path]]) -> None:
    file, checkpoint = made()
    file.write_bytes(file.read_bytes()[:-100])
    (failure,) = proved(file, checkpoint).failures
    assert "truncated" in failure


def test_external_data_of_another_file_is_found(
    made: Callable[..., tuple[Path, Path]], narrow_checkpoint: Files, tmp_path: Path
) -> None:
    file, checkpoint = made(external_data=True, checkpoint={"fc_width": 256})
    (weights,) = OnnxFile(file).external_files
    other = export(read(narrow_checkpoint("A", seed=1, fc_width=256)), tmp_path / "other.onnx", external_data=True)
    weights.write_bytes(OnnxFile(other.path).external_files[0].read_bytes())
    assert not proved(file, checkpoint).passed


def test_a_file_with_an_onnx_reference_is_judged_without_torch(
    made: Callable[..., tuple[Path, Path]], tmp_path: Path
) -> None:
    file, checkpoint = made(int8="tensorrt")
    export(read(checkpoint), tmp_path / "fp32.onnx")
    program = (
        "import sys; from pathlib import Path\n"
        "from export.proof.source import OnnxFile, SourceWeights, prove_source\n"
        "from vgg_deploy.artifacts.integrity import examine\n"
        "source = SourceWeights.from_onnx(OnnxFile(Path(sys.argv[2])), examine)\n"
        "assert prove_source(Path(sys.argv[1]), source, examine).passed\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(file), str(tmp_path / "fp32.onnx")], check=True, timeout=60)
