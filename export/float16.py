"""FP16: where it would overflow, and what its rounding costs.

CPU runtimes compute FP16 files in FP32 between casts, so that agreement there does not prove that FP16 arithmetic survives.
Overflow is therefore judged from measured activations, and rounding from a copy of the graph that rounds every activation.
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
# A layer is kept in FP32 when its largest measured activation, times this, passes FP16's range: other images reach further
# than the calibration's.
HEADROOM = 2.0


def measure_activations(
    run: Callable[[Images], Scores], batches: Iterable[Images], spec: NetworkSpec
) -> dict[str, float]:
    """The largest absolute output of each layer with weights, before its ReLU.

    Args:
        run: an engine's, whose scores have every layer's `activations`.
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
                    f"{name} gives {value} on a calibration image in float32 already: the weights are damaged"
                )
            largest[name] = max(largest[name], value)
    return largest


def overflowing_layers(spec: NetworkSpec, largest: Mapping[str, float]) -> tuple[str, ...]:
    """The layers to keep in FP32: those whose output may overflow FP16, and those that read such an output."""
    kept, previous_overflows = [], False
    for layer in spec.weight_layers:
        overflows = largest[layer.name] * HEADROOM > LARGEST_FLOAT16
        if overflows or previous_overflows:
            kept.append(layer.name)
        previous_overflows = overflows
    return tuple(kept)


def unrepresentable_layers(weights: Mapping[str, Floats]) -> tuple[str, ...]:
    """Layers whose weights or biases themselves lie outside FP16's range."""
    names = (name.rpartition(".")[0] for name, value in weights.items() if np.abs(value).max() > LARGEST_FLOAT16)
    return tuple(dict.fromkeys(names))


def rounding_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model in FP32, and INT8 where `model` is, that rounds to FP16 wherever `model` computes in FP16: weights and activations.

    ONNX Runtime keeps the pairs of casts that do the rounding; OpenVINO removes them.
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
        elif node.op_type in ("Relu", "MaxPool"):  # exact: they only choose among values that are rounded already
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
    """float32 `exact` -> float32 `rounded`, by way of FP16."""
    return [
        helper.make_node("Cast", [exact], [f"{rounded}/half"], name=f"{rounded}/to_half", to=TensorProto.FLOAT16),
        helper.make_node("Cast", [f"{rounded}/half"], [rounded], name=f"{rounded}/from_half", to=TensorProto.FLOAT),
    ]


def _cast_type(node: onnx.NodeProto) -> int:
    return int(next(attribute.i for attribute in node.attribute if attribute.name == "to"))
