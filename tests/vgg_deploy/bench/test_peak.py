"""The matrix-multiply peak: small products in a runtime, and the notice if no runtime can compute them."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines import open_engine, open_with
from vgg_deploy.bench.peak import Peak, PeakProbe, arithmetic, open_best_probe
from vgg_deploy.bench.product import Product, product_model
from vgg_deploy.errors import EngineError
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.classes import numbered_classes
from vgg_deploy.network.manifest import Manifest, TrainScale
from vgg_deploy.network.precision import Precision, Quantization
from vgg_deploy.testing import FakeEngine

SMALL = Product(16, 8, 2)
ONE_THREAD = EngineOptions(threads=1)


@pytest.fixture
def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "openvino" else find(name, *rest)
    )


def test_the_work_of_a_product_is_that_of_its_convolutions() -> None:
    # 64 positions: from RGB to 16 channels, then twice from 16 to 16; two operations each.
    assert SMALL.gflop == pytest.approx(2 * 64 * (3 * 16 + 2 * 16 * 16) / 1e9)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8"])
def test_a_product_is_a_valid_model_that_computes_in_its_precision(precision: str) -> None:
    model = product_model(SMALL, precision)
    onnx.checker.check_model(model, full_check=True)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"][:-1]
    assert len(convolutions) == 1 + SMALL.depth
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    readers = {node.output[0]: node for node in model.graph.node}
    for node in convolutions:
        if precision != "int8":
            kind = {"float16": np.float16}.get(precision, np.float32)
            assert onnx.numpy_helper.to_array(weights[node.input[1]]).dtype == kind
            continue
        assert [readers[name].op_type for name in node.input] == ["DequantizeLinear"] * 2
        integers, scales, zeros = (onnx.numpy_helper.to_array(weights[name]) for name in readers[node.input[1]].input)
        assert integers.dtype == np.int8
        assert np.abs(integers.astype(int)).max() == 127
        assert scales.shape == (16,)
        assert not zeros.any()


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_quantized_or_not_a_product_answers_alike(precision: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    answers = []
    for kind in ("float32", precision):
        onnx.save(product_model(SMALL, kind), tmp_path / "model.onnx")
        with open_engine(tmp_path / "model.onnx", runtime="onnxruntime", labels="a\nb", threads=1) as engine:
            images = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
            answers.append(engine.run(images).probabilities)
    assert np.abs(answers[0] - answers[1]).max() < 0.05
    assert answers[0].min() > 0.001  # activations keep their size: none overflows, fades or saturates


def test_the_peak_is_computed_from_the_measured_times() -> None:
    pytest.importorskip("openvino")
    probe = open_best_probe(open_with, "int8", ONE_THREAD, products=(SMALL,))
    with probe:
        peak = Peak.merged([probe(once=True) for _ in range(3)])
    assert (peak.precision, peak.product, len(peak.seconds)) == ("int8", SMALL, 3)
    assert peak.runtime.startswith("openvino")
    assert peak.gflops_per_s == pytest.approx(SMALL.gflop / sorted(peak.seconds)[1])
    assert peak.highest_gflops_per_s == pytest.approx(SMALL.gflop / min(peak.seconds))


def test_the_faster_runtime_counts() -> None:
    manifest = Manifest(numbered_classes(2), None, None, TrainScale(8, 8))

    def opened(_path: Path, options: EngineOptions) -> FakeEngine:
        engine = FakeEngine(manifest, latency_s=0.05 if options.runtime == "openvino" else 0.0)
        engine.info = dataclasses.replace(engine.info, runtime=options.runtime)
        return engine

    probe = open_best_probe(opened, "float32", ONE_THREAD, products=(SMALL,))
    with probe:
        assert probe.runtime == "onnxruntime"


@pytest.mark.usefixtures("without_openvino")
def test_without_openvino_there_is_no_peak_in_int8_and_a_notice_says_so() -> None:
    notices: list[str] = []
    assert open_best_probe(open_with, "int8", ONE_THREAD, products=(SMALL,), say=notices.append) is None
    assert len(notices) == 1
    assert notices[0].startswith("the peak in int8 is unknown: ")
    assert "openvino, which is not installed" in notices[0]


@pytest.mark.usefixtures("without_openvino")
def test_without_openvino_floating_point_is_measured_in_onnx_runtime() -> None:
    pytest.importorskip("onnxruntime")
    probe = open_best_probe(open_with, "float32", ONE_THREAD, products=(SMALL,))
    with probe:
        assert probe.runtime.startswith("onnxruntime")


def test_a_cpu_without_bfloat16_has_no_peak_in_it() -> None:
    manifest = Manifest(numbered_classes(2), None, None, TrainScale(8, 8))
    engine = FakeEngine(manifest)
    notices: list[str] = []
    assert (
        open_best_probe(lambda _path, _options: engine, "bfloat16", ONE_THREAD, products=(SMALL,), say=notices.append)
        is None
    )
    assert notices == ["the peak in bfloat16 is unknown: this CPU does not compute in bfloat16"]
    assert engine.closed


def test_a_runtime_that_fails_gives_no_peak_and_its_engines_are_closed() -> None:
    manifest = Manifest(numbered_classes(2), None, None, TrainScale(8, 8))
    opened: list[FakeEngine] = []

    def open_one(_path: Path, _options: EngineOptions) -> FakeEngine:
        if opened:
            raise EngineError("out of luck")
        opened.append(FakeEngine(manifest))
        return opened[0]

    probe = open_best_probe(open_one, "int8", ONE_THREAD, products=(SMALL, Product(32, 8)))
    assert probe.product == SMALL
    probe.close()
    assert opened[0].closed


def test_a_precision_that_no_runtime_computes_on_this_device_has_no_peak() -> None:
    notices: list[str] = []
    assert open_best_probe(open_with, "float16", ONE_THREAD, say=notices.append) is None
    assert notices == ["the peak in float16 is unknown: no runtime here supports it on cpu"]


def test_a_probe_leaves_no_file_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    manifest = Manifest(numbered_classes(2), None, None, TrainScale(8, 8))
    with PeakProbe(lambda _path, _options: FakeEngine(manifest), SMALL, "float32") as probe:
        assert list(tmp_path.rglob("*.onnx"))
        assert len(probe(once=True).seconds) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("precision", "device", "bf16", "expected"),
    [
        ("float32", "cpu", False, "float32"),
        ("float16", "cpu", False, "float32"),
        ("float16", "cuda:0", False, "float16"),
        ("float32", "cpu", True, "bfloat16"),
        ("int8", "cpu", True, "int8"),
    ],
)
def test_the_arithmetic_is_the_one_that_really_computes(
    precision: str,
    device: str,
    bf16: bool,
    expected: str,
    manifest_for: Callable[..., Manifest],
    narrow_spec: Callable[..., object],
) -> None:
    declared = Precision() if precision == "float32" else Precision("float16", range="measured")
    if precision == "int8":
        quantization = Quantization("tensorrt", ("conv1_1",), (), "minmax", {"conv1_1": (0.0, 1.0)}, (), (64,), False)
        declared = Precision(quantization=quantization)
    info = FakeEngine(manifest_for(narrow_spec(), precision=declared)).info
    assert arithmetic(dataclasses.replace(info, device=device, bf16=bf16)) == expected
