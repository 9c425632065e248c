"""In what type each layer of an ONNX graph computes, read from its nodes: what the file does, not what its manifest says."""

from __future__ import annotations

import onnx
from onnx import TensorProto

from vgg_deploy.precision import FLOAT16, FLOAT32, INT8

_TYPES = {TensorProto.FLOAT: FLOAT32, TensorProto.FLOAT16: FLOAT16}


def layer_types(model: onnx.ModelProto) -> dict[str, str]:
    """float32, float16, int8 (or another type's name) of each convolution, by its node's name, in the graph's order.

    A convolution computes in INT8 where both its data and its weights come from a DequantizeLinear of 8 bit. Weights need not
    be in the model: a header will do.
    """
    graph = model.graph
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}

    def eight_bit(tensor: str) -> bool:
        node = producers.get(tensor)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        quantized = node.input[0]
        return constants.get(quantized) in (TensorProto.INT8, TensorProto.UINT8) or (
            quantized in producers and producers[quantized].op_type == "QuantizeLinear"
        )

    def weight_type(tensor: str) -> str:
        node = producers.get(tensor)
        if node is not None and node.op_type == "DequantizeLinear":
            tensor = node.input[1]  # its scale has the type that it gives
        kind = constants.get(tensor, TensorProto.UNDEFINED)
        return _TYPES.get(kind, str(TensorProto.DataType.Name(kind)).lower())

    return {
        node.name: INT8 if eight_bit(node.input[0]) and eight_bit(node.input[1]) else weight_type(node.input[1])
        for node in graph.node
        if node.op_type == "Conv"
    }
