"""The nodes and weights of an ONNX file, read without onnx, for runtimes that cannot read ONNX files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vgg_deploy.artifacts.external_data import external_range
from vgg_deploy.artifacts.onnx_format import (
    AttributeField,
    AttributeType,
    ElementType,
    GraphField,
    NodeField,
    TensorField,
)
from vgg_deploy.artifacts.protobuf import Message, mapped

_DTYPES: dict[int, np.dtype[Any]] = {ElementType.FLOAT: np.dtype("<f4"), ElementType.FLOAT16: np.dtype("<f2")}

Attribute = float | int | str | tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Node:
    """A node. An attribute of a type that we do not read, such as a tensor, is None."""

    name: str
    operator: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as a file stores it.

    Attributes:
        name: its name.
        element: its type, a number of onnx.TensorProto.DataType.
        shape: its sizes.
        data: its little-endian values, a view into the mapped file. It may be shorter or longer than the shape needs.
            It is empty for a tensor that is not stored as raw bytes, unless it is float32.
    """

    name: str
    element: int
    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True, slots=True)
class Graph:
    """What a model computes.

    Attributes:
        inputs: names of the inputs that are not weights.
        outputs: names of the outputs.
        nodes: in the order of computation.
        weights: by name, the float32 and float16 weights that a file stores contiguously. They are views into the
            mapped file, so nothing is read before it is used. They keep the file open. If another process truncates the
            file meanwhile, the system kills this process.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    weights: Mapping[str, npt.NDArray[np.floating[Any]]]


def read_nodes(graph: Message) -> tuple[Node, ...]:
    """The nodes of a GraphProto."""
    return tuple(map(_node, graph.messages(GraphField.NODES)))


def read_tensors(graph: Message, folder: Path) -> tuple[StoredTensor, ...]:
    """The tensors of a GraphProto, in the file's order. Nothing of them is read before it is used.

    Args:
        folder: the model's folder, with the files that hold its external data.
    """
    files = dict[str, memoryview]()
    return tuple(
        StoredTensor(
            tensor.text(TensorField.NAME),
            tensor.number(TensorField.TYPE),
            tensor.packed(TensorField.DIMENSIONS),
            _data(tensor, folder, files),
        )
        for tensor in graph.messages(GraphField.INITIALIZERS)
    )


def read_weights(graph: Message, folder: Path) -> dict[str, npt.NDArray[np.floating[Any]]]:
    """The weights of a GraphProto, by name; see `Graph.weights` and `read_tensors`."""
    weights = {}
    for tensor in read_tensors(graph, folder):
        values = _values(tensor)
        if values is not None:
            weights[tensor.name] = values
    return weights


def _node(node: Message) -> Node:
    return Node(
        name=node.text(NodeField.NAME) or next(iter(node.texts(NodeField.OUTPUTS)), ""),
        operator=node.text(NodeField.OPERATOR),
        domain=node.text(NodeField.DOMAIN),
        inputs=node.texts(NodeField.INPUTS),
        outputs=node.texts(NodeField.OUTPUTS),
        attributes={
            attribute.text(AttributeField.NAME): _attribute(attribute)
            for attribute in node.messages(NodeField.ATTRIBUTES)
        },
    )


def _attribute(attribute: Message) -> Attribute:
    kind = attribute.number(AttributeField.TYPE)
    if kind == AttributeType.FLOAT:
        return attribute.float32(AttributeField.FLOAT)
    if kind == AttributeType.INTEGER:
        return attribute.number(AttributeField.INTEGER)
    if kind == AttributeType.TEXT:
        return attribute.text(AttributeField.TEXT)
    return attribute.packed(AttributeField.INTEGERS) if kind == AttributeType.INTEGERS else None


def _data(tensor: Message, folder: Path, files: dict[str, memoryview]) -> memoryview:
    """The bytes of a tensor's values. `files` holds the mapped files of external data."""
    external = external_range(tensor)
    if external is None:
        return tensor.data(TensorField.RAW_DATA if TensorField.RAW_DATA in tensor else TensorField.FLOATS)
    location, offset, length = external
    if location not in files:
        files[location] = mapped(folder / location)
    data = files[location]
    return data[offset : len(data) if length is None else offset + length]


def _values(tensor: StoredTensor) -> npt.NDArray[np.floating[Any]] | None:
    """A weight, or None if it is not contiguous floating point."""
    dtype, shape = _DTYPES.get(tensor.element), tensor.shape
    if dtype is None or min(shape, default=1) < 0 or len(tensor.data) != math.prod(shape) * dtype.itemsize:
        return None
    return np.frombuffer(tensor.data, dtype).reshape(shape)
