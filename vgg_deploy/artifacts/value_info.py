"""An input or output of an ONNX graph: its name, type and shape, read without onnx."""

from __future__ import annotations

from dataclasses import dataclass

from vgg_deploy.artifacts.onnx_format import ValueField
from vgg_deploy.artifacts.protobuf import Message


@dataclass(frozen=True, slots=True)
class ValueInfo:
    """An input or output of a graph.

    Attributes:
        name: its name.
        element: its type, a number of onnx.TensorProto.DataType.
        shape: its sizes; None for a dynamic axis.
    """

    name: str
    element: int
    shape: tuple[int | None, ...]

    @staticmethod
    def of(value: Message) -> ValueInfo:
        """From a ValueInfoProto."""
        tensor = value.message(ValueField.TYPE).message(ValueField.TYPE_TENSOR)
        axes = tensor.message(ValueField.TENSOR_SHAPE).messages(ValueField.SHAPE_AXES)
        sizes = (axis.number(ValueField.AXIS_SIZE) for axis in axes)
        # Some exporters write a dynamic axis as -1 or 0.
        shape = tuple(size if size > 0 else None for size in sizes)
        return ValueInfo(value.text(ValueField.NAME), tensor.number(ValueField.TENSOR_ELEMENT), shape)

    def __str__(self) -> str:
        """Type and shape, such as "uint8 [?, ?, ?, 3]"."""
        from onnx import TensorProto

        known = self.element in TensorProto.DataType.values()
        element = TensorProto.DataType.Name(self.element).lower() if known else f"type {self.element}"
        return f"{element} [{', '.join('?' if size is None else str(size) for size in self.shape)}]"
