"""FP16: which layers would overflow, and what rounding costs.

CPU runtimes compute FP16 files in FP32 between casts, so agreement on a CPU does not prove that FP16 arithmetic works.
Overflow is therefore judged from measured activations, and rounding from a copy of the graph that rounds all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from vgg_deploy.errors import VGGDeployError
from vgg_deploy.inference.engine import Scores
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Floats, Images

LARGEST_FLOAT16 = 65504.0
# A layer stays in FP32 if its largest measured activation, times this, passes FP16's range: other images may give
# larger values than the calibration images.
HEADROOM = 2.0


def measure_activations(
    run: Callable[[Images], Scores], batches: Iterable[Images], spec: NetworkSpec
) -> dict[str, float]:
    """The largest absolute output of each layer with weights, before its ReLU.

    Args:
        run: the `run` of an engine that gives every layer's `activations`.
        batches: uint8 [n, h, w, 3].

    Raises:
        VGGDeployError: an activation is NaN or infinite.
    """
    largest = {layer.name: 0.0 for layer in spec.weight_layers}
    for images in batches:
        activations = run(images).activations
        for name in largest:
            value = float(np.abs(activations[name]).max())
            if not np.isfinite(value):
                raise VGGDeployError(
                    f"{name} returns {value} on a calibration image even in float32: the weights are damaged"
                )
            largest[name] = max(largest[name], value)
    return largest


def overflowing_layers(spec: NetworkSpec, largest: Mapping[str, float]) -> tuple[str, ...]:
    """The layers that must stay in FP32: those whose output may overflow FP16, and those that read such an output."""
    float32_layers, previous_overflows = [], False
    for layer in spec.weight_layers:
        overflows = largest[layer.name] * HEADROOM > LARGEST_FLOAT16
        if overflows or previous_overflows:
            float32_layers.append(layer.name)
        previous_overflows = overflows
    return tuple(float32_layers)


def unrepresentable_layers(weights: Mapping[str, Floats]) -> tuple[str, ...]:
    """Layers with weights or biases outside FP16's range."""
    names = (name.rpartition(".")[0] for name, value in weights.items() if np.abs(value).max() > LARGEST_FLOAT16)
    return tuple(dict.fromkeys(names))


def rounding_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` with FP32 instead of FP16, in which weights and activations are rounded to FP16 as in `model`.

    INT8 layers stay INT8. ONNX Runtime keeps the pairs of casts that round; OpenVINO removes them.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    half = {value.name for value in copy.graph.initializer if value.data_type == TensorProto.FLOAT16}
    for tensor in copy.graph.initializer:
        if tensor.name in half:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.data_type, tensor.raw_data = TensorProto.FLOAT, values.tobytes()
    nodes = []
    for node in copy.graph.node:
        output = node.output[0]
        if node.op_type == "Cast" and _cast_type(node) == TensorProto.FLOAT16:
            nodes.extend(_rounding(node.input[0], output))
            half.add(output)
        elif node.op_type in ("Cast", "QuantizeLinear") or half.isdisjoint(node.input):
            nodes.append(node)
        elif node.op_type in ("Relu", "MaxPool"):  # exact: they select from values that are already rounded
            nodes.append(node)
            half.add(output)
        else:
            node.output[0] = f"{output}/exact"
            nodes.extend([node, *_rounding(f"{output}/exact", output)])
            half.add(output)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _rounding(exact: str, rounded: str) -> list[onnx.NodeProto]:
    """Nodes that round float32 `exact` to FP16 and return it as float32 `rounded`."""
    return [
        helper.make_node("Cast", [exact], [f"{rounded}/half"], name=f"{rounded}/to_half", to=TensorProto.FLOAT16),
        helper.make_node("Cast", [f"{rounded}/half"], [rounded], name=f"{rounded}/from_half", to=TensorProto.FLOAT),
    ]


def _cast_type(node: onnx.NodeProto) -> int:
    return int(next(attribute.i for attribute in node.attribute if attribute.name == "to"))
