"""An ONNX file as TensorRT's parser reads it, and the type in which each of its layers computes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.trt.backend import Backend, logger
from vgg_deploy.network.precision import FLOAT16, FLOAT32, INT8


@dataclass(frozen=True, slots=True)
class Parsed:
    """A parsed network, with the objects on which it depends.

    Attributes:
        builder: TensorRT's `Builder`.
        network: its `INetworkDefinition`, strongly typed: the file's types are the plan's.
        parser: the `OnnxParser`, which owns the weights.
        complete: whether the parser accepted the whole file.
    """

    builder: Any
    network: Any
    parser: Any
    complete: bool


def parse(backend: Backend, builder: Any, onnx: Path) -> Parsed:
    """Parses an ONNX file. `complete` is false if the parser refused a part of it."""
    trt = backend.trt
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger(backend))
    return Parsed(builder, network, parser, bool(parser.parse_from_file(str(onnx))))


def layer_types(trt: Any, network: Any) -> dict[str, str]:
    """The type of each convolution of a parsed network, by its name: float32, float16, int8, or another type's name.

    A convolution computes in INT8 if both its data and its kernel come from a DEQUANTIZE layer that reads INT8.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {}
    for layer in layers:
        for index in range(layer.num_outputs):
            tensor = layer.get_output(index)
            producers[tensor.name] = layer

    def eight_bit(tensor: Any) -> bool:
        layer = producers.get(tensor.name)
        if layer is None or layer.type != trt.LayerType.DEQUANTIZE:
            return False
        quantized = layer.get_input(0)
        return bool(quantized.dtype == trt.DataType.INT8)

    types = {}
    for layer in layers:
        if layer.type == trt.LayerType.CONVOLUTION:
            inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
            int8 = len(inputs) > 1 and eight_bit(inputs[0]) and eight_bit(inputs[1])
            types[str(layer.name)] = INT8 if int8 else _name(trt, inputs[0].dtype)
    return types


def _name(trt: Any, dtype: Any) -> str:
    known = {trt.DataType.FLOAT: FLOAT32, trt.DataType.HALF: FLOAT16, trt.DataType.BF16: "bfloat16"}
    return known.get(dtype) or str(dtype.name).lower()
