"""Fixtures for the tests of export and verify: narrow networks as ONNX files, and pictures to run them on."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from export.graph import build_graph
from vgg_deploy.artifacts.export_options import GraphOptions
from vgg_deploy.network.manifest import PAPER_NORMALIZATION, Normalization
from vgg_deploy.network.spec import NetworkSpec


@pytest.fixture(scope="session")
def numpy_weights() -> Callable[..., dict[str, np.ndarray]]:
    """`numpy_weights(spec)` -> small random float32 weights in FC form, made without torch."""

    def make(spec: NetworkSpec, seed: int = 0) -> dict[str, np.ndarray]:
        chance = np.random.default_rng(seed)
        weights = {}
        for layer in spec.weight_layers:
            inputs = math.prod(layer.weight_shape[1:])
            shape = (layer.out_channels, inputs) if layer.kind == "fc" else layer.weight_shape
            weights[f"{layer.name}.weight"] = chance.normal(0, math.sqrt(2 / inputs), shape).astype(np.float32)
            weights[f"{layer.name}.bias"] = chance.normal(0, 0.1, layer.out_channels).astype(np.float32)
        return weights

    return make


@pytest.fixture(scope="session")
def graph(
    narrow_spec: Callable[..., NetworkSpec], numpy_weights: Callable[..., dict[str, np.ndarray]]
) -> Callable[..., onnx.ModelProto]:
    """`graph(configuration, normalization=..., spec={...}, **GraphOptions fields)` -> the model, made without torch."""

    def make(
        configuration: str = "A",
        *,
        normalization: Normalization = PAPER_NORMALIZATION,
        spec: dict[str, Any] | None = None,
        **options: Any,
    ) -> onnx.ModelProto:
        network = narrow_spec(configuration, **(spec or {}))
        return build_graph(network, numpy_weights(network), normalization, GraphOptions(**options))

    return make


@pytest.fixture
def exported(narrow_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., Any]:
    """`exported("A", name="x.onnx", checkpoint={...}, change=..., **options of export)` -> `ExportResult`, in tmp_path.

    `checkpoint` has arguments of `narrow_checkpoint`; `change(weights)` may alter the weights in place, and
    `enlarged=(factor, *layers)` is such a change.
    """
    from export import export
    from train.network.checkpoint import read

    def write(
        configuration: str = "A",
        name: str = "model.onnx",
        *,
        checkpoint: dict[str, Any] | None = None,
        change: Callable[[dict[str, Any]], None] | None = None,
        enlarged: tuple[Any, ...] = (),
        **options: Any,
    ) -> Any:
        weights = read(narrow_checkpoint(configuration, **(checkpoint or {})))
        change = enlarge(*enlarged) if enlarged else change
        if change is not None:
            changed = {name: tensor.clone() for name, tensor in weights.weights.items()}
            change(changed)
            weights = dataclasses.replace(weights, weights=changed)
        return export(weights, tmp_path / name, **options)

    return write


@pytest.fixture
def written(exported: Callable[..., Any], narrow_spec: Callable[..., NetworkSpec]) -> Callable[[str], Path]:
    """`written(kind)` -> a narrow file of a kind from `tests.export.file_kinds`, in tmp_path."""
    from tests.export.file_kinds import FILES, quantization

    def write(kind: str) -> Path:
        options = {"configuration": "A", **FILES[kind]}
        configuration, target, kept = options.pop("configuration"), options.pop("target", None), options.pop("kept", "")
        if target is not None:
            options["quantization"] = quantization(target, narrow_spec(configuration), kept)
        path: Path = exported(configuration, f"{kind}.onnx".replace(" ", "-"), dynamic=True, **options).path
        return path

    return write


def enlarge(factor: float, *layers: str) -> Callable[[dict[str, Any]], None]:
    """Multiplies the outputs of these layers, and divides again in the layer after each."""

    def change(weights: dict[str, Any]) -> None:
        names = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
        for layer in layers:
            weights[f"{layer}.weight"] *= factor
            weights[f"{layer}.bias"] *= factor
            weights[f"{names[names.index(layer) + 1]}.weight"] /= factor

    return change


@pytest.fixture
def enlarged_checkpoint(narrow_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """`enlarged_checkpoint(factor, *layers)` -> the narrow checkpoint of A with larger outputs of these layers."""
    from train.network.checkpoint import read, save

    def write(factor: float, *layers: str) -> Path:
        checkpoint = read(narrow_checkpoint("A"))
        weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
        enlarge(factor, *layers)(weights)
        path = tmp_path / "enlarged.safetensors"
        save(path, weights, checkpoint.manifest)
        return path

    return write


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 [height, width, 3]: patches of colour that blend into each other, with some noise."""
    chance = np.random.default_rng(seed)
    patches = chance.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(patches).resize((width, height), Image.Resampling.BILINEAR)).astype(np.int16)
    return np.clip(smooth + chance.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def batch() -> Callable[..., np.ndarray]:
    """`batch(n, height, width, seed=0)` -> uint8 [n, height, width, 3], n different images."""
    return lambda n, height, width, seed=0: np.stack([picture(height, width, 100 * seed + index) for index in range(n)])


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of four pictures: upright, flat, square and small."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, (height, width) in enumerate(((90, 130), (150, 80), (100, 100), (30, 40))):
        Image.fromarray(picture(height, width, number)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def made(narrow_checkpoint: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[Path, Path]]:
    """`made("A", int8="tensorrt", kept=(), checkpoint={}, **options of export)` -> ONNX file and its checkpoint."""
    from export import export
    from tests.export.edited import quantization
    from train.network.checkpoint import read

    def write(
        configuration: str = "A",
        *,
        int8: str | None = None,
        kept: tuple[str, ...] = (),
        checkpoint: dict[str, Any] | None = None,
        **options: Any,
    ) -> tuple[Path, Path]:
        path = narrow_checkpoint(configuration, **(checkpoint or {}))
        weights = read(path)
        if int8 is not None:
            assert weights.manifest.spec is not None
            options["quantization"] = quantization(weights.manifest.spec, int8, kept, options.get("score_map", False))
        return export(weights, tmp_path / "model.onnx", **options).path, path

    return write
