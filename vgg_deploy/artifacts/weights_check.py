"""Compares the weights of a layer with its manifest: their shape and type, and the scales of integers."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vgg_deploy.artifacts.onnx_format import ElementType, type_name
from vgg_deploy.artifacts.onnx_graph import Node
from vgg_deploy.artifacts.tensor import StoredTensor
from vgg_deploy.network.levels import Levels, bias_scales
from vgg_deploy.network.spec import Layer

NO_DATA = " has no data"  # begins what is said of a tensor whose data are cut, beside its name


class WeightsCheck:
    """Checks the weights of the convolutions of a graph.

    Args:
        producers: the node that computes each value, by the value's name.
        tensors: the graph's initializers by name.
    """

    def __init__(self, producers: Mapping[str, Node], tensors: Mapping[str, StoredTensor]) -> None:
        self._producers, self._tensors = producers, tensors

    def contradictions(self, node: Node, layer: Layer, kind: int, levels: Levels | None, target: str) -> Iterator[str]:
        """What differs from the manifest in the weights of a convolution.

        Args:
            node: the convolution.
            layer: the layer that it should be.
            kind: the type of its input, a number of onnx.TensorProto.DataType.
            levels: how its input is stored if the layer is INT8; None if it is not.
            target: the runtime for which the file is quantized; see `Quantization`.
        """
        if len(node.inputs) != 3:
            yield f"{node.name} has {len(node.inputs)} inputs; expected its input, a weight and a bias"
            return
        weight, bias = node.inputs[1:]
        if levels is None:
            yield from self._tensor(weight, kind, layer.weight_shape)
            yield from self._tensor(bias, kind, (layer.out_channels,))
            return
        scales = yield from self._integers(weight, ElementType.INT8, layer.weight_shape, kind)
        if target == "tensorrt":  # TensorRT does not parse an integer bias; ONNX Runtime needs one
            yield from self._tensor(bias, kind, (layer.out_channels,))
            return
        found = yield from self._integers(bias, ElementType.INT32, (layer.out_channels,), kind)
        if scales is not None and found is not None and found.tobytes() != bias_scales(levels, scales).tobytes():
            yield f"the scales of {bias} are not those of its input times those of {weight}"

    def _tensor(self, name: str, kind: int, shape: tuple[int, ...]) -> Iterator[str]:
        tensor = self._tensors.get(name)
        if tensor is None:
            yield f"{name} is not among its tensors, or is computed by a node"
        elif tensor.element != kind or tensor.shape != shape:
            yield f"{name} is {_described(tensor.element, tensor.shape)}; expected {_described(kind, shape)}"
        elif tensor.values is None:
            yield f"{name}{NO_DATA}, too much or too little of it, or several copies"

    def _integers(
        self, name: str, kind: int, shape: tuple[int, ...], scale_kind: int
    ) -> Generator[str, None, npt.NDArray[Any] | None]:
        """Checks integers with a scale for each output channel; returns the scales, or None if they are wrong."""
        node = self._producers.get(name)
        if node is None or node.operator != "DequantizeLinear" or len(node.inputs) != 3:
            yield f"{name} is not computed from integers by a DequantizeLinear with a scale and a zero point"
            return None
        integers, scale, zero_point = node.inputs
        channels = shape[:1]
        faults = [
            *self._tensor(integers, kind, shape),
            *self._tensor(scale, scale_kind, channels),
            *self._tensor(zero_point, kind, channels),
        ]
        yield from faults
        if set(node.attributes) - {"axis"} or (len(shape) > 1 and node.attributes.get("axis", 1) != 0):
            attributes = ", ".join(f"{key}={value}" for key, value in node.attributes.items())
            yield f"{node.name} has {attributes or 'axis=1'}; expected axis=0, a scale for each output channel"
        if faults:
            return None
        scales, zeros = self._tensors[scale].values, self._tensors[zero_point].values
        if zeros is None or zeros.any():
            yield f"{zero_point} is not 0 everywhere"
        if scales is None or not (np.isfinite(scales) & (scales > 0)).all():
            yield f"{scale} has a scale that is not a number above 0"
            return None
        return scales


def _described(kind: int, shape: tuple[int, ...]) -> str:
    return f"{type_name(kind)} {list(shape)}"
