"""Derives the graph and every tensor of a file anew, from its manifest and a source of weights, and compares them.

Nothing is rounded and there is no threshold. The code that derives is the code that exports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from export.float16 import LARGEST_FLOAT16
from export.graph import build_graph
from export.manifest import stated_options
from export.proof.file.graph_differences import graph_differences
from export.proof.file.tensor_differences import TensorComparison, TensorDifference
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.errors import UsageError
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import FLOAT16
from vgg_deploy.network.quantized_inputs import quantized_inputs
from vgg_deploy.network.tensors import Floats


@dataclass(frozen=True, slots=True)
class Derivation:
    """How a file differs from what its manifest and its weights give.

    Attributes:
        graph: differences of nodes, inputs, outputs, and types and shapes of tensors; one line each.
        tensors: tensors with other values.
        compared: how many tensors were compared.
        values: how many values they have.
        layers: the layers of the file's network that have weights.
    """

    graph: tuple[str, ...] = ()
    tensors: tuple[TensorDifference, ...] = ()
    compared: int = 0
    values: int = 0
    layers: frozenset[str] = frozenset()


def derive(file: OnnxFile, manifest: Manifest, weights: Mapping[str, Floats]) -> Derivation:
    """Compares a file with the graph and the tensors that its manifest and these weights give.

    Args:
        file: one of our ONNX files.
        manifest: of the file. It has a spec and a normalization.
        weights: float32 by name, of the manifest's spec, in FC or convolutional form.

    Raises:
        ModelFileError: the file is damaged, so its nodes cannot be read.
    """
    impossible = _impossible(manifest, weights)
    if impossible:
        return Derivation(impossible)
    assert manifest.spec is not None
    assert manifest.normalization is not None
    received = file.header
    comparison = TensorComparison(file.tensors)
    with np.errstate(over="ignore"):  # a range or a weight that passes its type becomes infinite in the file too
        expected = build_graph(
            manifest.spec, dict(weights), manifest.normalization, stated_options(manifest), comparison.writer
        )
    copy = type(received)()
    copy.CopyFrom(received)
    differences = tuple(graph_differences(copy, expected))
    return Derivation(
        graph=differences,
        tensors=tuple(comparison.differences),
        compared=comparison.tensors,
        values=comparison.values,
        layers=frozenset(layer.name for layer in manifest.spec.weight_layers),
    )


def _impossible(manifest: Manifest, weights: Mapping[str, Floats]) -> tuple[str, ...]:
    """Why no export can give a file with this manifest."""
    assert manifest.spec is not None
    try:
        options = stated_options(manifest)
    except UsageError as error:
        return (f"its manifest states what no export gives: {error}",)
    layers = [layer.name for layer in manifest.spec.weight_layers]
    lines = []
    single = manifest.precision.float32_layers
    if list(single) != [layer for layer in layers if layer in single]:
        lines.append(
            f"its manifest's float32_layers are {', '.join(single)}; expected layers of the network, each once and in "
            "order"
        )
    if single and manifest.precision.arithmetic != FLOAT16:
        lines.append("its manifest lists float32_layers, but nothing in it is in FP16")
    quantization = manifest.precision.quantization
    if quantization is not None:
        if sorted((*quantization.layers, *quantization.kept)) != sorted(layers):
            lines.append("its manifest does not state for each layer, once, whether it is INT8 or kept")
        needed = quantized_inputs(manifest.spec, quantization, options.score_map).values()
        missing = [name for name in dict.fromkeys(needed) if name not in quantization.ranges]
        if missing:
            lines.append(f"its manifest records no range for {', '.join(missing)}")
    if manifest.precision.arithmetic == FLOAT16:
        lines += _beyond_float16(manifest, weights)
    return tuple(lines)


def _beyond_float16(manifest: Manifest, weights: Mapping[str, Floats]) -> list[str]:
    """Layers of FP16 arithmetic whose weights FP16 cannot hold. An export lists them in `float32_layers`."""
    assert manifest.spec is not None
    lines = []
    for layer in manifest.spec.weight_layers:
        tensors = [weights[f"{layer.name}.{what}"] for what in ("weight", "bias")]
        largest = max(float(max(tensor.max(), -tensor.min())) for tensor in tensors)
        if layer.name not in manifest.precision.float32_layers and largest > LARGEST_FLOAT16:
            lines.append(f"{layer.name} is in FP16, which ends at 65,504, but its weights reach {largest:,.0f}")
    return lines
