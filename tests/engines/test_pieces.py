"""A piece of a network in each runtime: it computes what the whole file computes there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import RUNTIMES, open_piece
from vgg_deploy.errors import EngineError, UnsupportedModelError, UsageError
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.inference.piece import PieceModel

OPTIONS = EngineOptions(threads=1)


@pytest.fixture(params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    pytest.importorskip(RUNTIMES[name].module)
    return name


def piece(
    *nodes: onnx.NodeProto,
    shape: tuple[int | str, ...],
    kind: int = TensorProto.FLOAT,
    result: int = TensorProto.FLOAT,
    output: tuple[int | str, ...] = ("n", 3, "r", "c"),
    on_one_position: bool = False,
    **constants: np.ndarray,
) -> PieceModel:
    """A model of these nodes from x to y."""
    graph = helper.make_graph(
        list(nodes),
        "piece",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", result, output)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    return PieceModel(name="conv9_9", data=model.SerializeToString(), on_one_position=on_one_position)


def convolution(dtype: Any = np.float32, **options: Any) -> tuple[PieceModel, np.ndarray, np.ndarray]:
    """A piece with a 1x1 convolution and its ReLU, an input and the output."""
    chance = np.random.default_rng(0)
    weight, bias = chance.normal(0, 1, (3, 5, 1, 1)).astype(dtype), chance.normal(0, 1, 3).astype(dtype)
    x = chance.normal(0, 1, (2, 5, 7, 9)).astype(dtype)
    nodes = helper.make_node("Conv", ["x", "w", "b"], ["z"]), helper.make_node("Relu", ["z"], ["y"])
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    model = piece(*nodes, shape=("n", 5, "r", "c"), kind=kind, result=kind, w=weight, b=bias, **options)
    sums = np.einsum("oc,nchw->nohw", weight[..., 0, 0].astype(np.float64), x.astype(np.float64))
    return model, x, np.maximum(sums + bias.astype(np.float64)[:, None, None], 0)


def test_a_piece_computes_a_batch_of_maps(runtime: str) -> None:
    model, x, expected = convolution()
    with open_piece(model, OPTIONS, runtime) as opened:
        received = opened.run(x)
    assert received.dtype == np.float32
    np.testing.assert_allclose(received, expected, atol=1e-5)


def test_an_fp16_piece_takes_fp16_and_is_float16_only_if_the_runtime_rounded_it(runtime: str) -> None:
    model, x, expected = convolution(np.float16)
    with open_piece(model, OPTIONS, runtime) as opened:
        received = opened.run(x)
    if received.dtype == np.float16:
        np.testing.assert_allclose(received, expected, rtol=2**-11, atol=1e-5)
    else:
        assert received.dtype == np.float32
        np.testing.assert_allclose(received, expected, atol=1e-5)


def test_results_of_one_run_are_not_changed_by_the_next(runtime: str) -> None:
    model, x, expected = convolution()
    with open_piece(model, OPTIONS, runtime) as opened:
        first = opened.run(x)
        opened.run(x[:, :, :3, :4] + 1)
    np.testing.assert_allclose(first, expected, atol=1e-5)


def test_the_first_piece_takes_an_image(runtime: str) -> None:
    chance = np.random.default_rng(1)
    mean, weight = np.array([10, 20, 30], np.float32), chance.normal(0, 1, (3, 3, 1, 1)).astype(np.float32)
    nodes = (
        helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["float", "mean"], ["centred"]),
        helper.make_node("Transpose", ["centred"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "w", "b"], ["y"]),
    )
    bias = np.zeros(3, np.float32)
    model = piece(*nodes, shape=("n", "r", "c", 3), kind=TensorProto.UINT8, mean=mean, w=weight, b=bias)
    image = chance.integers(0, 256, (1, 6, 8, 3), dtype=np.uint8)
    with open_piece(model, OPTIONS, runtime) as opened:
        received = opened.run(image)
    expected = np.einsum("oc,nhwc->nohw", weight[..., 0, 0].astype(np.float64), image - mean.astype(np.float64))
    np.testing.assert_allclose(received, expected, atol=1e-3)


def test_a_piece_behind_the_spatial_mean_keeps_its_rows_and_columns(runtime: str) -> None:
    weight, bias = np.arange(15, dtype=np.float32).reshape(3, 5, 1, 1), np.zeros(3, np.float32)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    shape, output = ("n", 5, 1, 1), ("n", 3, 1, 1)
    model = piece(node, shape=shape, output=output, on_one_position=True, w=weight, b=bias)
    x = np.array([1, 0, 2, 0, -1], np.float32).reshape(1, 5, 1, 1)
    with open_piece(model, OPTIONS, runtime) as opened:
        received = opened.run(x)
    assert received.shape == (1, 3, 1, 1)
    np.testing.assert_allclose(received.ravel(), weight[..., 0, 0] @ x.ravel())


def test_a_piece_runs_with_the_settings_of_the_whole_file(monkeypatch: pytest.MonkeyPatch) -> None:
    openvino = pytest.importorskip("engines.ov")
    seen: list[EngineOptions] = []
    properties: Callable[[EngineOptions], dict[str, object]] = openvino._properties
    monkeypatch.setattr(openvino, "_properties", lambda options: (seen.append(options), properties(options))[1])
    model, _x, _expected = convolution()
    open_piece(model, OPTIONS, "openvino").close()
    assert seen == [OPTIONS]


def test_a_piece_that_a_runtime_cannot_compute_is_refused_by_name(runtime: str) -> None:
    model = piece(helper.make_node("Unknown", ["x"], ["y"], name="odd"), shape=("n", 3, "r", "c"))
    with pytest.raises(EngineError, match=f"{runtime} refused the piece of conv9_9: "):
        open_piece(model, OPTIONS, runtime)


def test_ncnn_refuses_a_quantized_piece() -> None:
    pytest.importorskip("ncnn")
    node = helper.make_node("QuantizeLinear", ["x", "s"], ["y"], name="q")
    model = piece(node, shape=("n", 3, "r", "c"), result=TensorProto.UINT8, s=np.array(1, np.float32))
    with pytest.raises(UnsupportedModelError, match="node q is QuantizeLinear, which is not translated to ncnn"):
        open_piece(model, OPTIONS, "ncnn")


def test_a_failed_run_and_a_closed_piece_are_engine_errors(runtime: str, tmp_path: Path) -> None:
    model, x, _expected = convolution()
    opened = open_piece(model, OPTIONS, runtime)
    if runtime != "ncnn":  # ncnn does not look at the number of channels
        with pytest.raises(EngineError, match=f"{runtime} failed on the piece of conv9_9: "):
            opened.run(x[:, :4])
    opened.close()
    with pytest.raises(EngineError, match="the piece of conv9_9 was closed; open it again"):
        opened.run(x)


def test_pieces_run_only_in_runtimes_for_onnx_files() -> None:
    model, _x, _expected = convolution()
    with pytest.raises(UsageError, match="runtime is 'tensorrt'; pieces run in onnxruntime, openvino, ncnn"):
        open_piece(model, OPTIONS, "tensorrt")
