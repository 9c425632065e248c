"""Reasons why a model cannot be built, each a line with what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engines.trt import preflight
from engines.trt.backend import Backend, listening, logger
from engines.trt.parsing import parse
from vgg_deploy.artifacts.onnx_file import OnnxFile, read_manifest
from vgg_deploy.network.classes import numbered_classes
from vgg_deploy.network.manifest import Manifest, TrainScale
from vgg_deploy.network.shapes import Profile

SYMMETRIC = "quantize it symmetrically in signed 8 bit"


@pytest.fixture
def others() -> Manifest:
    """A foreign model's manifest."""
    return Manifest(numbered_classes(5), None, None, TrainScale(1, 1))


@pytest.fixture
def findings(others: Manifest, tmp_path: Path) -> Callable[[Any], list[str]]:
    """`findings(foreign)` -> the texts of the findings in its graph, read from the disk."""

    def look(foreign: Any) -> list[str]:
        header = OnnxFile(foreign.save(tmp_path)).header_with_small_tensors(preflight.KEPT_BYTES)
        result = preflight.of_graph(header, others)
        assert not any("\n" in finding.text for finding in result)
        return [finding.text for finding in result]

    return look


def refused(rtx: Backend, path: Path, others: Manifest) -> tuple[str, ...]:
    """The texts of all findings for a file, with the parser's."""
    header = OnnxFile(path).header_with_small_tensors(preflight.KEPT_BYTES)
    with listening(rtx):
        parsed = parse(rtx, rtx.trt.Builder(logger(rtx)), path)
        by_parser = [] if parsed.complete else preflight.of_parser(parsed.parser, header, rtx)
    return preflight.texts(preflight.of_graph(header, others), by_parser)


def test_a_symmetric_model_has_no_findings(
    foreign: Any, findings: Any, rtx: Backend, others: Any, tmp_path: Any
) -> None:
    assert findings(foreign) == []
    assert refused(rtx, foreign.save(tmp_path), others) == ()


@pytest.mark.parametrize("precision", [{}, {"half": True}, {"int8": True}, {"int8": True, "half": True}])
@pytest.mark.parametrize("configuration", ["A-LRN", "C"])
def test_files_exported_for_tensorrt_have_no_findings(
    configuration: str, precision: dict[str, Any], model: Callable[..., Path]
) -> None:
    path = model(configuration, **precision)
    header = OnnxFile(path).header_with_small_tensors(preflight.KEPT_BYTES)
    assert preflight.of_graph(header, read_manifest(path)) == []
    assert preflight.of_profiles(header, [Profile((64,), (1, 64, 64), (1, 64, 64), (8, 128, 128))]) == []


def test_files_exported_for_onnx_runtime_must_be_exported_again(model: Callable[..., Path]) -> None:
    path = model(int8=True, target="onnxruntime")
    result = preflight.of_graph(OnnxFile(path).header_with_small_tensors(preflight.KEPT_BYTES), read_manifest(path))
    assert len(result) == 2
    assert all(finding.text.endswith(": export it again with --int8 --target tensorrt") for finding in result)
    assert "unsigned 8 bit at " in result[0].text
    assert "biases stored as INT32 at conv1_1.bias_dequantize, " in result[1].text
    assert len(result[1].nodes) == 11
    assert " and 8 more; " in result[1].text


@pytest.mark.parametrize("name", ["zero", "zeros"])
def test_zero_points_other_than_0_are_found(name: str, foreign: Any, findings: Any) -> None:
    foreign.constants[name] = np.int8(3) if name == "zero" else np.int8([0, 0, 0, 0, -1])
    nodes = "quantize, dequantize" if name == "zero" else "weight"
    (text,) = findings(foreign)
    assert text.startswith(f"zero-points other than 0 at {nodes}; TensorRT accepts symmetric INT8 only: {SYMMETRIC}")


def test_a_zero_point_in_a_constant_node_is_seen_too(foreign: Any, findings: Any) -> None:
    del foreign.constants["zero"]
    value = helper.make_tensor("value", TensorProto.INT8, [], [5])
    foreign.nodes.insert(0, helper.make_node("Constant", [], ["zero"], name="zero", value=value))
    (text,) = findings(foreign)
    assert text.startswith("zero-points other than 0 at quantize, dequantize; ")


def test_unsigned_zero_points_which_the_parser_reads_as_signed_without_an_error(
    foreign: Any, findings: Any, rtx: Backend, tmp_path: Path
) -> None:
    foreign.constants["zero"] = np.uint8(0)
    (text,) = findings(foreign)
    assert text.startswith(f"unsigned 8 bit at quantize, dequantize, which TensorRT reads as signed: {SYMMETRIC}")
    with listening(rtx) as messages:
        assert parse(rtx, rtx.trt.Builder(logger(rtx)), foreign.save(tmp_path)).complete
    assert any("Defaulting to INT8" in warning for warning in messages.warnings)


def test_without_a_zero_point_onnx_quantizes_to_unsigned(foreign: Any, findings: Any) -> None:
    for name in ("quantize", "dequantize"):
        del foreign.node(name).input[2]
    (text,) = findings(foreign)
    assert text.startswith("unsigned 8 bit at quantize, which")
    foreign.node("quantize").attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))
    assert findings(foreign) == []


def test_biases_stored_as_int32_are_found(
    foreign: Any, findings: Any, rtx: Backend, others: Manifest, tmp_path: Path
) -> None:
    foreign.constants |= {"bias_integers": np.arange(5, dtype=np.int32), "bias_scales": np.full(5, 0.01, np.float32)}
    foreign.add("DequantizeLinear", "bias_read", "bias_integers", "bias_scales", axis=0)
    foreign.nodes.insert(0, foreign.nodes.pop())
    foreign.node("conv").input[2] = "bias_read"
    (text,) = findings(foreign)
    assert text.startswith(
        "biases stored as INT32 at bias_read; TensorRT accepts them in floating point only: leave biases in"
    )
    # The parser refuses it too, but it is reported once.
    assert refused(rtx, foreign.save(tmp_path), others) == (text,)


@pytest.mark.parametrize("operator", ["Identity", "Transpose"])
def test_uint8_used_by_another_node_than_cast_is_found(
    operator: str, foreign: Any, findings: Any, rtx: Backend, others: Manifest, tmp_path: Path
) -> None:
    attributes = {"perm": [0, 1, 2, 3]} if operator == "Transpose" else {}
    foreign.insert(operator, "raw", before="cast", **attributes)
    (text,) = findings(foreign)
    assert text == "uint8 used directly at raw; TensorRT accepts only Cast on it: cast it to float first"
    assert refused(rtx, foreign.save(tmp_path), others) == (text,)


@pytest.mark.parametrize("named", [True, False])
def test_all_unsupported_operators_are_named_with_their_nodes(
    named: bool, foreign: Any, rtx: Backend, others: Manifest, tmp_path: Path
) -> None:
    foreign.insert("Det", "determinant", before="scores")
    foreign.insert("Unique", "unique", before="probabilities")
    if not named:
        for node in foreign.nodes:
            node.name = ""
    texts = refused(rtx, foreign.save(tmp_path), others)
    begin = "" if named else "node_of_"
    assert [text.partition(":")[0] for text in texts] == [
        f"operator Det at {begin}determinant, which {rtx} does not support",
        f"operator Unique at {begin}unique, which {rtx} does not support",
    ]
    assert all(text.endswith("run the ONNX file itself (vgg-deploy infer --runtime onnxruntime)") for text in texts)


@pytest.mark.parametrize(
    ("operator", "attributes", "reason"),
    [
        ("LRN", {"size": 4}, "ILRNLayer::setWindowSize: "),
        ("Flatten", {"axis": 9}, "Axis must be in the range"),
        ("Pad", {}, ""),
    ],
)
def test_other_errors_of_the_parser_are_given_with_its_reason(
    operator: str, attributes: dict[str, Any], reason: str, foreign: Any, rtx: Backend, others: Manifest, tmp_path: Path
) -> None:
    foreign.insert(operator, "other", before="mean", **attributes)
    (text,) = refused(rtx, foreign.save(tmp_path), others)
    assert text.startswith(f"{operator} at other, which {rtx} refuses (")
    assert reason in text
    assert "catchCudaError" not in text
    assert "\n" not in text


def test_all_faults_of_a_file_are_reported(foreign: Any, rtx: Backend, others: Manifest, tmp_path: Path) -> None:
    foreign.constants["zero"] = np.int8(7)
    foreign.insert("Identity", "raw", before="cast")
    foreign.insert("Det", "determinant", before="scores")
    beginnings = [text[:14] for text in refused(rtx, foreign.save(tmp_path), others)]
    assert beginnings == ["zero-points ot", "uint8 used dir", "operator Det a"]


def test_a_profile_below_the_smallest_input_is_reported_with_that_size(foreign: Any, tmp_path: Path) -> None:
    foreign.constants |= {"integers": np.ones((5, 3, 50, 50), np.int8)}
    header = OnnxFile(foreign.save(tmp_path)).header_with_small_tensors(preflight.KEPT_BYTES)
    small, large = (Profile((q,), (1, q, q), (1, q, q), (8, 2 * q, 2 * q)) for q in (32, 96))
    (finding,) = preflight.of_profiles(header, [large, small])
    assert finding.nodes == ("conv",)
    assert finding.text.endswith("for images of 32 x 32, the smallest of the profiles: give --scales of 50 or more")
    assert preflight.of_profiles(header, [large]) == []


def test_a_model_that_has_no_output_for_any_image_is_damaged(foreign: Any, tmp_path: Path) -> None:
    foreign.constants |= {"integers": np.ones((5, 3, 5000, 1), np.int8)}
    header = OnnxFile(foreign.save(tmp_path)).header_with_small_tensors(preflight.KEPT_BYTES)
    (finding,) = preflight.of_profiles(header, [Profile((32,), (1, 32, 32), (1, 32, 32), (1, 64, 64))])
    assert "for images of any size" in finding.text


def test_sizes_that_the_file_states_wrongly_do_not_hide_it(foreign: Any, tmp_path: Path) -> None:
    foreign.constants |= {"integers": np.ones((5, 3, 50, 50), np.int8)}
    model = foreign.model()
    model.graph.value_info.append(helper.make_tensor_value_info("conv", TensorProto.FLOAT, ("n", 5, 7, 7)))
    onnx.save(model, tmp_path / "x.onnx")
    header = OnnxFile(tmp_path / "x.onnx").header_with_small_tensors(preflight.KEPT_BYTES)
    assert preflight.of_profiles(header, [Profile((32,), (1, 32, 32), (1, 32, 32), (1, 64, 64))])
