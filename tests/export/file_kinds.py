"""Kinds of exported files on which the proofs are tested: every precision, target, grid and output."""

from __future__ import annotations

from typing import Any

from vgg_deploy.network.precision import Quantization
from vgg_deploy.network.spec import NetworkSpec

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


def quantization(target: str, spec: NetworkSpec, *kept: str) -> Quantization:
    """Plausible ranges for the random networks of these tests."""
    names = [layer.name for layer in spec.weight_layers]
    ranges = dict.fromkeys([*names, "spatial_mean", "lrn1"], (0.0, 400.0))
    ranges |= {"conv1_1": (-125.0, 152.0), "fc7": (0.0, 6.0), "fc8": (0.0, 8.0), "spatial_mean": (0.0, 8.0)}
    layers = tuple(name for name in names if name not in kept and (target == "tensorrt" or name != "fc8"))
    kept = tuple(name for name in names if name not in layers)
    return Quantization(target, layers, kept, "minmax", ranges, (), (64,), False)
