"""The nodes and weights of an ONNX file, compared with what onnx reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.errors import ModelFileError


@pytest.fixture
def ours() -> Path:
    return Path(__file__).parents[2] / "data" / "tiny.onnx"


def test_nodes_are_those_that_onnx_reads(ours: Path) -> None:
    model, graph = onnx.load(ours), OnnxFile(ours).graph
    assert graph.inputs == ("images",)
    assert graph.outputs == tuple(output.name for output in model.graph.output)
    assert len(graph.nodes) == len(model.graph.node)
    for node, expected in zip(graph.nodes, model.graph.node, strict=True):
        assert (node.name, node.operator, node.domain) == (expected.name, expected.op_type, expected.domain)
        assert (node.inputs, node.outputs) == (tuple(expected.input), tuple(expected.output))
        attributes = {each.name: helper.get_attribute_value(each) for each in expected.attribute}
        assert node.attributes == {
            name: tuple(value) if isinstance(value, list) else value for name, value in attributes.items()
        }


def test_attributes_of_every_kind_that_is_read(ours: Path, tmp_path: Path) -> None:
    model, path = onnx.load(ours), tmp_path / "changed.onnx"
    node = model.graph.node[0]
    values = {"real": -2.5, "whole": -3, "word": b"SAME", "list": [1, -1], "others": [1.5, 2.5]}
    node.attribute.extend(helper.make_attribute(name, value) for name, value in values.items())
    onnx.save(model, path)
    attributes = OnnxFile(path).graph.nodes[0].attributes
    assert {name: attributes[name] for name in values} == {
        "real": -2.5,
        "whole": -3,
        "word": "SAME",
        "list": (1, -1),
        "others": None,
    }


@pytest.mark.parametrize("external", [False, True])
def test_weights_are_those_of_the_file_and_are_not_copied(external: bool, ours: Path, tmp_path: Path) -> None:
    model, path = onnx.load(ours), tmp_path / "copy.onnx"
    expected = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    onnx.save(model, path, save_as_external_data=external, location="copy.weights", size_threshold=0)
    weights = OnnxFile(path).graph.weights
    assert weights.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(weights[name], values)
        assert not weights[name].flags.owndata


def test_a_place_counts_for_external_tensors_alone(ours: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(10_000))
    (tmp_path / "models").mkdir()
    model, path = onnx.load(ours), tmp_path / "models" / "changed.onnx"
    first = model.graph.initializer[0]
    expected = numpy_helper.to_array(first)
    first.external_data.add(key="location", value="../secret")
    onnx.save(model, path)
    np.testing.assert_array_equal(OnnxFile(path).graph.weights[first.name], expected)


@pytest.mark.parametrize("key", ["offset", "length"])
def test_a_negative_offset_or_length_is_refused(key: str, ours: Path, tmp_path: Path) -> None:
    model, path = onnx.load(ours), tmp_path / "changed.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    entries = model.graph.initializer[0].external_data
    (entry,) = (entry for entry in entries if entry.key == key)
    entry.value = "-1"
    path.write_bytes(model.SerializeToString())
    file = OnnxFile(path)
    with pytest.raises(ModelFileError, match="damaged"):
        _ = file.graph


def test_what_is_not_floating_point_or_not_whole_is_left_out(ours: Path, tmp_path: Path) -> None:
    model, path = onnx.load(ours), tmp_path / "changed.onnx"
    half = helper.make_tensor("half", TensorProto.FLOAT16, [2], [1.0, 2.0])  # in int32_data
    short = TensorProto(name="short", data_type=TensorProto.FLOAT, dims=[3], raw_data=bytes(8))
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [2], [1.5, 2.5])  # in float_data, packed
    model.graph.initializer.extend([numpy_helper.from_array(np.arange(3), "integers"), half, short, typed])
    onnx.save(model, path)
    weights = OnnxFile(path).graph.weights
    assert not {"integers", "short"} & weights.keys()
    np.testing.assert_array_equal(weights["half"], np.array([1.0, 2.0], np.float16))
    np.testing.assert_array_equal(weights["typed"], [1.5, 2.5])
    assert model.graph.initializer[0].name in weights


def test_a_cut_off_file_is_refused_at_every_length(ours: Path, tmp_path: Path) -> None:
    whole, path = ours.read_bytes(), tmp_path / "cut.onnx"
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelFileError):
            OnnxFile(path)
