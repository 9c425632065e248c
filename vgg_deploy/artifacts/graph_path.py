"""The way from the images to an output of a graph: its nodes in order, apart from casts and Q/DQ pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vgg_deploy.artifacts.onnx_format import ElementType
from vgg_deploy.artifacts.onnx_graph import Node

QUANTIZE, DEQUANTIZE, CAST = "QuantizeLinear", "DequantizeLinear", "Cast"


@dataclass(frozen=True, slots=True)
class Pair:
    """A QuantizeLinear, the DequantizeLinear that reads it, and the type of the values that they round."""

    quantize: Node
    dequantize: Node
    type: int


@dataclass(frozen=True, slots=True)
class Step:
    """A node, and what is done to its first input before it.

    Attributes:
        node: the node; None for the end of the way.
        type: the type of its first input, a number of onnx.TensorProto.DataType.
        casts: how many casts come before it, behind the step before.
        pairs: the Q/DQ pairs there.
    """

    node: Node | None
    type: int
    casts: int
    pairs: tuple[Pair, ...]


class BrokenPathError(Exception):
    """An output is not computed from the images. The text says why, as the end of a sentence about the file."""


def path_to(output: str, producers: Mapping[str, Node], inputs: Sequence[str]) -> tuple[Step, ...]:
    """The steps from an input of the graph to an output. Each reads the one before as its first input.

    The last step has no node: it holds the casts before the output itself.

    Args:
        output: the name of the output.
        producers: the node that computes each value, by the value's name.
        inputs: names of the graph's inputs.

    Raises:
        BrokenPathError: a value is missing, the nodes form a circle, or half of a Q/DQ pair is missing.
    """
    nodes: list[Node] = []
    value, seen = output, set[str]()
    while value not in inputs:
        node = producers.get(value)
        if node is None:
            reader = f"{nodes[-1].name} reads" if nodes else "it returns"
            raise BrokenPathError(f"{reader} {value}, which no node computes from the images")
        if value in seen:
            raise BrokenPathError(f"its nodes form a circle at {node.name}")
        seen.add(value)
        nodes.append(node)
        value = node.inputs[0] if node.inputs else ""
    return tuple(_steps(nodes[::-1]))


def _steps(nodes: Sequence[Node]) -> list[Step]:
    steps, pairs, casts, kind = [], list[Pair](), 0, ElementType.UINT8
    pending: Node | None = None  # a QuantizeLinear before its DequantizeLinear
    for node in nodes:
        if (pending is not None) != (node.operator == DEQUANTIZE):
            alone = node if pending is None else pending
            raise BrokenPathError(f"{alone.name} is half of a Q/DQ pair: the other half is missing")
        if node.operator == QUANTIZE:
            pending = node
        elif pending is not None:
            pairs.append(Pair(pending, node, kind))
            pending = None
        elif node.operator == CAST:
            to = node.attributes.get("to")
            kind, casts = to if isinstance(to, int) else 0, casts + 1
        else:
            steps.append(Step(node, kind, casts, tuple(pairs)))
            pairs, casts = [], 0
    if pending is not None:
        raise BrokenPathError(f"{pending.name} is half of a Q/DQ pair: the other half is missing")
    return [*steps, Step(None, kind, casts, tuple(pairs))]
