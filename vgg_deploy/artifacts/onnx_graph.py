"""The nodes and weights of an ONNX file, read without onnx, for runtimes that cannot read ONNX files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vgg_deploy.artifacts.onnx_format import (
    AttributeField,
    AttributeType,
    ElementType,
    GraphField,
    NodeField,
)
from vgg_deploy.artifacts.protobuf import Message
from vgg_deploy.artifacts.tensor import read_tensors

_FLOATS = (ElementType.FLOAT, ElementType.FLOAT16)

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
class Graph:
    """What a model computes.

    Attributes:
        inputs: names of the inputs that are not weights.
        outputs: names of the outputs.
        nodes: in the order of computation.
        weights: by name, the float32 and float16 weights that are whole. They are views into the mapped file,
            so nothing is read before it is used. They keep the file open. If another process truncates the file
            meanwhile, the system kills this process.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    weights: Mapping[str, npt.NDArray[np.floating[Any]]]


def read_nodes(graph: Message) -> tuple[Node, ...]:
    """The nodes of a GraphProto."""
    return tuple(map(_node, graph.messages(GraphField.NODES)))


def read_weights(graph: Message, folder: Path) -> dict[str, npt.NDArray[np.floating[Any]]]:
    """The weights of a GraphProto, by name; see `Graph.weights` and `read_tensors`."""
    floats = (tensor for tensor in read_tensors(graph, folder) if tensor.element in _FLOATS)
    weights = {tensor.name: tensor.values for tensor in floats}
    return {name: values for name, values in weights.items() if values is not None}


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
