"""The nodes and weights of an ONNX file, read without onnx: what a runtime that does not take ONNX files is told of one."""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vgg_deploy.artifacts.external_data import GRAPH_INITIALIZER, GRAPH_NODE, MODEL_GRAPH, TENSOR_NAME, external_place
from vgg_deploy.artifacts.onnx_file import described, mapped
from vgg_deploy.artifacts.protobuf import Message

# Field numbers of onnx.proto, by message.
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_INTEGER, _ATTRIBUTE_TEXT, _ATTRIBUTE_INTEGERS = 1, 2, 3, 4, 8
_ATTRIBUTE_TYPE = 20
_TENSOR_DIMENSIONS, _TENSOR_TYPE, _TENSOR_FLOATS, _TENSOR_RAW = 1, 2, 4, 9

_FLOAT, _INTEGER, _TEXT, _INTEGERS = 1, 2, 3, 7  # of AttributeProto.AttributeType
_TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 10: np.dtype("<f2")}  # of TensorProto.DataType

Attribute = float | int | str | tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Node:
    """A node. An attribute of a kind that is not read here, such as a tensor, is None."""

    name: str
    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, slots=True)
class Graph:
    """What a model computes.

    Attributes:
        inputs: without those that are weights.
        outputs: their names.
        nodes: in the order in which they are computed.
        weights: by name, those in floating point that lie in a file in one piece, and where they lie: nothing is read before it is
            used. They hold the file open; one that is cut short meanwhile ends the process.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    weights: Mapping[str, npt.NDArray[np.floating[Any]]]


def read_graph(path: Path) -> Graph:
    """The graph of an ONNX file. Raises what `vgg_deploy.artifacts.onnx_file.look_into` does."""
    with mapped(path) as data:
        file = described(data, path)
        graph = Message(data).message(MODEL_GRAPH)
        weights, files = {}, dict[str, memoryview]()
        for tensor in graph.messages(GRAPH_INITIALIZER):
            values = _values(tensor, path.parent, files)
            if values is not None:
                weights[tensor.text(TENSOR_NAME)] = values
        return Graph(
            inputs=tuple(value.name for value in file.inputs),
            outputs=tuple(value.name for value in file.outputs),
            nodes=tuple(map(_node, graph.messages(GRAPH_NODE))),
            weights=weights,
        )


def _node(node: Message) -> Node:
    return Node(
        name=node.text(_NODE_NAME) or next(iter(node.texts(_NODE_OUTPUT)), ""),
        operator=node.text(_NODE_OPERATOR),
        domain=node.text(_NODE_DOMAIN),
        inputs=node.texts(_NODE_INPUT),
        outputs=node.texts(_NODE_OUTPUT),
        attributes={each.text(_ATTRIBUTE_NAME): _attribute(each) for each in node.messages(_NODE_ATTRIBUTE)},
    )


def _attribute(attribute: Message) -> Attribute:
    kind = attribute.number(_ATTRIBUTE_TYPE)
    if kind == _FLOAT:
        return attribute.float32(_ATTRIBUTE_FLOAT)
    if kind == _INTEGER:
        return attribute.number(_ATTRIBUTE_INTEGER)
    if kind == _TEXT:
        return attribute.text(_ATTRIBUTE_TEXT)
    return attribute.packed(_ATTRIBUTE_INTEGERS) if kind == _INTEGERS else None


def _values(tensor: Message, folder: Path, files: dict[str, memoryview]) -> npt.NDArray[np.floating[Any]] | None:
    """A weight; `files` are those beside the model that are mapped."""
    kind, shape = _TYPES.get(tensor.number(_TENSOR_TYPE)), tensor.packed(_TENSOR_DIMENSIONS)
    if kind is None:
        return None
    place = external_place(tensor)
    if place is None:
        data = tensor.data(_TENSOR_RAW) if _TENSOR_RAW in tensor else tensor.data(_TENSOR_FLOATS)
    else:
        location, offset, length = place
        if location not in files:
            with (folder / location).open("rb") as file:
                files[location] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        data = files[location]
        data = data[offset : len(data) if length is None else offset + length]
    if min(shape, default=1) < 0 or len(data) != math.prod(shape) * kind.itemsize:
        return None
    return np.frombuffer(data, kind).reshape(shape)
