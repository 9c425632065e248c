"""Proof 1 against a source names each damage: down to one bit of a tensor, an attribute, or a field of the manifest."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export import export
from export.proof.file.source import SourceWeights, prove_source
from export.proof.file.tensor_differences import TensorComparison
from tests.export.edited import (
    Edit,
    Files,
    Made,
    attribute,
    damaged,
    flipped,
    nodes_of,
    proved,
    tensors_of,
    unexamined,
    with_manifest,
)
from train.network.checkpoint import read, save
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.artifacts.tensor import StoredTensor
from vgg_deploy.files import Source


@pytest.mark.parametrize("part", ["weight", "bias"])
@pytest.mark.parametrize("value", [-1e5, 1e5])
def test_a_weight_that_fp16_cannot_hold_must_be_in_fp32(
    part: str, value: float, narrow_checkpoint: Files, tmp_path: Path
) -> None:
    checkpoint = narrow_checkpoint("A")
    changed = read(checkpoint)
    changed.weights[f"conv3_1.{part}"].view(-1)[3] = value
    save(checkpoint, changed.weights, changed.manifest)
    file = export(read(checkpoint), tmp_path / "half.onnx", half=True)
    assert file.manifest.precision.float32_layers == ("conv3_1",)
    assert proved(file.path, checkpoint).passed
    precision = dataclasses.replace(file.manifest.precision, float32_layers=())
    damaged(file.path, lambda model: with_manifest(model, file.manifest.with_(precision=precision).to_json()))
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
    kind: dict[str, Any], tensor: str, bit: int, text: str, made: Made
) -> None:
    file, checkpoint = made(**kind)
    damaged(file, flipped(tensor, bit))
    proof = proved(file, checkpoint)
    (failure,) = proof.failures
    assert text in failure
    assert proof.figures["tensors"] == [failure.removesuffix("; export it again")]
    assert proof.summary == "1 difference from its checkpoint"


def test_the_sign_of_zero_and_the_bits_of_a_nan_count(made: Made) -> None:
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


def test_swapped_filters_are_counted(made: Made) -> None:
    file, checkpoint = made()

    def swap(model: onnx.ModelProto) -> None:
        tensor = tensors_of(model)["conv3_2.weight"]
        values = onnx.numpy_helper.to_array(tensor).copy()
        values[[2, 5]] = values[[5, 2]]
        tensor.raw_data = values.tobytes()

    damaged(file, swap)
    (failure,) = proved(file, checkpoint).failures
    assert failure.startswith("conv3_2.weight: 288 of 2,304 values differ in 2 of 16 filters; [2, 0, 0, 0] is ")


def test_reversed_channels_are_recognized(made: Made) -> None:
    file, checkpoint = made()

    def reverse(model: onnx.ModelProto) -> None:
        tensor = tensors_of(model)["conv1_1.weight"]
        tensor.raw_data = onnx.numpy_helper.to_array(tensor)[:, ::-1].tobytes()

    damaged(file, reverse)
    (failure,) = proved(file, checkpoint).failures
    assert "its input channels are in reverse order" in failure


@pytest.mark.parametrize("factor", [0.25, 0.9, 1.1, 4.0])
def test_an_edited_scale_is_told_with_what_the_range_gives(factor: float, made: Made) -> None:
    file, checkpoint = made(int8="tensorrt")

    def scaled(model: onnx.ModelProto) -> None:
        tensor = tensors_of(model)["conv4_2.input.scale"]
        tensor.raw_data = (onnx.numpy_helper.to_array(tensor) * np.float32(factor)).tobytes()

    expected = onnx.numpy_helper.to_array(tensors_of(onnx.load(file))["conv4_2.input.scale"])
    damaged(file, scaled)
    (failure,) = proved(file, checkpoint).failures
    received, given = str(np.float32(expected * np.float32(factor))), str(np.float32(expected))
    assert failure.startswith(f"conv4_2.input.scale is {received}, but the recorded range gives {given}; export")


def test_a_range_that_was_edited_in_the_manifest_contradicts_the_scale(made: Made) -> None:
    file, checkpoint = made(int8="tensorrt")
    manifest = OnnxFile(file).manifest
    assert manifest is not None
    assert manifest.precision.quantization is not None
    ranges = {**manifest.precision.quantization.ranges, "conv4_2": (0.0, 12.7)}
    edited = dataclasses.replace(manifest.precision.quantization, ranges=ranges)
    precision = dataclasses.replace(manifest.precision, quantization=edited)
    damaged(file, lambda model: with_manifest(model, manifest.with_(precision=precision).to_json()))
    failures = proved(file, checkpoint).failures
    assert any("conv4_2.input.scale is " in line and "the recorded range gives 0.1" in line for line in failures)
    del ranges["conv4_2"], ranges["spatial_mean"]
    edited = dataclasses.replace(edited, ranges=ranges, layers=(), kept=(*edited.layers, *edited.kept))
    precision = dataclasses.replace(precision, quantization=edited)
    damaged(file, lambda model: with_manifest(model, manifest.with_(precision=precision).to_json()))
    assert not proved(file, checkpoint).passed


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
def test_an_edited_graph_is_found_and_the_node_named(edit: Edit, text: str, made: Made) -> None:
    file, checkpoint = made()
    damaged(file, edit)
    proof = proved(file, checkpoint)
    assert any(line.startswith(text) for line in proof.failures), proof.failures


def test_documentation_and_the_types_of_inner_values_change_no_answer(
    made: Made,
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
    (
        ("normalization", "mean", 1),
        117.0,
        "its normalization is mean 123.68,117.0,103.939 and std 1.0,1.0,1.0, but that of",
    ),
    (("normalization", "std", 1), 2.0, "its normalization is "),
    (
        ("train_scale",),
        {"minimum": 64, "maximum": 128},
        "its S is [64, 128], but that of vgg11-0.safetensors is 73: if",
    ),
    (("mirror",), False, "its manifest's mirror is False; vgg11-0.safetensors gives True"),
    (
        ("rescaling", "filter"),
        "bicubic",
        "its manifest's rescaling is bicubic, sides rounded by floor; vgg",
    ),
    (
        ("training",),
        {"epochs": 3},
        "its manifest's training record is not that of vgg11-0.safetensors; export",
    ),
    (("shapes", "height", "maximum"), 128, "its manifest's shapes is "),
    (("outputs",), ["probabilities", "features"], "its outputs are probabilities; expected probabilities, features"),
    (
        ("source", "sha256"),
        "0" * 64,
        "it was made from vgg11-0.safetensors (SHA-256 000000000000...), not from ",
    ),
    (("source", "sha256"), "", "it was made from vgg11-0.safetensors (SHA-256 ...), not from vgg11-0"),
    (("source",), None, "its manifest does not name its checkpoint"),
    (("precision", "arithmetic"), "float16", "the node conv1_1_to_float16 (Cast) is missing"),
    (("precision", "float32_layers"), ["conv9_9"], "its manifest's float32_layers are conv9_9; expected layers"),
    (("precision", "float32_layers"), ["fc6", "fc6"], "its manifest's float32_layers are fc6, fc6; expected layers"),
    (("precision", "float32_layers"), ["fc7", "fc6"], "its manifest's float32_layers are fc7, fc6; expected layers"),
    (("precision", "float32_layers"), ["fc6"], "its manifest lists float32_layers, but nothing in it is in FP16"),
    (("channels_reversed",), True, "its channel order is B,G,R, but that of vgg11-0.safetensors is R,G,B"),
    (("version",), 7, ""),
]


@pytest.mark.parametrize(("field", "value", "text"), MANIFESTS, ids=lambda part: str(part)[:40])
def test_an_edited_field_of_the_manifest_is_found(field: tuple[Any, ...], value: Any, text: str, made: Made) -> None:
    file, checkpoint = made()

    def edit(model: onnx.ModelProto) -> None:
        manifest = json.loads(model.metadata_props[0].value)
        place = manifest
        for key in field[:-1]:
            place = place[key]
        assert field[-1] == "channels_reversed" or place[field[-1]] != value
        place[field[-1]] = value
        with_manifest(model, json.dumps(manifest))

    damaged(file, edit)
    proof = proved(file, checkpoint)
    assert any(text in line for line in proof.failures), proof.failures


@pytest.mark.parametrize("kept", [(), ("conv3_1", "conv3_1"), ("conv3_1", "fc8"), ("conv9_9",)])
def test_each_layer_must_be_int8_or_kept(kept: tuple[str, ...], made: Made) -> None:
    file, checkpoint = made(int8="tensorrt", kept=("conv3_1",))
    manifest = OnnxFile(file).manifest
    assert manifest is not None
    assert manifest.precision.quantization is not None
    edited = dataclasses.replace(manifest.precision.quantization, kept=kept)
    precision = dataclasses.replace(manifest.precision, quantization=edited)
    damaged(file, lambda model: with_manifest(model, manifest.with_(precision=precision).to_json()))
    (failure,) = proved(file, checkpoint).failures
    assert failure.startswith("its manifest does not state for each layer, once, whether it is INT8 or kept")


def test_a_range_that_the_manifest_lost_is_named(made: Made) -> None:
    file, checkpoint = made(int8="onnxruntime")
    manifest = OnnxFile(file).manifest
    assert manifest is not None
    assert manifest.precision.quantization is not None
    ranges = dict(manifest.precision.quantization.ranges)
    del ranges["spatial_mean"]
    edited = dataclasses.replace(manifest.precision.quantization, ranges=ranges)
    precision = dataclasses.replace(manifest.precision, quantization=edited)
    damaged(file, lambda model: with_manifest(model, manifest.with_(precision=precision).to_json()))
    assert proved(file, checkpoint).failures == ("its manifest records no range for spatial_mean; export it again",)


def test_the_digits_in_the_name_of_torchvisions_file_are_enough_of_its_sha256(made: Made) -> None:
    file, checkpoint = made()
    manifest = OnnxFile(file).manifest
    assert manifest is not None
    assert manifest.source is not None
    short = Source("vgg11-8a719046.pth", manifest.source.sha256[:8])
    damaged(file, lambda model: with_manifest(model, manifest.with_(source=short).to_json()))
    assert proved(file, checkpoint).passed


def test_another_checkpoint_of_the_same_network_is_recognized(made: Made, narrow_checkpoint: Files) -> None:
    for int8 in (None, "tensorrt"):
        file, _ = made(int8=int8)
        proof = proved(file, narrow_checkpoint("A", seed=1))
        assert proof.failures[0].startswith("it was made from vgg11-0.safetensors (SHA-256 ")
        assert ", not from vgg11-1.safetensors (SHA-256 " in proof.failures[0]
        assert any("most weights of every layer differ: give the checkpoint" in line for line in proof.failures)
        assert len(proof.failures) == 6
        assert proof.failures[-1].startswith("and ")
        assert len(proof.figures["tensors"]) > 15


def test_one_bit_in_every_layer_does_not_mean_another_checkpoint(made: Made) -> None:
    file, checkpoint = made()

    def edit(model: onnx.ModelProto) -> None:
        for name in tensors_of(model):
            flipped(name, 0)(model)

    damaged(file, edit)
    proof = proved(file, checkpoint)
    assert len(proof.figures["tensors"]) == 23
    assert not any("most weights" in line for line in proof.failures)


def test_external_data_of_another_file_is_found(made: Made, narrow_checkpoint: Files, tmp_path: Path) -> None:
    file, checkpoint = made(external_data=True, checkpoint={"fc_width": 256})
    (weights,) = OnnxFile(file).external_files
    other = export(read(narrow_checkpoint("A", seed=1, fc_width=256)), tmp_path / "other.onnx", external_data=True)
    weights.write_bytes(OnnxFile(other.path).external_files[0].read_bytes())
    assert not proved(file, checkpoint).passed
