"""Our files work in NVIDIA's Polygraphy, a tool for checking and debugging models. Running a plan needs a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.trt.build import build
from engines.trt.build_options import BuildOptions
from engines.trt.gpu import compute_capability

pytestmark = pytest.mark.usefixtures("rtx")
pytest.importorskip("polygraphy", reason="polygraphy is not installed")

PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "fp16": {"half": True},
    "int8": {"int8": True},
    "int8 and fp16": {"int8": True, "half": True},
}
Polygraphy = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def polygraphy(tmp_path: Path) -> Polygraphy:
    """`polygraphy("inspect", "model", path)` -> the finished process, in tmp_path, with TensorRT-RTX as TensorRT."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from polygraphy.tools import main; main()", *map(str, arguments)]
        environment = {**os.environ, "POLYGRAPHY_USE_TENSORRT_RTX": "1"}
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
        )

    return run


@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_finds_our_files_fully_supported(precision: str, model: Callable[..., Path], polygraphy: Polygraphy) -> None:
    done = polygraphy("inspect", "capability", model("A-LRN", **PRECISIONS[precision], score_map=True, features=True))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Graph is fully supported by TensorRT" in done.stdout


def test_it_refuses_what_our_preflight_refuses(foreign: Any, polygraphy: Polygraphy, tmp_path: Path) -> None:
    foreign.insert("Det", "determinant", before="scores")
    done = polygraphy("inspect", "capability", foreign.save(tmp_path))
    assert "fully supported" not in done.stdout
    assert "determinant" in done.stdout


def test_it_reads_our_files_and_their_layers(model: Callable[..., Path], polygraphy: Polygraphy) -> None:
    done = polygraphy("inspect", "model", model(int8=True, half=True), "--show", "layers")
    assert done.returncode == 0, done.stderr
    assert "images [dtype=uint8, shape=('batch', 'height', 'width', 3)]" in done.stdout
    assert "conv5_2" in done.stdout


def test_it_builds_plans_of_our_files(model: Callable[..., Path], polygraphy: Polygraphy, tmp_path: Path) -> None:
    shapes = [f"--trt-{end}-shapes=images:{shape}" for end, shape in PROFILE.items()]
    path = model(int8=True, half=True)
    done = polygraphy("convert", path, "--convert-to", "trt", "--strongly-typed", *shapes, "-o", "theirs.plan")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "theirs.plan").stat().st_size > 1000


PROFILE = {"min": "[1,64,64,3]", "opt": "[2,64,85,3]", "max": "[2,128,128,3]"}


def test_it_runs_our_files_in_onnx_runtime(model: Callable[..., Path], polygraphy: Polygraphy) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    done = polygraphy("run", model(int8=True), "--onnxrt", "--input-shapes", "images:[2,64,80,3]")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "probabilities [dtype=float32, shape=(2, 5)]" in done.stdout


@pytest.mark.gpu
def test_it_loads_our_plans(model: Callable[..., Path], polygraphy: Polygraphy) -> None:
    capability = compute_capability()
    if capability is None or capability[0] not in (8, 12):
        pytest.skip("TensorRT-RTX loads plans on GPUs of 8.x and 12.x only")
    plan = build(model(half=True), options=BuildOptions(backend="tensorrt-rtx", scales=(64,))).path
    done = polygraphy("inspect", "model", plan, "--model-type", "engine", "--show", "layers")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "conv1_1" in done.stdout
