"""The fully convolutional ONNX graph of a network, node by node, from its spec and weights.

It is written with onnx's own helpers, not traced. So it has the paper's names, one `LRN` node, free axes, exact types,
and no second copy of the weights. It is trusted because `verify` compares it with PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.graph_writer import FLOAT, HALF, NUMPY_TYPES, GraphWriter
from export.qdq import Quantizers
from vgg_deploy.artifacts.export_options import GraphOptions
from vgg_deploy.artifacts.onnx_format import IR_VERSION, OPSET, PRODUCER
from vgg_deploy.network.manifest import Normalization
from vgg_deploy.network.quantized_inputs import SPATIAL_MEAN
from vgg_deploy.network.spec import LRN, Layer, NetworkSpec
from vgg_deploy.network.tensors import FEATURES, PROBABILITIES, SCORE_MAP, Floats
from vgg_deploy.version import __version__

INPUT = "images"


def build_graph(
    spec: NetworkSpec,
    weights: MutableMapping[str, Floats],
    normalization: Normalization,
    options: GraphOptions,
    writer: Callable[[onnx.ModelProto, str], GraphWriter] = GraphWriter,
) -> onnx.ModelProto:
    """The network as ONNX: uint8 images [n, h, w, 3] in, posteriors [n, classes] out.

    Args:
        spec: the network.
        weights: float32 by name, in FC or convolutional form. They are removed one by one, so no weight is held twice.
        normalization: applied inside the graph, in float32, before anything else.
        options: precision, free axes and outputs.
        writer: makes the writer of the graph. It decides what becomes of the values of the tensors.
    """
    graph = writer(_empty_model(spec, options), INPUT)
    _normalize(graph, normalization)
    quantizers = Quantizers(spec, options.quantization, options.score_map)
    for layer in spec.layers:
        kind = HALF if options.half and layer.name not in options.float32_layers else FLOAT
        if layer.name == "fc8" and not options.score_map:
            quantizers.before(graph, SPATIAL_MEAN)
            _spatial_mean(graph, options)
        if layer.name == "fc8" and options.score_map and options.features:
            if quantizers.quantizes_output("fc7"):
                quantizers.before(graph, "fc8")
            _features_from_map(graph, kind)
        _layer(graph, layer, weights, kind, quantizers)
    _posteriors(graph, options)
    return graph.model


def _normalize(graph: GraphWriter, normalization: Normalization) -> None:
    # Cast comes first: TensorRT takes no other operator on a uint8 input. The std is not folded into conv1_1, whose
    # weights would then fall below FP16's normal range.
    graph.cast(FLOAT, "cast")  # [n, h, w, 3]
    graph.add("Sub", "subtract_mean", graph.constant("mean_rgb", np.array(normalization.mean, np.float32)))
    if normalization.std != (1.0, 1.0, 1.0):
        graph.add("Div", "divide_std", graph.constant("std_rgb", np.array(normalization.std, np.float32)))
    graph.add("Transpose", "transpose", perm=[0, 3, 1, 2])  # [n, 3, h, w]


def _layer(
    graph: GraphWriter, layer: Layer, weights: MutableMapping[str, Floats], kind: int, quantizers: Quantizers
) -> None:
    if layer.has_weights:
        graph.cast(kind, f"{layer.name}_to_{helper.tensor_dtype_to_np_dtype(kind).name}")
    quantizers.before(graph, layer.name)
    if layer.kind == "pool":
        graph.add("MaxPool", layer.name, kernel_shape=[2, 2], strides=[layer.stride] * 2)
    elif layer.kind == "lrn":
        # Squares of activations pass 65,504, where FP16 ends.
        graph.cast(FLOAT, f"{layer.name}_to_float32")
        graph.add("LRN", layer.name, **LRN)
    else:
        weight = weights.pop(f"{layer.name}.weight").reshape(layer.weight_shape)
        constants = quantizers.constants(graph, layer.name, weight, weights.pop(f"{layer.name}.bias"))
        shape: dict[str, Any] = {"kernel_shape": [layer.kernel] * 2, "pads": [layer.padding] * 4, "strides": [1, 1]}
        if layer.dilation > 1:
            shape["dilations"] = [layer.dilation] * 2
        graph.add("Conv", layer.name, *constants, **shape)
        if layer.has_relu and layer.name in quantizers.at_risk:
            name = relu_name(layer.name)  # a ReLU that ONNX Runtime does not recognize
            graph.add("Max", name, graph.constant(f"{name}.zero", np.zeros((), NUMPY_TYPES[graph.type])))
        elif layer.has_relu:
            graph.add("Relu", relu_name(layer.name))


def relu_name(layer: str) -> str:
    """conv1_1 -> relu1_1, fc6 -> relu6."""
    return "relu" + layer.removeprefix("conv").removeprefix("fc")


def _spatial_mean(graph: GraphWriter, options: GraphOptions) -> None:
    """The mean over positions: [n, fc_width, 1, 1]. It commutes with fc8, so it comes first: fc8 runs on one position.

    It is computed in FP32, because a sum over hundreds of positions may exceed FP16's range.
    """
    graph.cast(FLOAT, "spatial_mean_to_float32")
    graph.add("GlobalAveragePool", SPATIAL_MEAN)
    if options.features:
        mean = graph.tensor
        graph.add("Flatten", FEATURES, axis=1)  # [n, fc_width]
        graph.tensor = mean


def _features_from_map(graph: GraphWriter, fc8: int) -> None:
    """Adds `features`, the mean of fc7, if fc8 (of type `fc8`) runs on the map and so does not need that mean."""
    before = graph.tensor, graph.type
    graph.cast(FLOAT, "features_to_float32")
    if fc8 == FLOAT:  # fc8 reads the same cast
        before = graph.tensor, graph.type
    graph.add("GlobalAveragePool", "features_mean")  # [n, fc_width, 1, 1]
    graph.add("Flatten", FEATURES, axis=1)  # [n, fc_width]
    graph.tensor, graph.type = before


def _posteriors(graph: GraphWriter, options: GraphOptions) -> None:
    if options.score_map:
        # If no cast follows, the output of fc8 itself is named `score_map`.
        if graph.type == FLOAT:
            graph.model.graph.node[-1].output[0] = SCORE_MAP
            graph.tensor = SCORE_MAP
        graph.cast(FLOAT, "scores_to_float32", output=SCORE_MAP)
        graph.add("GlobalAveragePool", "spatial_mean")  # [n, classes, rows, columns] -> [n, classes, 1, 1]
    else:
        graph.cast(FLOAT, "scores_to_float32")
    graph.add("Flatten", "scores", axis=1)  # [n, classes]
    graph.add("Softmax", "softmax", output=PROBABILITIES, axis=1)


def _empty_model(spec: NetworkSpec, options: GraphOptions) -> onnx.ModelProto:
    """A model with header, input and outputs. Nodes are added in place, because `make_graph` of onnx copies weights."""
    batch: tuple[Any, ...] = ("batch", "height", "width") if options.dynamic else (1, spec.crop, spec.crop)
    rows, columns = ("rows", "columns") if options.dynamic else (1, 1)
    shapes = {
        PROBABILITIES: (batch[0], spec.classes),
        SCORE_MAP: (batch[0], spec.classes, rows, columns),
        FEATURES: (batch[0], spec.fc_width),
    }
    model = onnx.ModelProto(ir_version=IR_VERSION, producer_name=PRODUCER, producer_version=__version__)
    model.opset_import.append(helper.make_opsetid("", OPSET))
    model.graph.name = spec.common_name
    model.graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, (*batch, 3)))
    for name in options.outputs:
        model.graph.output.append(helper.make_tensor_value_info(name, FLOAT, shapes[name]))
    return model
