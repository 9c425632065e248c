"""The type in which each layer of an ONNX graph computes, from its nodes rather than its manifest."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from vgg_deploy.network.precision import FLOAT16, FLOAT32, INT8

UNKNOWN = "unknown"
_TYPES: dict[int, str] = {TensorProto.FLOAT: FLOAT32, TensorProto.FLOAT16: FLOAT16}
# Operators whose output has the type of their input.
_SAME_TYPE = ("Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")


def node_name(node: onnx.NodeProto) -> str:
    """A node's name. If it has none, the name that TensorRT gives it, which is based on its first output."""
    return str(node.name or f"node_of_{next(iter(node.output), '')}")


def layer_types(model: onnx.ModelProto) -> dict[str, str]:
    """The type of each convolution by its node's name, in the graph's order: float32, float16, int8, another or
    unknown.

    A convolution computes in INT8 if both its data and its weights come from an 8-bit DequantizeLinear. The model may
    be a header without weights.
    """
    graph = model.graph
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}

    def eight_bit(tensor: str) -> bool:
        node = producers.get(tensor)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        quantized = _input(node, 0)
        return constants.get(quantized) in (TensorProto.INT8, TensorProto.UINT8) or (
            quantized in producers and producers[quantized].op_type == "QuantizeLinear"
        )

    def weight_type(tensor: str) -> str:
        node, seen = producers.get(tensor), set[str]()
        while node is not None and (node.op_type in _SAME_TYPE or node.op_type == "DequantizeLinear"):
            if tensor in seen:  # the nodes form a circle
                return UNKNOWN
            seen.add(tensor)
            # The output of a DequantizeLinear has the type of its scale.
            tensor = _input(node, 1 if node.op_type == "DequantizeLinear" else 0)
            node = producers.get(tensor)
        kind: int | None = constants.get(tensor) if node is None else _output_type(node)
        if kind is None or kind not in TensorProto.DataType.values():
            return UNKNOWN
        return _TYPES.get(kind, str(TensorProto.DataType.Name(kind)).lower())

    return {
        node_name(node): INT8
        if eight_bit(_input(node, 0)) and eight_bit(_input(node, 1))
        else weight_type(_input(node, 1))
        for node in graph.node
        if node.op_type == "Conv"
    }


def _input(node: onnx.NodeProto, index: int) -> str:
    """The name of an input; empty if a damaged node does not have it."""
    return str(node.input[index]) if len(node.input) > index else ""


def _output_type(node: onnx.NodeProto) -> int | None:
    """The output type of a Cast or a Constant; None for another operator."""
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            return int(attribute.i)
        if node.op_type == "Constant" and attribute.name == "value":
            return int(attribute.t.data_type)
    return None
