"""Proof 2: each layer of a file in a runtime, against its exact evaluation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engines import RUNTIMES, open_engine, open_piece
from export.proof.layers import PieceRuntime, layer_count, prove_layers
from export.proof.simulation import Simulation
from vgg_deploy.evaluation.parity import NamedView, posteriors
from vgg_deploy.evaluation.proof import Proof
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.precision import Quantization

Prove = Callable[..., tuple[Proof, Simulation]]


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


def quantization(target: str, spec: Any, *kept: str) -> Quantization:
    """Plausible ranges for the random networks of these tests."""
    names = [layer.name for layer in spec.weight_layers]
    ranges = dict.fromkeys([*names, "spatial_mean", "lrn1"], (0.0, 400.0))
    ranges |= {"conv1_1": (-125.0, 152.0), "fc7": (0.0, 6.0), "fc8": (0.0, 8.0), "spatial_mean": (0.0, 8.0)}
    layers = tuple(name for name in names if name not in kept and (target == "tensorrt" or name != "fc8"))
    kept = tuple(name for name in names if name not in layers)
    return Quantization(target, layers, kept, "minmax", ranges, (), (64,), False)


FILES: dict[str, dict[str, Any]] = {
    "FP32": {},
    "FP32 A-LRN with all outputs": {"configuration": "A-LRN", "score_map": True, "features": True},
    "FP32 on the fine grid": {"fine": True},
    "FP16": {"half": True},
    "FP16 A-LRN with a score map": {"configuration": "A-LRN", "half": True, "score_map": True},
    "INT8 for TensorRT": {"target": "tensorrt"},
    "INT8 for ONNX Runtime": {"target": "onnxruntime"},
    "INT8 for ONNX Runtime with all outputs": {"target": "onnxruntime", "score_map": True, "features": True},
    "INT8 for ONNX Runtime with a layer kept": {"target": "onnxruntime", "kept": "conv3_1"},
    "INT8 and FP16": {"target": "tensorrt", "half": True},
}


@pytest.fixture
def written(exported: Callable[..., Any], narrow_spec: Callable[..., Any]) -> Callable[[str], Path]:
    """`written(one of FILES)` -> the file."""

    def write(kind: str) -> Path:
        options = {"configuration": "A", **FILES[kind]}
        configuration, target, kept = options.pop("configuration"), options.pop("target", None), options.pop("kept", "")
        if target is not None:
            options["quantization"] = quantization(target, narrow_spec(configuration), kept)
        path: Path = exported(configuration, f"{kind}.onnx".replace(" ", "-"), dynamic=True, **options).path
        return path

    return write


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
    model = onnx.load(path)
    change(model)
    other = path.with_name("damaged.onnx")
    onnx.save(model, other)
    return other


def tensor(name: str, change: Callable[[np.ndarray], None]) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        found = next(each for each in model.graph.initializer if each.name == name)
        values = numpy_helper.to_array(found).copy()
        change(values)
        found.raw_data = values.tobytes()

    return edit
