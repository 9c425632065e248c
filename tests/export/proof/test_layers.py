"""Proof 2: each layer of a file in a runtime, against its exact evaluation."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from engines import RUNTIMES, open_engine, open_piece
from export.proof.layers.limits import BFLOAT16, CONVOLUTIONS, INTEGER_CONVOLUTIONS, OTHERS
from export.proof.layers.proof import PieceRuntime, layer_count, no_layers, prove_layers
from export.proof.layers.simulation import simulate
from tests.export.file_kinds import FILES
from vgg_deploy.errors import EngineError
from vgg_deploy.evaluation.parity import NamedView, posteriors
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.inference.piece import Piece, PieceModel


@pytest.fixture
def views(batch: Callable[..., np.ndarray]) -> list[NamedView]:
    """A small view before a large one, neither square nor of a multiple of 32."""
    return [NamedView("small", batch(1, 65, 70)[0]), NamedView("large", batch(1, 101, 83, seed=1)[0])]


def runtime_of(path: Path, name: str, **options: Any) -> PieceRuntime:
    """The runtime `name`, as it runs the whole file."""
    chosen = EngineOptions(runtime=name, threads=1, **options)
    with open_engine(path, runtime=name, threads=1, **options) as engine:
        info = engine.info
    return PieceRuntime(open=lambda model: open_piece(model, chosen, name), version=info.runtime, bf16=info.bf16)


RUNS = [(kind, name) for kind in FILES for name, runtime in RUNTIMES.items() if runtime.quantized or "INT8" not in kind]


@pytest.mark.parametrize(("kind", "runtime"), RUNS)
def test_every_layer_of_a_healthy_file_is_three_times_below_its_limit(
    kind: str, runtime: str, written: Callable[[str], Path], views: list[NamedView]
) -> None:
    pytest.importorskip(RUNTIMES[runtime].module)
    path = written(kind)
    calls: list[None] = []
    proof, simulation = prove_layers(path, views, runtime_of(path, runtime), progress=lambda: calls.append(None))
    assert proof.failures == ()
    assert proof.passed
    worst = max(proof.figures["layers"], key=lambda layer: layer["error"] / layer["limit"])
    assert worst["error"] * 3 <= worst["limit"], worst
    assert len(calls) == layer_count(path) == len(proof.figures["layers"])
    assert simulation is not None
    assert simulation.views == ("small", "large")
    with open_engine(path, runtime=runtime, threads=1) as engine:
        received = posteriors(engine, views)
    computed = simulation.nearest(received)
    # Values between two INT8 levels may fall on either side in the runtime, which moves the answer of random weights.
    np.testing.assert_allclose(computed, received, rtol=0, atol=0.03 if "INT8" in kind else 2e-5)


def damaged(path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """A copy of a file after a change: a runtime that computes this copy miscomputes the file."""
    model = onnx.load(path)
    change(model)
    other = path.with_name("damaged.onnx")
    onnx.save(model, other)
    return other


def tensor(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[onnx.ModelProto], None]:
    """Changes a tensor in place."""

    def edit(model: onnx.ModelProto) -> None:
        found = next(each for each in model.graph.initializer if each.name == name)
        values = numpy_helper.to_array(found).copy()
        change(values)
        found.raw_data = values.tobytes()

    return edit


def without(name: str) -> Callable[[onnx.ModelProto], None]:
    """Removes a node; its readers read its input."""

    def edit(model: onnx.ModelProto) -> None:
        node = next(node for node in model.graph.node if node.name == name)
        for reader in model.graph.node:
            reader.input[:] = [node.input[0] if each == node.output[0] else each for each in reader.input]
        model.graph.node.remove(node)

    return edit


def node(name: str, operator: str | None = None, **attributes: Any) -> Callable[[onnx.ModelProto], None]:
    """Changes a node's operator and attributes."""

    def edit(model: onnx.ModelProto) -> None:
        found = next(each for each in model.graph.node if each.name == name)
        found.op_type = operator or found.op_type
        kept = [each for each in found.attribute if each.name not in attributes]
        del found.attribute[:]
        found.attribute.extend(kept)
        found.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())

    return edit


def times(factor: float) -> Callable[[np.ndarray], Any]:
    return lambda values: np.multiply(values, factor, out=values, casting="unsafe")


def raise_one(values: np.ndarray) -> None:
    """One bias becomes larger by five times the largest."""
    values[len(values) // 2] += 5 * np.abs(values).max()


def change_one(values: np.ndarray) -> None:
    """One weight changes its sign, near the middle."""
    index = values.size // 2
    values.flat[index] = -values.flat[index] if values.flat[index] else 1


def reorder(values: np.ndarray) -> None:
    """The filters are in the opposite order."""
    values[:] = values[::-1].copy()


FAULTS: list[tuple[str, str, Callable[[onnx.ModelProto], None], str]] = [
    ("FP32", "openvino", without("relu3_1"), "conv3_1"),
    ("FP32", "onnxruntime", tensor("conv4_2.weight", change_one), "conv4_2"),
    ("FP32", "ncnn", tensor("conv4_2.weight", change_one), "conv4_2"),
    ("FP32", "ncnn", tensor("conv3_2.bias", raise_one), "conv3_2"),
    ("FP32", "onnxruntime", tensor("mean_rgb", lambda values: np.add(values, 0.01, out=values)), "conv1_1"),
    ("FP32", "onnxruntime", node("pool2", ceil_mode=1), "pool2"),
    ("FP32", "onnxruntime", node("pool3", "AveragePool"), "pool3"),
    ("FP32", "openvino", node("conv2_1", pads=[0, 0, 2, 2]), "conv2_1"),
    ("FP32", "openvino", node("conv5_1", dilations=[2, 2], pads=[2, 2, 2, 2]), "conv5_1"),
    ("FP32", "onnxruntime", tensor("fc6.weight", lambda values: np.copyto(values, values[..., ::-1])), "fc6"),
    ("FP32", "onnxruntime", tensor("fc7.weight", reorder), "fc7"),
    ("FP32", "onnxruntime", tensor("fc8.weight", lambda values: np.copyto(values, np.nan)), "fc8"),
    ("FP32", "onnxruntime", node("softmax", axis=0), "softmax"),
    ("FP32 A-LRN with all outputs", "openvino", node("lrn1", size=3), "lrn1"),
    ("FP32 A-LRN with all outputs", "ncnn", node("lrn1", bias=1.0), "lrn1"),
    ("FP16", "onnxruntime", tensor("conv3_2.bias", raise_one), "conv3_2"),
    ("FP16", "ncnn", tensor("conv4_1.weight", change_one), "conv4_1"),
    ("FP16", "openvino", tensor("mean_rgb", lambda values: np.add(values, 3, out=values)), "conv1_1"),
    ("INT8 for TensorRT", "openvino", tensor("conv4_2.input.scale", times(0.25)), "conv4_2"),
    ("INT8 for TensorRT", "openvino", tensor("conv4_2.weight.scale", times(1.001)), "conv4_2"),
    ("INT8 for TensorRT", "onnxruntime", tensor("conv4_2.weight.integers", change_one), "conv4_2"),
    ("INT8 for ONNX Runtime", "onnxruntime", tensor("conv4_2.weight.integers", change_one), "conv4_2"),
    ("INT8 for ONNX Runtime", "onnxruntime", tensor("conv3_2.bias.integers", raise_one), "conv3_2"),
    ("INT8 for ONNX Runtime", "openvino", tensor("conv1_1.input.zero_point", lambda values: values.fill(0)), "conv1_1"),
    ("INT8 and FP16", "openvino", tensor("conv5_1.weight.integers", reorder), "conv5_1"),
    ("INT8 and FP16", "onnxruntime", tensor("conv2_1.input.scale", times(1.1)), "conv2_1"),
]


@pytest.mark.parametrize(
    ("kind", "runtime", "change", "layer"), FAULTS, ids=[f"{fault[3]}-{i}" for i, fault in enumerate(FAULTS)]
)
def test_a_runtime_that_computes_a_layer_otherwise_is_found_and_the_layer_named(
    kind: str,
    runtime: str,
    change: Callable[[onnx.ModelProto], None],
    layer: str,
    written: Callable[[str], Path],
    views: list[NamedView],
) -> None:
    pytest.importorskip(RUNTIMES[runtime].module)
    path = written(kind)
    proof, _simulation = prove_layers(path, views, runtime_of(path, runtime), pieces=damaged(path, change))
    assert not proof.passed
    assert layer in {failure.partition(":")[0] for failure in proof.failures}
    # Layers run alone on exact inputs, so the fault does not reach the layers behind it. Only a wrong scale or
    # zero-point is seen twice: also in the layer before, whose output it quantizes.
    assert len(proof.failures) <= (2 if ".input." in proof.failures[0] or "INT8" in kind else 1), proof.failures


def test_a_failure_says_how_large_it_is_in_which_runtime_and_view(
    written: Callable[[str], Path], views: list[NamedView]
) -> None:
    path = written("FP32")
    runtime = runtime_of(path, "onnxruntime")
    proof, _simulation = prove_layers(path, views, runtime, pieces=damaged(path, without("relu3_1")))
    assert proof.summary == "1 of 18 layers beyond their limits"
    (failure,) = proof.failures
    number = r"\d\.\de[-+]\d+"
    expected = rf"conv3_1: {number} of its largest value in onnxruntime [\d.]+, limit 1e-05 \((small|large)\); try"
    assert re.match(expected, failure), failure


def test_an_output_of_another_shape_is_a_failure(written: Callable[[str], Path], views: list[NamedView]) -> None:
    path = written("FP32")
    other = damaged(path, node("pool2", ceil_mode=1))
    (failure,) = prove_layers(path, views, runtime_of(path, "onnxruntime"), pieces=other)[0].failures
    assert failure == "pool2: the output is [1, 8, 25, 21]; expected [1, 8, 25, 20] (large)"


def test_a_layer_that_the_runtime_refuses_is_a_failure(written: Callable[[str], Path], views: list[NamedView]) -> None:
    path = written("FP32")
    runtime = runtime_of(path, "onnxruntime")

    def refusing(model: PieceModel) -> Piece:
        if model.name == "conv2_1":
            raise EngineError("it does not like this piece")
        return runtime.open(model)

    proof, simulation = prove_layers(path, views, PieceRuntime(open=refusing, version=runtime.version))
    expected = "conv2_1: it cannot run alone, so nothing is shown: it does not like this piece (large)"
    assert proof.failures == (expected,)
    assert simulation is not None


def test_a_file_that_cannot_be_evaluated_fails_with_the_node(
    written: Callable[[str], Path], views: list[NamedView]
) -> None:
    path = damaged(written("FP32"), node("relu3_1", "Tanh"))
    proof, simulation = prove_layers(path, views, runtime_of(path, "onnxruntime"))
    assert proof.failures == ("node relu3_1 (Tanh) is an operator that the exact evaluation does not know",)
    assert simulation is None


def test_the_figures_and_the_table_have_a_row_for_each_layer(
    written: Callable[[str], Path], views: list[NamedView]
) -> None:
    path = written("FP16")
    proof, _simulation = prove_layers(path, views, runtime_of(path, "onnxruntime"))
    (table,) = proof.tables
    assert table.columns == ("layer", "type", "error", "limit", "view")
    assert [row[0] for row in table.rows] == [layer["layer"] for layer in proof.figures["layers"]]
    assert table.rows[0][:2] == ("conv1_1", "Conv float16")
    assert json.loads(json.dumps(proof.figures)) == proof.figures
    assert len(proof.summary) <= 50
    assert re.match(r"\d+ layers on 2 views, at most \d+% of a limit", proof.summary)


def test_a_plan_has_no_layers_but_its_onnx_file_is_simulated(
    written: Callable[[str], Path], views: list[NamedView]
) -> None:
    path = written("FP16")
    proof = no_layers(path.with_suffix(".plan"), "tensorrt 10.16")
    assert not proof.shown
    assert not proof.failures
    alone = simulate(path, views)
    _proof, beside = prove_layers(path, views, runtime_of(path, "onnxruntime"))
    assert beside is not None
    for rounding, answers in beside.readings.items():
        np.testing.assert_array_equal(answers, alone.readings[rounding])


def test_bfloat16_has_limits_of_its_own(written: Callable[[str], Path], views: list[NamedView]) -> None:
    ov = pytest.importorskip("engines.ov")
    if not ov.computes_bf16():
        pytest.skip("this CPU does not compute in bfloat16")
    path = written("FP32")
    runtime = runtime_of(path, "openvino", allow_bf16=True)
    assert runtime.bf16
    proof, _simulation = prove_layers(path, views, runtime)
    assert proof.failures == ()
    strict, _simulation = prove_layers(path, views, replace(runtime, bf16=False))
    assert len(strict.failures) > 5


def test_every_limit_is_three_times_what_healthy_runtimes_reach() -> None:
    limits = [*CONVOLUTIONS.values(), INTEGER_CONVOLUTIONS, BFLOAT16, *OTHERS.values()]
    assert all(limit.limit >= 3 * limit.healthy for limit in limits)
    assert set(CONVOLUTIONS) == set(RUNTIMES)
