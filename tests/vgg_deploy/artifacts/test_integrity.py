"""A file is what its manifest says: healthy files of every kind pass, and every change is found and named."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vgg_deploy.artifacts.integrity import examine
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.network.manifest import TORCHVISION_NORMALIZATION
from vgg_deploy.network.precision import Quantization
from vgg_deploy.network.spec import NetworkSpec

pytest.importorskip("torch")


def quantized(spec: NetworkSpec, target: str, kept: tuple[str, ...] = ()) -> Quantization:
    """INT8 in all layers but `kept` (for ONNX Runtime, fc8 too), with made-up ranges."""
    names = [layer.name for layer in spec.weight_layers]
    if target == "onnxruntime":
        kept = (*kept, "fc8")
    ranges = {name: (0.0, 3.0 + index) for index, name in enumerate([*names, "lrn1", "spatial_mean"])}
    ranges["conv1_1"] = (-123.68, 151.061)
    layers = tuple(name for name in names if name not in kept)
    return Quantization(target, layers, tuple(kept), "minmax", ranges, (), (73,), True)


@pytest.fixture
def file(narrow_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """`file("A", target=None, kept=(), checkpoint={...}, **options of export)` -> an exported ONNX file in tmp_path."""
    from export import export
    from train.network.checkpoint import read

    def write(
        configuration: str = "A",
        target: str | None = None,
        kept: tuple[str, ...] = (),
        checkpoint: dict[str, Any] | None = None,
        **options: Any,
    ) -> Path:
        weights = read(narrow_checkpoint(configuration, **(checkpoint or {})))
        spec = weights.manifest.spec
        assert spec is not None
        if "largest" in options:  # names of the layers that overflow
            layers = {layer.name: 1.0 for layer in spec.weight_layers}
            options["largest"] = {**layers, **dict.fromkeys(options["largest"], 1e6)}
        quantization = None if target is None else quantized(spec, target, kept)
        return export(weights, tmp_path / "model.onnx", quantization=quantization, **options).path

    return write


OUTPUTS = [
    {"score_map": score_map, "features": features} for score_map, features in itertools.product((False, True), repeat=2)
]
KINDS: list[dict[str, Any]] = [
    {"dynamic": True},
    {"half": True},
    {"target": "tensorrt"},
    {"target": "tensorrt", "half": True, "kept": ("conv1_1", "fc7", "fc8")},
    {"target": "onnxruntime"},
    {"target": "onnxruntime", "kept": ("conv3_1", "fc6")},
    {"target": "onnxruntime", "kept": ("conv2_1", "fc7")},
    {"half": True, "fine": True, "external_data": True},
    {"checkpoint": {"manifest": {"normalization": TORCHVISION_NORMALIZATION}}},
    {"half": True, "largest": ("conv2_1", "conv4_2", "fc7")},
    {"half": True, "largest": ("conv3_2", "fc8"), "target": "tensorrt", "kept": ("conv3_2",)},
]


@pytest.mark.parametrize("configuration", ["A", "A-LRN", "C"])
@pytest.mark.parametrize(
    "outputs", OUTPUTS, ids=lambda outputs: "+".join(k for k, v in outputs.items() if v) or "plain"
)
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind))
def test_healthy_files_of_every_kind_pass(
    kind: dict[str, Any], outputs: dict[str, bool], configuration: str, file: Callable[..., Path]
) -> None:
    path = file(configuration, **kind, **outputs)
    examined = examine(path)
    assert examined.contradictions == ()
    assert examined.recorded
    assert examined.tensors == len(OnnxFile(path).tensors)
