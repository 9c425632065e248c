"""An ONNX file cut into layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from export.proof.layers.pieces import CutFile
from tests.export.file_kinds import FILES
from vgg_deploy.errors import ModelFileError


@pytest.mark.parametrize("kind", FILES)
def test_every_node_and_every_output_of_a_file_belongs_to_a_layer(
    kind: str,
    written: Callable[[str], Path],
) -> None:
    path = written(kind)
    file, graph = CutFile(path), onnx.load(path).graph
    cuts = file.cuts
    assert {node.name for cut in cuts for node in cut.nodes} == {node.name for node in graph.node}
    assert {value.name for value in graph.output} <= {cut.output for cut in cuts}
    results = {"images", *(cut.result for cut in cuts)}
    assert {cut.source for cut in cuts} <= results
    layers = [cut.layer for cut in cuts]
    assert len(set(layers)) == len(layers)
    assert {"conv1_1", "conv5_2", "pool1", "pool5", "fc6", "fc7", "fc8", "softmax"} <= set(layers)


def test_a_layer_begins_before_the_nodes_that_prepare_its_input_and_ends_behind_its_relu(
    exported: Callable[..., Any],
) -> None:
    cuts = {cut.layer: cut for cut in CutFile(exported("A", dynamic=True, half=True).path).cuts}
    assert [node.op_type for node in cuts["conv1_1"].nodes] == ["Cast", "Sub", "Transpose", "Cast", "Conv", "Relu"]
    assert (cuts["conv1_1"].source, cuts["conv1_1"].output) == ("images", "relu1_1")
    assert [node.op_type for node in cuts["pool1"].nodes] == ["MaxPool"]
    assert [node.op_type for node in cuts["softmax"].nodes] == ["Cast", "Flatten", "Softmax"]


@pytest.mark.parametrize("kind", ["INT8 for TensorRT", "INT8 for ONNX Runtime"])
def test_an_int8_layer_ends_behind_the_nodes_that_quantize_its_output(
    kind: str,
    written: Callable[[str], Path],
) -> None:
    cuts = {cut.layer: cut for cut in CutFile(written(kind)).cuts}
    kinds = [node.op_type for node in cuts["conv3_2"].nodes]
    assert kinds[:2] == ["QuantizeLinear", "DequantizeLinear"]
    assert kinds[-4:] == ["Conv", "Relu", "QuantizeLinear", "DequantizeLinear"]
    assert cuts["conv3_2"].result == "relu3_2"
    assert cuts["conv3_2"].output == "pool3.input_dequantize"
    assert cuts["pool3"].source == "relu3_2"


def test_a_piece_is_a_valid_model_with_the_weights_of_the_file(exported: Callable[..., Any]) -> None:
    path = exported("A", dynamic=True).path
    file = CutFile(path)
    cuts = {cut.layer: cut for cut in file.cuts}
    piece = file.model(cuts["fc6"])
    model = onnx.load_from_string(piece.data)
    onnx.checker.check_model(model, full_check=True)
    whole = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
    assert [tensor.name for tensor in model.graph.initializer] == ["fc6.weight", "fc6.bias"]
    for tensor in model.graph.initializer:
        assert tensor.raw_data == whole[tensor.name].raw_data
    assert (piece.name, piece.on_one_position) == ("fc6", False)
    assert file.model(cuts["fc8"]).on_one_position
    assert file.model(cuts["softmax"]).on_one_position


def test_a_piece_of_a_file_with_fixed_sizes_has_them_too(exported: Callable[..., Any]) -> None:
    file = CutFile(exported("A", dynamic=False).path)
    (cut,) = (cut for cut in file.cuts if cut.layer == "conv2_1")
    shape = onnx.load_from_string(file.model(cut).data).graph.input[0].type.tensor_type.shape
    assert [axis.dim_value for axis in shape.dim] == [1, 4, 32, 32]


def test_weights_in_a_file_of_their_own_are_read(exported: Callable[..., Any]) -> None:
    inside = CutFile(exported("A", "inside.onnx", dynamic=True).path).constants
    outside = CutFile(exported("A", "outside.onnx", dynamic=True, external_data=True).path).constants
    assert inside.keys() == outside.keys()
    for name, values in inside.items():
        np.testing.assert_array_equal(values, outside[name])


def changed(path: Path, change: Callable[[onnx.GraphProto], None]) -> CutFile:
    model = onnx.load(path)
    change(model.graph)
    onnx.save(model, path)
    return CutFile(path)


def test_a_node_that_nothing_needs_is_named(exported: Callable[..., Any]) -> None:
    file = changed(
        exported("A", dynamic=True).path,
        lambda graph: graph.node.append(helper.make_node("Relu", ["pool3"], ["more"], name="useless")),
    )
    with pytest.raises(ModelFileError, match=r"node useless \(Relu\) belongs to no layer and no output"):
        _ = file.cuts


def test_a_layer_that_reads_two_others_is_named(exported: Callable[..., Any]) -> None:
    def join(graph: onnx.GraphProto) -> None:
        node = next(node for node in graph.node if node.name == "pool5")
        node.op_type, node.input[:] = "Add", ["relu5_2", "relu5_1"]
        del node.attribute[:]

    file = changed(exported("A", dynamic=True).path, join)
    with pytest.raises(ModelFileError, match="layer pool5 reads relu5_1, relu5_2; expected the result of one layer"):
        _ = file.cuts
