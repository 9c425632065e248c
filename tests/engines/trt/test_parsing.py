"""The types of a parsed network's layers, which a plan will use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto

from engines.trt.backend import Backend, listening, logger
from engines.trt.parsing import layer_types, parse
from vgg_deploy.artifacts import onnx_layers
from vgg_deploy.artifacts.onnx_file import OnnxFile


@pytest.fixture
def types(rtx: Backend) -> Callable[[Path], dict[str, str]]:
    def look(path: Path) -> dict[str, str]:
        with listening(rtx) as messages:
            parsed = parse(rtx, rtx.trt.Builder(logger(rtx)), path)
            assert parsed.complete, messages.errors
            return layer_types(rtx.trt, parsed.network)

    return look


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("int8", [False, ("conv1_1", "conv3_2", "fc6"), True])
def test_tensorrt_sees_the_types_that_the_nodes_have(
    int8: Any, half: bool, model: Callable[..., Path], types: Callable[[Path], dict[str, str]]
) -> None:
    path = model("D", half=half, int8=int8)
    by_name = types(path)
    assert by_name == onnx_layers.layer_types(OnnxFile(path).header)
    assert len(by_name) == 16
    assert set(by_name.values()) <= {"int8", "float16" if half else "float32"}


def test_quantized_weights_alone_are_not_int8(
    foreign: Any, types: Callable[[Path], dict[str, str]], tmp_path: Path
) -> None:
    foreign.node("conv").input[0] = "transpose"
    del foreign.nodes[2:4]
    path = foreign.save(tmp_path)
    assert types(path) == {"conv": "float32"} == onnx_layers.layer_types(OnnxFile(path).header)


def test_quantized_data_alone_is_not_int8(foreign: Any, types: Any, tmp_path: Path) -> None:
    foreign.constants["weight"] = foreign.constants.pop("integers").astype("float32")
    foreign.nodes.remove(foreign.node("weight"))
    path = foreign.save(tmp_path)
    assert types(path) == {"conv": "float32"} == onnx_layers.layer_types(OnnxFile(path).header)


def test_other_types_have_their_names(foreign: Any, types: Any, tmp_path: Path) -> None:
    del foreign.nodes[2:5]
    foreign.add("Cast", "data", "transpose", to=TensorProto.BFLOAT16)
    foreign.add("Cast", "weight", "integers", to=TensorProto.FLOAT)
    foreign.add("Cast", "weight_b", "weight", to=TensorProto.BFLOAT16)
    foreign.add("Cast", "bias_b", "bias", to=TensorProto.BFLOAT16)
    foreign.nodes[2:2] = [foreign.nodes.pop() for _ in range(4)][::-1]
    foreign.node("conv").input[:] = ["data", "weight_b", "bias_b"]
    foreign.insert("Cast", "back", before="mean", to=TensorProto.FLOAT)
    path = foreign.save(tmp_path)
    onnx.checker.check_model(onnx.load(path))
    assert types(path) == {"conv": "bfloat16"} == onnx_layers.layer_types(OnnxFile(path).header)
