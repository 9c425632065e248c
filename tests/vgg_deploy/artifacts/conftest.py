"""Fixtures for the tests of artifacts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.vgg_deploy.artifacts.damage import quantized


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
