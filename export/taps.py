"""A copy of an exported graph that also gives each layer's activation, for finding where two files part."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper

from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import ACTIVATION


def with_activations(model: onnx.ModelProto, spec: NetworkSpec) -> onnx.ModelProto:
    """Adds an output float32 `activation/LAYER` for each layer of the spec that the graph has a node of."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensors = {node.name: node.output[0] for node in copy.graph.node}
    for layer in spec.layers:
        # A copy that rounds to FP16 has two nodes more behind each; the last of them has the layer's value.
        tensor = tensors.get(f"{layer.name}/from_half", tensors.get(layer.name))
        if tensor is None:
            continue
        name = ACTIVATION + layer.name
        copy.graph.node.append(helper.make_node("Cast", [tensor], [name], name=name, to=TensorProto.FLOAT))
        copy.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return copy
