"""The choice between TensorRT and TensorRT-RTX, and what each needs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.trt import backend as backends
from engines.trt.backend import Backend, Messages
from engines.trt.build import build
from engines.trt.build_options import BuildOptions
from vgg_deploy.errors import BuildError, MissingDependencyError

pytestmark = pytest.mark.usefixtures("rtx", "without_gpu")

MakeModel = Callable[..., Path]
SMALL = BuildOptions(scales=(64,), max_batch=2)


def test_without_any_package_the_extra_is_named(model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.trt.backend.installed", tuple)
    with pytest.raises(MissingDependencyError, match=r"pip install '\.\[rtx\]'"):
        build(model())


def test_tensorrt_needs_a_gpu(model: MakeModel, rtx: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.trt.build.choose", lambda *_: Backend("tensorrt", rtx.trt))
    with pytest.raises(
        BuildError, match="CUDA shows none here: build on a machine with that GPU, or give --backend tensorrt-rtx"
    ):
        build(model())


def test_a_requested_backend_that_is_not_installed_names_its_extra(model: MakeModel) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("tensorrt is installed")
    with pytest.raises(MissingDependencyError, match=r"'\.\[gpu\]'"):
        build(model(), options=BuildOptions(backend="tensorrt"))


@pytest.mark.parametrize(
    ("installed", "gpu", "chosen"),
    [
        (("tensorrt", "tensorrt-rtx"), (9, 0), "tensorrt"),
        (("tensorrt", "tensorrt-rtx"), (7, 0), "tensorrt-rtx"),
        (("tensorrt", "tensorrt-rtx"), None, "tensorrt-rtx"),
        (("tensorrt",), None, "tensorrt"),
        (("tensorrt-rtx",), (8, 9), "tensorrt-rtx"),
    ],
)
def test_if_both_are_installed_tensorrt_is_chosen_if_it_supports_the_gpu(
    installed: tuple[str, ...], gpu: tuple[int, int] | None, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "installed", lambda: installed)
    monkeypatch.setattr(backends, "load", lambda name: Backend(name, None))
    assert backends.choose(None, gpu).name == chosen
    assert backends.choose("tensorrt", gpu).name == "tensorrt"


def test_if_tensorrt_returns_no_builder_the_error_is_one_line(
    model: MakeModel, rtx: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(_logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(rtx.trt, "Builder", none)
    with pytest.raises(BuildError, match="cannot build here: TensorRT gives no reason"):
        build(model())


def test_a_missing_driver_is_the_reason_only_if_it_is_the_only_error() -> None:
    noise = "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime"
    assert Messages(["profile 1 is bad", noise]).reason == "profile 1 is bad"
    assert Messages([noise]).reason == noise
