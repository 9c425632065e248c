"""OpenVINO: what differs from other engines. test_contract.py has the rest."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vgg_deploy.errors import EngineError
from vgg_deploy.network.tensors import Images

if importlib.util.find_spec("openvino") is None:
    pytest.skip("needs openvino", allow_module_level=True)

from engines import open_engine
from engines.ov import availability, openvino

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The properties with which models are compiled, and the precision that they then report."""
    properties: list[dict[str, Any]] = []

    class RecordingCore(openvino.Core):  # type: ignore[misc]
        def compile_model(self, model: Any, device: str, config: dict[str, Any]) -> Any:
            compiled = super().compile_model(model, device, config)
            precision = compiled.get_property("INFERENCE_PRECISION_HINT")
            properties.append({**config, "device": device, "precision": precision.to_string()})
            return compiled

    monkeypatch.setattr(openvino, "Core", RecordingCore)
    return properties


def test_it_computes_in_fp32_though_its_default_may_be_bf16(tiny_model: Path, settings: list[dict[str, Any]]) -> None:
    with open_engine(tiny_model, runtime="openvino"):
        assert settings[0]["device"] == "CPU"
        assert settings[0]["INFERENCE_PRECISION_HINT"] == "f32"
        assert settings[0]["precision"] in ("f32", "float32")


def test_its_posteriors_are_those_of_onnx_runtime(tiny_model: Path, images: Images) -> None:
    pytest.importorskip("onnxruntime")
    with open_engine(tiny_model, runtime="openvino") as ov, open_engine(tiny_model, runtime="onnxruntime") as ort:
        for batch in (images, images[:1, :32, :32], images[:3, :, :33]):
            received, expected = ov.run(batch), ort.run(batch)
            np.testing.assert_allclose(received.probabilities, expected.probabilities, rtol=0, atol=1e-5)
            for name in ("score_map", "features"):
                wanted = getattr(expected, name)
                np.testing.assert_allclose(getattr(received, name), wanted, atol=1e-5 * np.abs(wanted).max())


def test_requests_are_streams_that_share_the_threads(tiny_model: Path, settings: list[dict[str, Any]]) -> None:
    with open_engine(tiny_model, runtime="openvino", threads=1):
        assert settings.pop()["INFERENCE_NUM_THREADS"] == 1
    with open_engine(tiny_model, runtime="openvino", threads=2, requests=2) as engine:
        assert (settings[0]["NUM_STREAMS"], settings[0]["INFERENCE_NUM_THREADS"]) == (2, 2)
        assert engine.info.concurrency == 2


def test_bfloat16_is_used_only_if_it_is_allowed_and_is_reported(
    tiny_model: Path, settings: list[dict[str, Any]], images: Images
) -> None:
    able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    with open_engine(tiny_model, runtime="openvino", allow_bf16=True) as engine:
        assert settings[0]["INFERENCE_PRECISION_HINT"] == ("bf16" if able else "f32")
        assert engine.info.bf16 is able
        assert engine.info.lowest == ("float16" if able else "float32")
        assert ("bfloat16" in engine.info.precision) is able
        assert ("this CPU does not compute in bfloat16: --allow-bf16 has no effect" in engine.info.notices) is not able
        lower = engine.run(images).probabilities
    with open_engine(tiny_model, runtime="openvino") as engine:
        full = engine.run(images).probabilities
        assert not engine.info.bf16
        assert engine.info.lowest == "float32"
    assert bool(np.abs(lower - full).max() > 0) is able


def test_on_a_cpu_without_bfloat16_it_computes_fp32_and_says_so(
    tiny_model: Path, settings: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_names: ["FP32", "INT8"])
    open_engine(tiny_model, runtime="openvino", allow_bf16=True).close()
    assert settings[0]["INFERENCE_PRECISION_HINT"] == "f32"
    with open_engine(tiny_model) as plain, open_engine(tiny_model, allow_bf16=True) as engine:
        assert engine.info.runtime == plain.info.runtime
        assert engine.info.notices == (
            *plain.info.notices,
            "this CPU does not compute in bfloat16: --allow-bf16 has no effect",
        )


def test_it_answers_again_after_a_failure(tiny_model: Path, images: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_engine(tiny_model, runtime="openvino") as engine:
        expected = engine.run(images).probabilities
        with monkeypatch.context() as patch:
            patch.setattr(np, "ascontiguousarray", lambda _images: "no array")
            with pytest.raises(EngineError, match=r"tiny\.onnx failed on 8 x 45 x 70 x 3: openvino \S+: "):
                engine.run(images)
        np.testing.assert_array_equal(engine.run(images).probabilities, expected)


def test_availability_names_the_version() -> None:
    assert openvino.__version__.startswith(availability("cpu").removeprefix("openvino "))


def test_nothing_is_sent_and_nothing_is_written_to_the_home_folder(tiny_model: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from engines import open_engine; open_engine(sys.argv[1], runtime='openvino').close();"
        "telemetry = [name for name in sys.modules if 'telemetry' in name.partition('.')[0]];"
        "print([*telemetry, *('fork' for name in sys.modules if name == 'multiprocessing.popen_fork')])"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "LOCALAPPDATA": str(tmp_path)}
    environment.pop("CI", None)  # openvino sends nothing if it is set
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_model)],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_the_telemetry_package_is_blocked_only_while_openvino_is_imported() -> None:
    assert sys.modules.get("openvino_telemetry", "absent") is not None  # None would make every later import fail
