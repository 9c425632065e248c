"""What the tests of integrity share: exported files, and ways to damage them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from vgg_deploy.artifacts.integrity import Examination, examine
from vgg_deploy.network.manifest import MANIFEST_KEY, Manifest
from vgg_deploy.network.precision import Quantization
from vgg_deploy.network.spec import NetworkSpec


def quantized(spec: NetworkSpec, target: str, kept: tuple[str, ...] = ()) -> Quantization:
    """INT8 in all layers but `kept` (for ONNX Runtime, fc8 too), with made-up ranges."""
    names = [layer.name for layer in spec.weight_layers]
    if target == "onnxruntime":
        kept = (*kept, "fc8")
    ranges = {name: (0.0, 3.0 + index) for index, name in enumerate([*names, "lrn1", "spatial_mean"])}
    ranges["conv1_1"] = (-123.68, 151.061)
    layers = tuple(name for name in names if name not in kept)
    return Quantization(target, layers, tuple(kept), "minmax", ranges, (), (73,), True)


def changed(path: Path, change: Callable[[onnx.ModelProto], None]) -> Examination:
    """Examines a file after `change` has edited the model in it; its manifest stays as it was."""
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return examine(path)


def without_digests(path: Path) -> None:
    """Makes a file one that an older vgg_deploy exported."""
    model = onnx.load(path)
    (entry,) = (entry for entry in model.metadata_props if entry.key == MANIFEST_KEY)
    entry.value = Manifest.from_json(entry.value, "a test").with_(digests=None).to_json()
    onnx.save(model, path)


def named(examined: Examination, *words: str) -> bool:
    """Whether one of the contradictions has all these words."""
    return any(all(word in line for word in words) for line in examined.contradictions)


def tensor_of(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    return tensor


def node_of(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (node,) = (node for node in model.graph.node if node.name == name)
    return node


def replace_values(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], Any]) -> None:
    """Writes `change(values)` in the place of a tensor's values."""
    tensor = tensor_of(model, name)
    values = numpy_helper.to_array(tensor)
    tensor.raw_data = np.asarray(change(values), values.dtype).tobytes()


def values(name: str, change: Callable[[np.ndarray], Any]) -> Callable[[onnx.ModelProto], None]:
    """A change of the values of one tensor."""
    return lambda model: replace_values(model, name, change)
