"""An ONNX file as `export` writes it, in ncnn's own form: a list of layers as text, and weights in the order of the list."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

Weights = Mapping[str, npt.NDArray[np.floating[Any]]]

_MAGIC = 7767517  # the first line of ncnn's text format
_RELU = 1  # `activation_type` of a layer with weights
_MAX, _MEAN = 0, 1  # `pooling_type`
_VALID = 1  # `pad_mode` of a pooling: no window hangs over the edge
_TO_CHANNELS_FIRST = [0, 3, 1, 2]


class UntranslatedError(Exception):
    """A network that ncnn cannot be given, with the reason."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network as ncnn reads it.

    Attributes:
        text: the layers.
        weights: names of the initializers, in the order in which ncnn reads them; a bias follows its convolution's weight.
        image: the blob that takes an image, float32 [3, height, width], normalized.
        mean, std: of the image's channels, in units of 0..255.
        outputs: the blob of each output of the ONNX file, in the order in which they are computed.
        blobs: the blobs that layers give, in order, each named as the node whose tensor it is.
    """

    text: str
    weights: tuple[tuple[str, str], ...]
    image: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    outputs: dict[str, str]
    blobs: tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Layer:
    kind: str
    node: str
    source: str
    result: str
    parameters: dict[int, float]
    weights: tuple[str, str] | None = None


def translate(model: onnx.ModelProto, weights: Weights) -> Network:
    """The network of an ONNX file in floating point. Casts are left out: everything is computed in float32.

    Args:
        model: the file; its weights are not looked at, only their shapes.
        weights: the values of its initializers, by name.

    Raises:
        UntranslatedError: a node or an attribute that has no counterpart here; quantized layers among them.
    """
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    (image,) = (value.name for value in model.graph.input if value.name not in shapes)
    mean, std, place = _normalization(nodes, image, weights)
    wanted = [output.name for output in model.graph.output]
    layers, alias = _layers(nodes[place:], shapes)
    start = nodes[place - 1].output[0]
    given = {start, *(layer.result for layer in layers)}
    for layer in layers:
        if layer.source not in given:
            raise UntranslatedError(f"node {layer.node} reads {layer.source}, which is no layer's output")
    outputs = {name: alias.get(name, name) for name in wanted}
    if not given.issuperset(outputs.values()):
        raise UntranslatedError(f"{', '.join(sorted(set(outputs.values()) - given))} is no layer's output")
    layers = _fused(layers, set(outputs.values()))
    order = {layer.result: index for index, layer in enumerate(layers)}
    return Network(
        text=_text(start, layers),
        weights=tuple(layer.weights for layer in layers if layer.weights is not None),
        image=start,
        mean=mean,
        std=std,
        outputs=dict(sorted(outputs.items(), key=lambda output: order.get(output[1], -1))),
        blobs=tuple((layer.result, layer.node) for layer in layers),
    )


def _normalization(
    nodes: list[onnx.NodeProto], image: str, weights: Weights
) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Mean and std of the nodes before the network, and how many they are: bytes to floats, Sub, maybe Div, channels first."""
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    seen, tensor = [], image
    for count, node in enumerate(nodes, start=1):
        if node.input[0] != tensor:
            break
        seen.append(node.op_type)
        if node.op_type in ("Sub", "Div"):
            constant = tuple(float(value) for value in weights.get(node.input[1], ()))
            if len(constant) != 3:
                break
            mean, std = (constant, std) if node.op_type == "Sub" else (mean, constant)
        if node.op_type == "Transpose":
            if _attributes(node).get("perm") != _TO_CHANNELS_FIRST or seen not in (
                ["Cast", "Sub", "Transpose"],
                ["Cast", "Sub", "Div", "Transpose"],
            ):
                break
            return mean, std, count
        tensor = node.output[0]
    raise UntranslatedError(
        f"it normalizes its input by {', '.join(seen) or 'nothing'}, not as vgg-deploy export writes it"
    )


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _layers(nodes: list[onnx.NodeProto], shapes: dict[str, tuple[int, ...]]) -> tuple[list[_Layer], dict[str, str]]:
    """The nodes as layers; and for tensors that a node only hands on, the tensor that they are."""
    layers: list[_Layer] = []
    alias: dict[str, str] = {}
    halved: set[str] = set()
    flat: set[str] = set()  # tensors of one position, which have no rows and columns in ncnn
    for node in nodes:
        name, attributes = node.name or node.output[0], _attributes(node)
        source, result = alias.get(node.input[0], node.input[0]), node.output[0]
        if node.op_type == "Cast":
            if attributes["to"] == TensorProto.FLOAT and node.input[0] in halved:
                raise UntranslatedError(
                    f"node {name} is there to round to FP16, and everything is computed in float32 here"
                )
            if attributes["to"] == TensorProto.FLOAT16 and source not in halved:
                halved.add(result)
            elif attributes["to"] not in (TensorProto.FLOAT, TensorProto.FLOAT16):
                raise UntranslatedError(f"node {name} casts to {TensorProto.DataType.Name(attributes['to'])}")
            alias[result] = source
        elif node.op_type in ("Flatten", "Identity"):  # one value for each channel is flat in ncnn as it is
            alias[result] = source
        else:
            parameters = _parameters(node.op_type, name, attributes, [shapes.get(each) for each in node.input[1:]])
            kind = _KINDS[node.op_type]
            weights = (node.input[1], node.input[2]) if kind == "Convolution" else None
            if node.op_type == "GlobalAveragePool" or source in flat:
                flat.add(result)
            if kind == "Convolution" and source in flat:
                kind, parameters = "InnerProduct", _on_one_position(name, parameters)
            layers.append(_Layer(kind, name, source, result, parameters, weights))
    return layers, alias


_KINDS = {
    "Conv": "Convolution",
    "Relu": "ReLU",
    "MaxPool": "Pooling",
    "GlobalAveragePool": "Pooling",
    "LRN": "LRN",
    "Softmax": "Softmax",
}


def _parameters(
    operator: str, name: str, attributes: dict[str, Any], constants: list[tuple[int, ...] | None]
) -> dict[int, float]:
    """ncnn's numbered parameters of a layer."""
    if operator == "Conv":
        weight = constants[0] if constants else None
        kernel, pads = attributes.get("kernel_shape", []), attributes.get("pads", [0] * 4)
        dilations, strides = attributes.get("dilations", [1, 1]), attributes.get("strides", [1, 1])
        plain = weight is not None and len(weight) == 4 and len(constants) == 2 and list(weight[2:]) == list(kernel)
        if (
            not plain
            or attributes.get("group", 1) != 1
            or any(len(set(each)) != 1 for each in (kernel, pads, dilations, strides))
        ):
            raise UntranslatedError(f"node {name} is not a convolution as vgg-deploy export writes them")
        assert weight is not None
        count = weight[0] * weight[1] * weight[2] * weight[3]
        return {0: weight[0], 1: kernel[0], 2: dilations[0], 3: strides[0], 4: pads[0], 5: 1, 6: count}
    if operator == "MaxPool":
        kernel, strides = attributes["kernel_shape"], attributes.get("strides", [1, 1])
        if len({*kernel}) != 1 or len({*strides}) != 1 or attributes.keys() - {"kernel_shape", "strides"}:
            raise UntranslatedError(f"node {name} is not a pooling as vgg-deploy export writes them")
        return {0: _MAX, 1: kernel[0], 2: strides[0], 5: _VALID}
    if operator == "GlobalAveragePool":
        return {0: _MEAN, 4: 1}
    if operator == "LRN":
        return {0: 0, 1: attributes["size"], 2: attributes["alpha"], 3: attributes["beta"], 4: attributes["bias"]}
    if operator == "Softmax":
        return {0: 0, 1: 1}  # over the only axis
    if operator == "Relu":
        return {}
    hint = "; it computes in floating point" if operator.endswith("QuantizeLinear") else ""
    raise UntranslatedError(f"node {name} is {operator}, for which there is no layer here{hint}")


def _on_one_position(name: str, convolution: dict[int, float]) -> dict[int, float]:
    if convolution[1] != 1:
        raise UntranslatedError(
            f"node {name} is a convolution of {convolution[1]} x {convolution[1]} over one position"
        )
    return {0: convolution[0], 1: convolution[5], 2: convolution[6]}


def _fused(layers: list[_Layer], outputs: set[str]) -> list[_Layer]:
    """Each ReLU within its convolution, where nothing else reads the convolution."""
    readers = Counter(layer.source for layer in layers)
    fused: list[_Layer] = []
    for layer in layers:
        before = fused[-1] if fused else None
        if (
            layer.kind == "ReLU"
            and before is not None
            and before.weights is not None
            and before.result == layer.source
            and readers[layer.source] == 1
            and layer.source not in outputs
        ):
            before.parameters[9] = _RELU
            before.result = layer.result
        else:
            fused.append(layer)
    return fused


def _text(start: str, layers: list[_Layer]) -> str:
    """In ncnn's text format, where a blob that several layers read is split into as many."""
    readers = Counter(layer.source for layer in layers)
    handed: Counter[str] = Counter()
    lines, blobs = [f"Input {start} 0 1 {start}"], 1
    for result, layer in [(start, None), *((layer.result, layer) for layer in layers)]:
        if layer is not None:
            source = layer.source
            if readers[source] > 1:
                handed[source] += 1
                source = f"{source}/{handed[source] - 1}"
            parameters = " ".join(f"{number}={value!r}" for number, value in layer.parameters.items())
            lines.append(f"{layer.kind} {layer.node} 1 1 {source} {result} {parameters}".rstrip())
            blobs += 1
        if readers[result] > 1:
            copies = [f"{result}/{index}" for index in range(readers[result])]
            lines.append(f"Split {result}/split 1 {len(copies)} {result} {' '.join(copies)}")
            blobs += len(copies)
    return "\n".join([str(_MAGIC), f"{len(lines)} {blobs}", *lines, ""])
