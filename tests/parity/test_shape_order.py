"""An answer does not depend on the sizes of earlier images."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from engines import RUNTIMES, amx, open_engine
from vgg_deploy.cores import usable_cores
from vgg_deploy.errors import UnsupportedModelError
from vgg_deploy.network.precision import TARGETS, Quantization
from vgg_deploy.network.tensors import Floats, Images

pytest.importorskip("torch")

from export import export
from export.calibrate import measure
from export.int8 import Variants
from train.network.checkpoint import read

ROOT = Path(__file__).parents[2]
LARGE_FIRST = ((224, 224), (132, 70), (92, 64), (64, 64), (300, 200), (64, 100))
QUANTIZED = [name for name, runtime in RUNTIMES.items() if runtime.quantized]


def noise(height: int, width: int) -> Images:
    chance = np.random.default_rng(height * width)
    return chance.integers(0, 256, (1, height, width, 3), dtype=np.uint8)


@pytest.fixture
def int8_model(narrow_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """`int8_model(target, width_divisor=8, dynamic=True)` -> an INT8 file of configuration A."""

    def make(target: str, *, width_divisor: int = 8, dynamic: bool = True) -> Path:
        weights = narrow_checkpoint("A", width_divisor=width_divisor, fc_width=64)
        with Variants(read(weights), open_engine) as variants, variants.open(observed=True) as observed:
            ranges = measure(observed.run, iter([noise(96, 80), noise(64, 64)]), "minmax").spans
        layers = tuple(layer for layer in ranges if layer != "spatial_mean")
        layers = layers if target == "tensorrt" else layers[:-1]
        quantization = Quantization(target, layers, (), "minmax", ranges, (), (64,), False)
        path = tmp_path / f"{target}-{width_divisor}-{dynamic}.onnx"
        export(read(weights), path, dynamic=dynamic, quantization=quantization)
        return path

    return make


def answers(path: Path, runtime: str) -> tuple[Floats, Floats]:
    """Posteriors of one engine for all sizes in turn, and of an engine of its own for each size: [sizes, classes]."""
    with open_engine(path, runtime=runtime, threads=1) as engine:
        in_turn = [engine.run(noise(*size)).probabilities[0] for size in LARGE_FIRST]
    alone = []
    for size in LARGE_FIRST:
        with open_engine(path, runtime=runtime, threads=1) as engine:
            alone.append(engine.run(noise(*size)).probabilities[0])
    return np.stack(in_turn), np.stack(alone)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("runtime", QUANTIZED)
def test_an_int8_answer_is_the_same_after_larger_images(
    runtime: str, target: str, int8_model: Callable[..., Path]
) -> None:
    pytest.importorskip(RUNTIMES[runtime].module)
    in_turn, alone = answers(int8_model(target), runtime)
    np.testing.assert_allclose(in_turn, alone, rtol=0, atol=1e-5)


def test_with_amx_an_int8_answer_of_a_wider_network_is_the_same_after_larger_images(
    int8_model: Callable[..., Path],
) -> None:
    pytest.importorskip("openvino")
    script = (
        "import sys; from pathlib import Path; from tests.parity.test_shape_order import answers; "
        "in_turn, alone = answers(Path(sys.argv[1]), 'openvino'); print(abs(in_turn - alone).max())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(int8_model("tensorrt", width_divisor=4))],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert float(done.stdout) < 1e-5


def unproved_layers(path: Path) -> list[str]:
    """The layers that fail proof 2 in OpenVINO, on a large image before a small one, if no file is refused."""
    import engines.ov
    from engines import open_piece
    from export.proof.layers.proof import PieceRuntime, prove_layers
    from vgg_deploy.evaluation.parity import NamedView
    from vgg_deploy.inference.engine_options import EngineOptions

    options = EngineOptions(runtime="openvino")  # with one thread, single layers are right
    runtime = PieceRuntime(
        open=lambda model: open_piece(model, options, "openvino"), version=engines.ov.availability("cpu")
    )
    views = [NamedView(f"{width}x{height}", noise(height, width)[0]) for height, width in LARGE_FIRST[3::-1]]
    proof, _simulation = prove_layers(path, views, runtime)
    return [failure.partition(":")[0] for failure in proof.failures]


def test_proof_2_finds_the_layers_that_openvino_computes_wrongly_with_amx(int8_model: Callable[..., Path]) -> None:
    pytest.importorskip("openvino")
    cpu = Path("/proc/cpuinfo")
    if not cpu.exists() or "amx_int8" not in cpu.read_text() or usable_cores() < 2:
        pytest.skip("this takes a CPU with AMX and two cores")
    script = (
        "import sys; from pathlib import Path; from tests.parity.test_shape_order import unproved_layers; "
        "print(unproved_layers(Path(sys.argv[1])))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    environment |= {"PYTHONPATH": str(ROOT)}
    found = {}
    for limit in ("ALL", "AVX512_CORE_BF16"):
        done = subprocess.run(
            [sys.executable, "-c", script, str(int8_model("tensorrt"))],
            env={**environment, "ONEDNN_MAX_CPU_ISA": limit},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        found[limit] = done.stdout.strip()
    assert found == {"ALL": "['fc6', 'fc7']", "AVX512_CORE_BF16": "[]"}


def test_openvino_refuses_files_that_it_computes_wrongly_with_amx_and_auto_chooses_another_runtime(
    int8_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("onnxruntime")
    narrow = int8_model("tensorrt")
    monkeypatch.setattr("engines.ov.amx_in_use", lambda: True)
    with pytest.raises(UnsupportedModelError, match="fewer than 16 channels give wrong answers in OpenVINO"):
        open_engine(narrow, runtime="openvino")
    with open_engine(narrow) as engine:
        assert engine.info.runtime.startswith("onnxruntime")
        assert any("CPUs with AMX" in notice for notice in engine.info.notices)


def test_openvino_accepts_int8_files_that_amx_computes_correctly(
    int8_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr("engines.ov.amx_in_use", lambda: True)
    for path in (
        int8_model("onnxruntime"),
        int8_model("tensorrt", width_divisor=4),
        int8_model("tensorrt", dynamic=False),
    ):
        with open_engine(path, runtime="openvino") as engine:
            assert engine.info.runtime.startswith("openvino")


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, True), ("ALL", True), ("AVX512_CORE_AMX", True), ("AVX512_CORE_BF16", False)]
)
def test_a_limit_on_instructions_turns_amx_off(
    limit: str | None, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(amx.Path, "read_text", lambda *_args, **_kwargs: "flags : avx2 amx_int8")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    if limit is not None:
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    assert amx.amx_in_use() is expected
