"""ONNX files that were edited after their export, and the proof of the file that judges them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from export.proof.file.source import SourceWeights, prove_source
from export.qdq import observed_inputs
from train.network.checkpoint import read
from vgg_deploy.artifacts.integrity import Examination
from vgg_deploy.evaluation.proof import Proof
from vgg_deploy.network.manifest import MANIFEST_KEY
from vgg_deploy.network.precision import Quantization
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.weight_facts import WeightFacts

Files = Callable[..., Path]
Made = Callable[..., tuple[Path, Path]]  # the fixture `made`
Edit = Callable[[onnx.ModelProto], object]
Tensors = dict[str, TensorProto]


def unexamined(_path: Path) -> Examination:
    """Stands for the examination without a source, so that only the derivation can find a damage."""
    return Examination(contradictions=(), tensors=0, recorded=False, seconds=0.0)


def quantization(spec: NetworkSpec, target: str, kept: tuple[str, ...] = (), score_map: bool = False) -> Quantization:
    """INT8 with another range for each layer."""
    names = [layer.name for layer in spec.weight_layers]
    kept = (*kept, "fc8") if target == "onnxruntime" else kept
    observed = observed_inputs(spec, score_map)
    ranges = {name: (-100.25 if index == 0 else 0.0, 99.7 * (index + 1)) for index, name in enumerate(observed)}
    layers = tuple(name for name in names if name not in kept)
    return Quantization(
        target, layers, tuple(name for name in names if name in kept), "minmax", ranges, (), (64,), True
    )


def proved(file: Path, checkpoint: Path, facts: WeightFacts | None = None) -> Proof:
    """Proof 1 of a file against a checkpoint, from the derivation alone."""
    stated = facts or WeightFacts()
    return prove_source(file, SourceWeights.from_checkpoint(read(checkpoint, stated), stated), unexamined)


def damaged(path: Path, edit: Edit) -> None:
    """Edits an ONNX file in place."""
    model = onnx.load(path)
    edit(model)
    onnx.save(model, path)


def tensors_of(model: onnx.ModelProto) -> Tensors:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def nodes_of(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {node.name: node for node in model.graph.node}


def flipped(name: str, bit: int) -> Edit:
    """Flips one bit of a tensor, counted from the lowest of its first value."""

    def edit(model: onnx.ModelProto) -> None:
        data = bytearray(tensors_of(model)[name].raw_data)
        data[bit // 8] ^= 1 << bit % 8
        tensors_of(model)[name].raw_data = bytes(data)

    return edit


def with_manifest(model: onnx.ModelProto, manifest: str) -> None:
    """Replaces the manifest of a model, and all other metadata."""
    del model.metadata_props[:]
    model.metadata_props.add(key=MANIFEST_KEY, value=manifest)


def attribute(node: str, name: str, value: Any) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        found = nodes_of(model)[node]
        kept = [item for item in found.attribute if item.name != name]
        del found.attribute[:]
        found.attribute.extend([*kept, helper.make_attribute(name, value)])

    return edit
