"""Translates an ONNX file written by `export` to ncnn's form: a list of layers as text, and weights in that order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.ncnn.layers import NcnnLayer, fused, text
from vgg_deploy.artifacts.onnx_format import ElementType
from vgg_deploy.artifacts.onnx_graph import Attribute, Graph, Node

Weights = Mapping[str, npt.NDArray[np.floating[Any]]]

_MAX, _MEAN = 0, 1  # `pooling_type`
_VALID = 1  # `pad_mode` of a pooling: no window extends past the edge
_TO_CHANNELS_FIRST = (0, 3, 1, 2)
_LRN = {"size": 0, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}  # ONNX's defaults, in the order of ncnn's parameters


class UntranslatedError(Exception):
    """ncnn cannot compute this network; the text gives the reason."""


@dataclass(frozen=True, slots=True)
class Translation:
    """A network in ncnn's form. A blob is ncnn's word for a tensor.

    Attributes:
        text: the layers, in ncnn's text format.
        weights: names of the initializers in ncnn's order, as pairs of a convolution's weight and bias.
        image: the input blob: a normalized image, float32 [3, height, width].
        normalization: the last of the nodes that normalize the image. These nodes are not among the layers.
        mean, std: of the image's channels, in units of 0..255.
        outputs: the blob of each output of the ONNX file, in the order of computation.
        blobs: the blobs that the layers compute, in order, each with its node's name.
    """

    text: str
    weights: tuple[tuple[str, str], ...]
    image: str
    normalization: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    outputs: dict[str, str]
    blobs: tuple[tuple[str, str], ...]


def translate(graph: Graph) -> Translation:
    """Translates a graph in floating point. Casts are left out, because ncnn computes everything in float32 here.

    Raises:
        UntranslatedError: a node or an attribute without a counterpart, such as a quantized layer.
    """
    _check(graph)
    mean, std, count = _normalization(graph)
    normalization = graph.nodes[count - 1]
    return _translated(graph, count, _Image(normalization.outputs[0], normalization.name, mean, std))


def translate_piece(graph: Graph, *, on_one_position: bool) -> Translation:
    """Translates a layer that reads the result of another layer: a map [channels, rows, columns].

    Args:
        on_one_position: whether it reads [channels] instead, a spatial mean.

    Raises:
        UntranslatedError: see `translate`.
    """
    _check(graph)
    return _translated(graph, 0, _Image(graph.inputs[0], "", (), (), on_one_position))


def _check(graph: Graph) -> None:
    for node in graph.nodes:
        if not node.inputs or not node.outputs or node.domain not in ("", "ai.onnx"):
            raise _unknown(node)
    if len(graph.inputs) != 1:
        raise UntranslatedError(f"it has {len(graph.inputs)} inputs; expected one")


@dataclass(frozen=True, slots=True)
class _Image:
    """What the layers read: a tensor, the last node that normalizes it, its mean and std, and whether it is flat."""

    tensor: str
    normalization: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flat: bool = False


def _translated(graph: Graph, count: int, source: _Image) -> Translation:
    """The nodes behind the first `count`."""
    image = source.tensor
    layers, alias = _layers(graph.nodes[count:], graph.weights, {image} if source.flat else set())
    computed = {image, *(layer.result for layer in layers)}
    for layer in layers:
        if layer.source not in computed:
            raise UntranslatedError(f"node {layer.node} reads {layer.source}, which no layer computes")
    outputs = {name: alias.get(name, name) for name in graph.outputs}
    missing = set(outputs.values()) - computed
    if missing:
        raise UntranslatedError(f"no layer computes the output {', '.join(sorted(missing))}")
    layers = fused(layers, set(outputs.values()))
    # Numbers replace the names, which may contain characters that ncnn's text cannot.
    blobs = {image: "0", **{layer.result: str(number) for number, layer in enumerate(layers, start=1)}}
    ordered = sorted(outputs.items(), key=lambda output: int(blobs[output[1]]))
    return Translation(
        text=text(image, layers, blobs),
        weights=tuple(layer.weights for layer in layers if layer.weights is not None),
        image=blobs[image],
        normalization=source.normalization,
        mean=source.mean,
        std=source.std,
        outputs={name: blobs[tensor] for name, tensor in ordered},
        blobs=tuple((blobs[layer.result], layer.node) for layer in layers),
    )


def _unknown(node: Node) -> UntranslatedError:
    hint = "; ncnn computes in floating point here" if node.operator.endswith("QuantizeLinear") else ""
    return UntranslatedError(f"node {node.name} is {node.operator}, which is not translated to ncnn{hint}")


def _normalization(graph: Graph) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Mean, std and number of the nodes that normalize the image: Cast, Sub, perhaps Div, and Transpose."""
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    operators, tensor = [], graph.inputs[0]
    for count, node in enumerate(graph.nodes, start=1):
        if node.inputs[0] != tensor:
            break
        operators.append(node.operator)
        if node.operator in ("Sub", "Div"):
            constant = tuple(float(value) for value in graph.weights.get(node.inputs[-1], np.zeros(0)).reshape(-1))
            if len(node.inputs) != 2 or len(constant) != 3:
                break
            mean, std = (constant, std) if node.operator == "Sub" else (mean, constant)
        if node.operator == "Transpose":
            if node.attributes.get("perm") != _TO_CHANNELS_FIRST or operators not in (
                ["Cast", "Sub", "Transpose"],
                ["Cast", "Sub", "Div", "Transpose"],
            ):
                break
            return mean, std, count
        tensor = node.outputs[0]
    raise UntranslatedError(
        f"it normalizes its input by {', '.join(operators) or 'nothing'}, unlike files of vgg-deploy export"
    )


def _layers(nodes: Sequence[Node], weights: Weights, flat: set[str]) -> tuple[list[NcnnLayer], dict[str, str]]:
    """The nodes as layers, and the aliases: tensors that a node only passes on, with the tensor that they equal.

    `flat` holds the tensors with one position, whose rows and columns ncnn drops; those behind them are added.
    """
    layers: list[NcnnLayer] = []
    alias: dict[str, str] = {}
    halved: set[str] = set()
    for node in nodes:
        source, result = alias.get(node.inputs[0], node.inputs[0]), node.outputs[0]
        if node.operator == "Cast":
            kind = node.attributes.get("to")
            if kind == ElementType.FLOAT and node.inputs[0] in halved:
                raise UntranslatedError(
                    f"node {node.name} rounds to FP16, and ncnn computes everything in float32 here"
                )
            if kind not in (ElementType.FLOAT, ElementType.FLOAT16):
                raise UntranslatedError(f"node {node.name} casts to a type other than float32 and float16")
            if kind == ElementType.FLOAT16:
                halved.add(result)
            alias[result] = source
        elif node.operator == "Identity" or (node.operator == "Flatten" and source in flat and _axis(node) == 1):
            alias[result] = source
        elif node.operator == "Conv":
            layers.append(_convolution(node, source, result, weights, on_one_position=source in flat))
        else:
            kind, parameters = _without_weights(node, on_one_position=source in flat)
            layers.append(NcnnLayer(kind, node.name, source, result, parameters))
        if node.operator == "GlobalAveragePool" or source in flat:
            flat.add(result)
    return layers, alias


def _axis(node: Node) -> Attribute:
    return node.attributes.get("axis", 1 if node.operator == "Flatten" else -1)


def _convolution(node: Node, source: str, result: str, weights: Weights, *, on_one_position: bool) -> NcnnLayer:
    kernel, bias = (weights.get(name) for name in (*node.inputs[1:3], "", "")[:2])
    size, pads = node.attributes.get("kernel_shape"), _same(node, "pads", 4, 0)
    dilation, stride = _same(node, "dilations", 2, 1), _same(node, "strides", 2, 1)
    if (
        kernel is None
        or bias is None
        or {kernel.dtype.kind, bias.dtype.kind} != {"f"}
        or kernel.ndim != 4
        or bias.shape != kernel.shape[:1]
        or size not in (None, kernel.shape[2:])
        or kernel.shape[2] != kernel.shape[3]
        or len(node.inputs) != 3
        or node.attributes.get("group", 1) != 1
        or node.attributes.get("auto_pad", "NOTSET") != "NOTSET"
        or pads is None
        or dilation is None
        or stride is None
        or (on_one_position and (kernel.shape[2], pads, stride) != (1, 0, 1))
    ):
        raise UntranslatedError(f"node {node.name} is a convolution unlike those of vgg-deploy export")
    names = node.inputs[1], node.inputs[2]
    if on_one_position:
        return NcnnLayer("InnerProduct", node.name, source, result, {0: len(bias), 1: 1, 2: kernel.size}, names)
    parameters = {0: len(bias), 1: kernel.shape[2], 2: dilation, 3: stride, 4: pads, 5: 1, 6: kernel.size}
    return NcnnLayer("Convolution", node.name, source, result, parameters, names)


def _same(node: Node, name: str, count: int, default: int) -> int | None:
    """The value of an attribute that holds `count` equal numbers, 0 or more; None for anything else."""
    values = node.attributes.get(name, (default,) * count)
    if not isinstance(values, tuple) or len(values) != count or len(set(values)) != 1 or values[0] < 0:
        return None
    return values[0]


def _without_weights(node: Node, *, on_one_position: bool) -> tuple[str, dict[int, float]]:
    """The kind of a layer in ncnn, and its numbered parameters."""
    attributes = node.attributes
    if node.operator == "Relu":
        return "ReLU", {}
    if node.operator == "GlobalAveragePool" and not on_one_position:
        return "Pooling", {0: _MEAN, 4: 1}
    if node.operator == "Softmax" and on_one_position and _axis(node) in (1, -1):
        return "Softmax", {0: 0, 1: 1}  # over the only axis
    if node.operator == "MaxPool" and not on_one_position:
        kernel, stride = _same(node, "kernel_shape", 2, 0), _same(node, "strides", 2, 1)
        defaults = (_same(node, "pads", 4, 0), _same(node, "dilations", 2, 1), attributes.get("ceil_mode", 0))
        if (
            not kernel
            or not stride
            or defaults != (0, 1, 0)
            or attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        ):
            raise UntranslatedError(f"node {node.name} is a pooling unlike those of vgg-deploy export")
        return "Pooling", {0: _MAX, 1: kernel, 2: stride, 5: _VALID}
    if node.operator == "LRN" and not on_one_position:
        parameters = (attributes.get(name, default) for name, default in _LRN.items())
        values = [value for value in parameters if isinstance(value, int | float)]
        if len(values) == len(_LRN):
            return "LRN", {0: 0, **dict(enumerate(values, start=1))}
    raise _unknown(node)
