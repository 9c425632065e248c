"""A file is what its manifest says: healthy files of every kind pass, and every change is found and named."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import numpy_helper

from tests.vgg_deploy.artifacts.damage import changed, named, node_of, tensor_of, values, without_digests
from vgg_deploy.artifacts.integrity import examine
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.errors import ModelFileError
from vgg_deploy.network.manifest import MANIFEST_KEY, TORCHVISION_NORMALIZATION, Manifest, Rescaling, TrainScale

OUTPUTS = [
    {"score_map": score_map, "features": features} for score_map, features in itertools.product((False, True), repeat=2)
]
KINDS: list[dict[str, Any]] = [
    {"dynamic": True},
    {"half": True},
    {"target": "tensorrt"},
    {"target": "tensorrt", "half": True, "kept": ("conv1_1", "fc7", "fc8")},
    {"target": "onnxruntime"},
    {"target": "onnxruntime", "kept": ("conv3_1", "fc6")},
    {"target": "onnxruntime", "kept": ("conv2_1", "fc7")},
    {"half": True, "fine": True, "external_data": True},
    {"checkpoint": {"manifest": {"normalization": TORCHVISION_NORMALIZATION}}},
    {"half": True, "largest": ("conv2_1", "conv4_2", "fc7")},
    {"half": True, "largest": ("conv3_2", "fc8"), "target": "tensorrt", "kept": ("conv3_2",)},
]


@pytest.mark.parametrize(("configuration", "outputs"), [("C", {}), *(("A-LRN", outputs) for outputs in OUTPUTS)])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind))
def test_healthy_files_of_every_kind_pass(
    kind: dict[str, Any], outputs: dict[str, bool], configuration: str, file: Callable[..., Path]
) -> None:
    path = file(configuration, **kind, **outputs)
    examined = examine(path)
    assert examined.contradictions == ()
    assert examined.recorded
    assert examined.tensors == len(OnnxFile(path).tensors)


@pytest.mark.parametrize("bit", [0, 3, 7])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ({}, "conv3_1.weight"),
        ({"half": True}, "fc6.weight"),
        ({"half": True}, "fc7.bias"),
        ({"target": "onnxruntime"}, "conv2_1.weight.integers"),
        ({"target": "onnxruntime"}, "conv2_1.bias.integers"),
        ({"target": "onnxruntime"}, "conv2_1.input.zero_point"),
        ({"target": "tensorrt"}, "fc6.weight.scale"),
    ],
)
def test_one_bit_of_any_type_is_found_and_the_tensor_is_named(
    kind: dict[str, Any], name: str, bit: int, file: Callable[..., Path]
) -> None:
    path = file(**kind)

    def flip(model: onnx.ModelProto) -> None:
        tensor = tensor_of(model, name)
        data = bytearray(tensor.raw_data)
        data[len(data) // 2] ^= 1 << bit
        tensor.raw_data = bytes(data)

    assert named(changed(path, flip), f"the tensor {name} was changed after the export")


def test_one_bit_of_external_data_is_found_and_the_tensor_is_named(file: Callable[..., Path]) -> None:
    path = file(external_data=True, half=True)
    (weights,) = OnnxFile(path).external_files
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert named(examine(path), "the tensor fc6.weight was changed after the export")


def test_weights_of_another_export_beside_the_graph_are_found(file: Callable[..., Path], tmp_path: Path) -> None:
    (old,) = OnnxFile(file(external_data=True, checkpoint={"seed": 1})).external_files
    data = old.read_bytes()
    path = file(external_data=True)
    (new,) = OnnxFile(path).external_files
    new.write_bytes(data)
    examined = examine(path)
    assert named(examined, "the tensor conv3_1.weight was changed after the export")
    assert named(examined, "also 1 other tensor: each was changed after the export")
    assert len(examined.contradictions) == 7  # six by name, and one line for the others


def in_typed_fields(model: onnx.ModelProto) -> None:
    """Moves the values of every tensor from raw data to float_data or int32_data."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        typed = onnx.helper.make_tensor(tensor.name, tensor.data_type, values.shape, values.flatten().tolist())
        assert not typed.HasField("raw_data")
        tensor.CopyFrom(typed)


def saved_anew(_model: onnx.ModelProto) -> None:
    """Nothing: the model is only loaded and saved."""


def described_anew(model: onnx.ModelProto) -> None:
    """Documentation, inferred shapes and another producer, which change no answer."""
    model.producer_name, model.doc_string = "another tool", "a note"
    model.graph.node[3].doc_string = "a note"
    model.graph.input[0].doc_string = "a note"
    inferred = onnx.shape_inference.infer_shapes(model)
    model.graph.value_info.extend(inferred.graph.value_info)
    assert model.graph.value_info


@pytest.mark.parametrize("change", [in_typed_fields, saved_anew, described_anew])
@pytest.mark.parametrize("kind", [{"half": True}, {"target": "onnxruntime"}, {"target": "tensorrt"}])
def test_a_file_that_another_tool_saved_without_a_change_passes(
    change: Callable[[onnx.ModelProto], None], kind: dict[str, Any], file: Callable[..., Path]
) -> None:
    assert changed(file(**kind), change).contradictions == ()


def test_external_data_may_be_moved_into_the_file_and_out_of_it(file: Callable[..., Path]) -> None:
    path = file(external_data=True, half=True)
    onnx.save(onnx.load(path), path)
    assert examine(path).contradictions == ()
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="moved", size_threshold=0)
    assert OnnxFile(path).external_files
    assert examine(path).contradictions == ()


def test_a_tensor_that_is_stored_twice_is_found(file: Callable[..., Path]) -> None:
    """Another runtime may take the other copy."""

    def hide(model: onnx.ModelProto) -> None:
        tensor_of(model, "fc8.bias").float_data.extend([1.0] * 5)

    (line,) = changed(file(), hide).contradictions
    assert "fc8.bias has no data, too much or too little of it, or several copies" in line

    def repeat(model: onnx.ModelProto) -> None:
        model.graph.initializer.add().CopyFrom(tensor_of(model, "fc8.bias"))

    assert named(changed(file(), repeat), "the tensor fc8.bias is in the file more than once")


def test_a_tensor_of_the_same_bytes_and_another_shape_is_named(file: Callable[..., Path]) -> None:
    def reshape(model: onnx.ModelProto) -> None:
        tensor = tensor_of(model, "conv3_1.weight")
        tensor.dims[:] = [tensor.dims[1], tensor.dims[0], *tensor.dims[2:]]

    assert named(changed(file(), reshape), "the tensor conv3_1.weight was changed after the export")


def test_a_tensor_in_external_data_and_in_the_file_is_found(file: Callable[..., Path]) -> None:
    path = file(external_data=True)
    model = onnx.load(path, load_external_data=False)
    tensor = tensor_of(model, "fc6.weight")
    tensor.raw_data = bytes(4 * math.prod(tensor.dims))
    path.write_bytes(model.SerializeToString())
    (line,) = examine(path).contradictions
    assert "fc6.weight has no data, too much or too little of it, or several copies" in line


def test_external_data_that_were_cut_off_are_one_line_for_each_tensor(file: Callable[..., Path]) -> None:
    path = file(external_data=True)
    (weights,) = OnnxFile(path).external_files
    weights.write_bytes(weights.read_bytes()[:-8])
    (line,) = examine(path).contradictions
    assert "fc6.weight has no data, too much or too little of it" in line


def test_missing_and_added_tensors_are_named(file: Callable[..., Path]) -> None:
    def rename(model: onnx.ModelProto) -> None:
        tensor_of(model, "conv1_1.bias").name = "other"
        node_of(model, "conv1_1").input[2] = "other"

    examined = changed(file(), rename)
    assert named(examined, "the tensor conv1_1.bias is missing")
    assert named(examined, "the tensor other was added")
    assert named(examined, "its graph was changed after the export")


@pytest.mark.parametrize(
    "field",
    [
        {"train_scale": TrainScale(70, 70)},
        {"mirror": False},
        {"rescaling": Rescaling("bicubic")},
        {"tools": {}},
        {"source": None},
        {"training": {"epochs": 3}},
    ],
    ids=lambda field: next(iter(field)),
)
def test_an_edited_manifest_is_found(field: dict[str, Any], file: Callable[..., Path]) -> None:
    def edit(model: onnx.ModelProto) -> None:
        (entry,) = (entry for entry in model.metadata_props if entry.key == MANIFEST_KEY)
        entry.value = Manifest.from_json(entry.value, "a test").with_(**field).to_json()

    examined = changed(file(), edit)
    assert [line.partition(": ")[2] for line in examined.contradictions] == [
        "its manifest was edited after the export; export it again"
    ]


def test_a_manifest_that_fits_no_network_is_a_contradiction_and_no_crash(file: Callable[..., Path]) -> None:
    def edit(model: onnx.ModelProto) -> None:
        (entry,) = (entry for entry in model.metadata_props if entry.key == MANIFEST_KEY)
        entry.value = entry.value.replace('"configuration": "A"', '"configuration": "Z"')

    assert named(changed(file(), edit), "configuration is 'Z'")


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
@pytest.mark.parametrize("span", [[-1e308, 1e308], [0.0, 1e-300], [-1e300, 0.0], [0.0, 0.0], [-1e-320, 1e5]])
def test_a_range_beyond_every_number_is_a_contradiction_and_no_crash(
    span: list[float], target: str, file: Callable[..., Path]
) -> None:
    def edit(model: onnx.ModelProto) -> None:
        (entry,) = (entry for entry in model.metadata_props if entry.key == MANIFEST_KEY)
        data = json.loads(entry.value)
        data["precision"]["quantization"]["ranges"]["conv3_1"] = span
        entry.value = json.dumps(data)

    assert named(changed(file(target=target), edit), "conv3_1.input_quantize", "of conv3_1")


def test_an_older_file_passes_and_says_that_it_has_no_digests(
    file: Callable[..., Path], vgg_deploy_command: Callable[..., Any]
) -> None:
    path = file(half=True)
    without_digests(path)
    assert examine(path).contradictions == ()
    assert not examine(path).recorded
    done = vgg_deploy_command("inspect", str(path))
    assert done.code == 0
    assert "no digests: exported by an older vgg_deploy" in done.out


def test_a_fixed_axis_is_a_contradiction_without_digests_too(file: Callable[..., Path]) -> None:
    path = file(dynamic=True)
    without_digests(path)

    def fixed(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    assert named(changed(path, fixed), "takes images of 1 x 64.. x 64.. x 3, but its manifest states 1.. x 64..")


@pytest.mark.parametrize(("count", "more"), [(8, None), (9, "1 more differences"), (11, "3 more differences")])
def test_eight_differences_of_the_graph_are_listed_and_the_others_counted(
    count: int, more: str | None, file: Callable[..., Path]
) -> None:
    path = file()
    without_digests(path)

    def strided(model: onnx.ModelProto) -> None:
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        for node in convolutions[:count]:
            (strides,) = (attribute for attribute in node.attribute if attribute.name == "strides")
            strides.ints[:] = [2, 2]

    lines = changed(path, strided).contradictions
    assert len(lines) == min(count, 8) + (more is not None)
    assert more is None or f": {more} between its graph and its manifest" in lines[-1]


def test_inspect_names_the_tensor_and_exits_1(
    file: Callable[..., Path], vgg_deploy_command: Callable[..., Any]
) -> None:
    path = file()
    done = vgg_deploy_command("inspect", str(path))
    assert done.code == 0
    assert "23 tensors, graph and manifest as exported" in done.out
    assert "never verified: vgg-deploy verify" in done.out
    assert OnnxFile(path).manifest.digests.tensors["fc6.weight"] not in done.out
    changed(path, values("mean_rgb", lambda mean: mean + 1))
    done = vgg_deploy_command("inspect", str(path))
    assert done.code == 1
    assert "changed after the export: 1 tensor (of 23" in done.out
    assert "the tensor mean_rgb was changed after the export" in done.err
    assert "subtracts the mean 124.68,117.779,104.939 (mean_rgb)" in done.err


def test_a_foreign_file_is_not_judged(file: Callable[..., Path]) -> None:
    path = file()

    def disown(model: onnx.ModelProto) -> None:
        del model.metadata_props[:]
        model.producer_name = "pytorch"

    assert changed(path, disown).contradictions == ()


def test_damage_anywhere_is_found_or_refused_in_words(file: Callable[..., Path]) -> None:
    """Only the name of the tool, that of the graph and white space of the manifest may change unseen."""
    chance = random.Random(0)
    path = file("A-LRN", target="tensorrt", checkpoint={"width_divisor": 64, "fc_width": 8})
    whole, unseen = path.read_bytes(), 0
    for _ in range(150):
        data, position = bytearray(whole), chance.randrange(len(whole))
        data[position] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        with contextlib.suppress(ModelFileError):  # it cannot be read at all; no other error may come
            unseen += not examine(path).contradictions
    assert unseen <= 2
