"""Fixtures that several test files share. torch is imported where it is used: tests of the core run without it."""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.data import DATA_VARIABLE, data_folder
from vgg_deploy.network.classes import numbered_classes
from vgg_deploy.network.manifest import PAPER_NORMALIZATION, Manifest, TrainScale
from vgg_deploy.network.spec import NetworkSpec

# Set before torch is imported. One thread computes narrow networks faster than several that wait for each other: ten
# times faster on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# With AMX, OpenVINO computes networks as narrow as these wrongly, and engines/ov.py refuses them. AMX is off, so that
# the tests are the same on every machine. tests/parity/test_shape_order.py switches it on.
os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")

# Some tests import onnxruntime before `engines.ort`, which switches this off.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# Commands in tests should run as they do for users. Output is buffered, and Ctrl-C is not ignored, as a shell's
# background job ignores it.
os.environ.pop("PYTHONUNBUFFERED", None)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def make_spec(configuration: str = "A", **changes: Any) -> NetworkSpec:
    """A network of Table 1 with a thousandth of the weights: 4 to 32 channels, crop 64, FC width 24, 5 classes."""
    return NetworkSpec(configuration, **{"width_divisor": 16, "crop": 64, "fc_width": 24, "classes": 5, **changes})


def make_manifest(spec: NetworkSpec, **changes: Any) -> Manifest:
    """A checkpoint's manifest for `spec`: numbered classes, the paper's normalization, S at the crop times 8/7."""
    scale = spec.crop * 8 // 7
    fields: dict[str, Any] = {"normalization": PAPER_NORMALIZATION, "train_scale": TrainScale(scale, scale), **changes}
    return Manifest(fields.pop("classes", numbered_classes(spec.classes)), spec, **fields)


def make_weights(spec: NetworkSpec, seed: int = 0) -> dict[str, Any]:
    """Random weights in FC form that keep the signal's size from layer to layer, and class scores of a few units.

    He's scaling; fc6 brings activations of pixel size (hundreds, where LRN acts) down to units, as trained networks do.
    """
    import torch

    from train.network.model import fc_weight_shape

    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for layer in spec.weight_layers:
        shape = fc_weight_shape(layer)
        gain = {"fc6": 1 / 100, "fc8": 2.0}.get(layer.name, 1.0)
        std = gain * math.sqrt(2 / math.prod(shape[1:]))
        weights[f"{layer.name}.weight"] = torch.randn(shape, generator=generator) * std
        size = 5.0 if layer.kind == "conv" else 0.1
        weights[f"{layer.name}.bias"] = torch.randn(layer.out_channels, generator=generator) * size
    return weights


@pytest.fixture(scope="session")
def narrow_spec() -> Callable[..., NetworkSpec]:
    """`narrow_spec(configuration, **fields)`: see `make_spec`."""
    return make_spec


@pytest.fixture(scope="session")
def manifest_for() -> Callable[..., Manifest]:
    """`manifest_for(spec, **fields)`: see `make_manifest`."""
    return make_manifest


@pytest.fixture(scope="session")
def random_weights() -> Callable[..., dict[str, Any]]:
    """`random_weights(spec, seed=0)`: see `make_weights`. Skips where torch is absent."""
    pytest.importorskip("torch")
    return make_weights


@pytest.fixture
def narrow_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """`narrow_checkpoint(configuration, seed=0, manifest={}, **spec fields)` -> our .safetensors file in tmp_path."""
    pytest.importorskip("torch")
    from train.network.checkpoint import save

    def write(configuration: str = "A", seed: int = 0, manifest: dict[str, Any] | None = None, **fields: Any) -> Path:
        spec = make_spec(configuration, **fields)
        path = tmp_path / f"{spec.common_name}-{seed}.safetensors"
        save(path, make_weights(spec, seed), make_manifest(spec, **(manifest or {})))
        return path

    return write


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def vgg_deploy_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """`vgg_deploy_command("info", "--arch", "E")` -> `Finished`; runs the command line in this process."""
    from vgg_deploy.cli import cli
    from vgg_deploy.cli.entry import run_command

    def run(*arguments: str) -> Finished:
        monkeypatch.setattr(sys, "argv", ["vgg-deploy", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            run_command(cli, "vgg-deploy")
        written = capsys.readouterr()
        return Finished(int(stop.value.code or 0), written.out, written.err)

    return run


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real images and weights: $VGG_DEPLOY_TEST_DATA, or ../shared/data."""
    folder = data_folder()
    if folder is None:
        pytest.skip(f"there is no ../shared/data, and {DATA_VARIABLE} names no other folder of real images and weights")
    if not folder.is_dir():
        pytest.skip(f"{DATA_VARIABLE} names {folder}, which is not a folder")
    return folder
