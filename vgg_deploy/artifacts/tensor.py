"""The tensors of an ONNX file: type, shape and bytes, however the file stores them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vgg_deploy.artifacts.external_data import external_range
from vgg_deploy.artifacts.onnx_format import ElementType, GraphField, TensorField
from vgg_deploy.artifacts.protobuf import Message, NotProtobufError, TruncatedError, mapped

# For each type with whole bytes: how its values lie in raw data, and the field that may hold them instead. Types
# without a dtype of numpy, such as bfloat16, are kept as integers of their size.
_LAYOUTS: dict[int, tuple[np.dtype[Any], int]] = {
    ElementType.FLOAT: (np.dtype("<f4"), TensorField.FLOATS),
    ElementType.UINT8: (np.dtype("u1"), TensorField.INTEGERS),
    ElementType.INT8: (np.dtype("i1"), TensorField.INTEGERS),
    ElementType.UINT16: (np.dtype("<u2"), TensorField.INTEGERS),
    ElementType.INT16: (np.dtype("<i2"), TensorField.INTEGERS),
    ElementType.INT32: (np.dtype("<i4"), TensorField.INTEGERS),
    ElementType.INT64: (np.dtype("<i8"), TensorField.LONG_INTEGERS),
    ElementType.BOOL: (np.dtype("?"), TensorField.INTEGERS),
    ElementType.FLOAT16: (np.dtype("<f2"), TensorField.INTEGERS),
    ElementType.DOUBLE: (np.dtype("<f8"), TensorField.DOUBLES),
    ElementType.UINT32: (np.dtype("<u4"), TensorField.UNSIGNED_LONG_INTEGERS),
    ElementType.UINT64: (np.dtype("<u8"), TensorField.UNSIGNED_LONG_INTEGERS),
    ElementType.BFLOAT16: (np.dtype("<u2"), TensorField.INTEGERS),
}
_PART = 1 << 22  # bytes of packed integers that are decoded at a time


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that a file stores: an initializer of its graph.

    Attributes:
        name: its name.
        element: its type, a number of onnx.TensorProto.DataType.
        shape: its sizes.
        data: its values, little-endian and in order: a view into the mapped file where possible. It is empty if the
            file does not hold exactly one copy of them, and may be shorter or longer than the shape needs.
    """

    name: str
    element: int
    shape: tuple[int, ...]
    data: memoryview

    @staticmethod
    def of(tensor: Message, folder: Path, files: dict[str, memoryview]) -> StoredTensor:
        """From a TensorProto.

        Args:
            folder: the model's folder.
            files: the mapped files of external data, by location. New ones are added.

        Raises:
            OSError: external data cannot be read.
            TruncatedError, NotProtobufError: the tensor is damaged.
        """
        kind, shape = tensor.number(TensorField.TYPE), tensor.packed(TensorField.DIMENSIONS)
        data = _data(tensor, kind, folder, files)
        return StoredTensor(tensor.text(TensorField.NAME), kind, shape, memoryview(b"") if data is None else data)

    @property
    def values(self) -> npt.NDArray[Any] | None:
        """The values as an array of its shape; None if they are not whole, or of a type that numpy does not have."""
        dtype = None if self.element == ElementType.BFLOAT16 else _LAYOUTS.get(self.element, (None, 0))[0]
        if dtype is None or min(self.shape, default=1) < 0 or len(self.data) != math.prod(self.shape) * dtype.itemsize:
            return None
        return np.frombuffer(self.data, dtype).reshape(self.shape)

    @property
    def sha256(self) -> str:
        """SHA-256 of type, shape and values, in hexadecimal. It does not depend on how the file stores the values."""
        import hashlib  # slow: it loads OpenSSL

        digest = hashlib.sha256(f"{self.element} {list(self.shape)} ".encode())
        digest.update(self.data)
        return digest.hexdigest()


def read_tensors(graph: Message, folder: Path) -> Iterator[StoredTensor]:
    """Yields the initializers of a GraphProto, in its order. Raises the errors of `StoredTensor.of`.

    Args:
        folder: the model's folder, with the files that hold its external data.
    """
    files: dict[str, memoryview] = {}
    for tensor in graph.messages(GraphField.INITIALIZERS):
        yield StoredTensor.of(tensor, folder, files)


def _data(tensor: Message, kind: int, folder: Path, files: dict[str, memoryview]) -> memoryview | None:
    """The values as bytes; None if the tensor has them in several places, or in a field of another type."""
    held = [field for field in TensorField.DATA if field in tensor and any(map(_size, tensor.values(field)))]
    external = external_range(tensor)
    if len(held) + (external is not None) > 1:
        return None  # a runtime may choose another copy than we would
    if external is not None:
        location, offset, length = external
        if location not in files:
            files[location] = mapped(folder / location)
        data = files[location]
        return data[offset : len(data) if length is None else offset + length]
    if held in ([], [TensorField.RAW_DATA]):
        return tensor.data(TensorField.RAW_DATA)
    layout = _LAYOUTS.get(kind)
    if layout is None:  # texts, and types of less than a byte
        texts = [bytes(value) for value in tensor.values(held[0]) if isinstance(value, memoryview)]
        return memoryview(b"".join(f"{len(text)} ".encode() + text for text in texts))
    if held != [layout[1]]:
        return None
    dtype, field = layout
    parts = [_decoded(value, dtype, field) for value in tensor.values(field)]
    return memoryview(np.concatenate(parts).tobytes())


def _size(value: memoryview | int | float) -> int:
    return len(value) if isinstance(value, memoryview) else 1


def _decoded(value: memoryview | int | float, dtype: np.dtype[Any], field: int) -> npt.NDArray[Any]:
    """A part of a repeated field: a single number, or several packed ones. Integers stand for the bits of FP16."""
    if isinstance(value, float):
        return np.array([value], dtype)
    if isinstance(value, memoryview) and field in (TensorField.FLOATS, TensorField.DOUBLES):
        if len(value) % dtype.itemsize:
            raise TruncatedError("packed numbers end within one")
        return np.frombuffer(value, dtype)
    integers = np.array([value], np.uint64) if isinstance(value, int) else _packed_integers(value)
    if dtype.kind == "f":
        return integers.astype(f"<u{dtype.itemsize}").view(dtype)
    return integers.astype(dtype)


def _packed_integers(packed: memoryview) -> npt.NDArray[np.uint64]:
    """The numbers of packed varints: uint64 [n]; a negative number as its two's complement."""
    octets = np.frombuffer(packed, np.uint8)  # [bytes]
    if len(octets) and octets[-1] >= 0x80:
        raise TruncatedError("packed numbers end within one")
    parts, position = [np.zeros(0, np.uint64)], 0
    while position < len(octets):
        part = octets[position : position + _PART]
        ends = np.flatnonzero(part < 0x80)  # [n]
        if not len(ends):
            raise NotProtobufError("a number of more than ten bytes")
        starts = np.concatenate(([0], ends[:-1] + 1))  # [n]
        lengths = ends - starts + 1  # [n]
        if lengths.max() > 10:
            raise NotProtobufError("a number of more than ten bytes")
        numbers = np.zeros(len(ends), np.uint64)
        for index in range(int(lengths.max())):
            longer = lengths > index
            bits = (part[starts[longer] + index] & 0x7F).astype(np.uint64)
            numbers[longer] |= bits << np.uint64(7 * index)
        parts.append(numbers)
        position += int(ends[-1]) + 1
    return np.concatenate(parts)
