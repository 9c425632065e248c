"""Writes an ONNX graph as a chain of nodes, each of which reads the output of the one before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from vgg_deploy.network.levels import Levels

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
NUMPY_TYPES: dict[int, Any] = {FLOAT: np.float32, HALF: np.float16}


@dataclass
class GraphWriter:
    """The model that is written, and the name and type of the current tensor, which the next node reads."""

    model: onnx.ModelProto
    tensor: str
    type: int = TensorProto.UINT8

    def add(self, operator: str, name: str, *constants: str, output: str | None = None, **attributes: Any) -> None:
        """Adds a node that reads the current tensor and `constants`. Its output becomes the current tensor.

        Args:
            output: the name of the output; None: the name of the node.
        """
        output = output or name
        node = helper.make_node(operator, [self.tensor, *constants], [output], name=name, **attributes)
        self.model.graph.node.append(node)
        self.tensor = output

    def constant(self, name: str, values: np.ndarray[Any, Any]) -> str:
        """Adds a constant and returns its name."""
        self.declare(name, values).raw_data = values.tobytes()
        return name

    def declare(self, name: str, values: np.ndarray[Any, Any]) -> TensorProto:
        """Adds a constant of the type and shape of `values`, without data."""
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        declared: TensorProto = self.model.graph.initializer.add(name=name, data_type=kind, dims=values.shape)
        return declared

    def quantize(self, levels: Levels, name: str) -> None:
        """Quantizes the current tensor to eight bits and back. The scale of `levels` must have its type."""
        constants = self.constant(f"{name}.scale", levels.scale), self.constant(f"{name}.zero_point", levels.zero_point)
        self.add("QuantizeLinear", f"{name}_quantize", *constants)
        self.add("DequantizeLinear", f"{name}_dequantize", *constants)

    def integers(self, name: str, values: np.ndarray[Any, Any], scales: np.ndarray[Any, Any]) -> str:
        """Adds a constant stored as integers with a scale for each index of its first axis.

        Returns:
            the name of the dequantized tensor.
        """
        zero_points = self.constant(f"{name}.zero_point", np.zeros(len(scales), values.dtype))
        inputs = [self.constant(f"{name}.integers", values), self.constant(f"{name}.scale", scales), zero_points]
        node = helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}_dequantize", axis=0)
        self.model.graph.node.append(node)
        return name

    def cast(self, kind: int, name: str, output: str | None = None) -> None:
        """Casts the current tensor to `kind`, unless it already has that type."""
        if self.type != kind:
            self.add("Cast", name, output=output, to=kind)
            self.type = kind
