"""An ONNX graph that is written node by node, each reading what the one before gave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from export.quantize import Levels

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
NUMPY_TYPES: dict[int, Any] = {FLOAT: np.float32, HALF: np.float16}


@dataclass
class GraphWriter:
    """The model being written, and the tensor that the next node reads, with its type."""

    model: onnx.ModelProto
    tensor: str
    type: int = TensorProto.UINT8

    def add(self, operator: str, name: str, *constants: str, output: str | None = None, **attributes: Any) -> None:
        """A node that reads the current tensor and `constants`; its output, named as the node, becomes the current tensor."""
        output = output or name
        node = helper.make_node(operator, [self.tensor, *constants], [output], name=name, **attributes)
        self.model.graph.node.append(node)
        self.tensor = output

    def constant(self, name: str, values: np.ndarray[Any, Any]) -> str:
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        self.model.graph.initializer.add(name=name, data_type=kind, dims=values.shape, raw_data=values.tobytes())
        return name

    def quantize(self, levels: Levels, name: str) -> None:
        """The current tensor in eight bits and back; the levels' scale has its type."""
        constants = self.constant(f"{name}.scale", levels.scale), self.constant(f"{name}.zero_point", levels.zero_point)
        self.add("QuantizeLinear", f"{name}_quantize", *constants)
        self.add("DequantizeLinear", f"{name}_dequantize", *constants)

    def integers(self, name: str, values: np.ndarray[Any, Any], scales: np.ndarray[Any, Any]) -> str:
        """A constant stored as integers with one scale for each of its first axis; gives the tensor read back."""
        zero_points = self.constant(f"{name}.zero_point", np.zeros(len(scales), values.dtype))
        inputs = [self.constant(f"{name}.integers", values), self.constant(f"{name}.scale", scales), zero_points]
        node = helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}_dequantize", axis=0)
        self.model.graph.node.append(node)
        return name

    def cast(self, kind: int, name: str, output: str | None = None) -> None:
        """The current tensor as `kind`; no node where it is that already, unless an output name is wanted."""
        if self.type != kind:
            self.add("Cast", name, output=output, to=kind)
            self.type = kind
