"""Compares the tensors of a file with those that its source gives, bit for bit, while the graph is built."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, helper

from export.graph_writer import GraphWriter
from vgg_deploy.artifacts.tensor import StoredTensor

_BLOCK = 1 << 22  # values compared at a time, so that comparing needs little memory
_WHOLE = 3  # tensors of at most so many values are shown whole


@dataclass(frozen=True, slots=True)
class TensorDifference:
    """How a tensor differs from what its source gives.

    Attributes:
        tensor: its name.
        text: what differs, as one line.
        share: the part of its values that differ, 0..1.
    """

    tensor: str
    text: str
    share: float


class TensorComparison:
    """Compares tensors one by one with those that a file stores.

    Args:
        stored: the tensors of the file. If a name occurs twice, the graph differs, which is not found here.

    Attributes:
        differences: of the tensors compared so far.
        tensors, values: how many were compared.
    """

    def __init__(self, stored: Iterable[StoredTensor]) -> None:
        self._stored = {tensor.name: tensor for tensor in stored}
        self.differences: list[TensorDifference] = []
        self.tensors, self.values = 0, 0

    def writer(self, model: ModelProto, tensor: str) -> GraphWriter:
        """A writer that compares each tensor instead of storing it; see `export.graph.build_graph`."""
        return _ComparingWriter(model, tensor, comparison=self)

    def compare(self, name: str, expected: npt.NDArray[Any]) -> None:
        """Compares the tensor `name`. One that is missing, or has another type or shape, is a difference of the graph,
        which is not found here.
        """
        stored = self._stored.get(name)
        kind = helper.np_dtype_to_tensor_dtype(expected.dtype)
        if stored is None or stored.element != kind or stored.shape != expected.shape:
            return
        self.tensors += 1
        self.values += expected.size
        if len(stored.data) != expected.nbytes:
            text = f"{name} has {len(stored.data):,} bytes of values; expected {expected.nbytes:,}"
            self.differences.append(TensorDifference(name, text, 1.0))
            return
        received = np.frombuffer(stored.data, expected.dtype.newbyteorder("<")).reshape(expected.shape)
        text, differing = _difference(name, received, np.asarray(expected, order="C"))
        if differing:
            self.differences.append(TensorDifference(name, text, differing / expected.size))


@dataclass
class _ComparingWriter(GraphWriter):
    """Declares each tensor without data, and compares its values."""

    comparison: TensorComparison = field(kw_only=True)

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        self.declare(name, values)
        self.comparison.compare(name, values)
        return name


def _difference(name: str, received: npt.NDArray[Any], expected: npt.NDArray[Any]) -> tuple[str, int]:
    """How two arrays of one shape and type differ, and in how many values."""
    differing, filters, first = 0, 0, -1
    width = math.prod(expected.shape[1:])
    for row, different in _blocks(_bits(received), _bits(expected)):
        if not different.any():
            continue
        if first < 0:
            first = row * width + int(np.flatnonzero(different)[0])
        counts = different.reshape(-1, width).sum(axis=1)  # [filters of the block]
        differing, filters = differing + int(counts.sum()), filters + int(np.count_nonzero(counts))
    if not differing:
        return "", 0
    if expected.size <= _WHOLE:
        return f"{name} is {_shown(received, expected)}, but {_origin(name)} {_shown(expected, received)}", differing
    where = f" in {filters:,} of {len(expected):,} filters" if expected.ndim == 4 else ""
    place = np.unravel_index(first, expected.shape)
    pair = received[place], expected[place]
    return (
        f"{name}: {differing:,} of {expected.size:,} values {'differs' if differing == 1 else 'differ'}{where}; "
        f"[{', '.join(map(str, place))}] is {_shown(*pair)} instead of {_shown(*pair[::-1])}{_hint(received, expected)}"
    ), differing


def _blocks(received: npt.NDArray[Any], expected: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """The first row of each block of rows, and which of its values differ."""
    rows = max(1, _BLOCK // max(1, math.prod(expected.shape[1:])))
    for row in range(0, len(expected), rows):
        yield row, received[row : row + rows] != expected[row : row + rows]


def _bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Values as unsigned integers of the same bits: 0.0 and -0.0 differ, and a NaN equals itself."""
    return np.atleast_1d(values.view(f"u{values.itemsize}"))


def _shown(values: Any, other: Any) -> str:
    """Values as text, in enough digits to tell them from `other`."""
    values, other = np.asarray(values), np.asarray(other)
    if str(values.tolist()) == str(other.tolist()):  # NaNs with other bits
        return ", ".join(hex(bits) for bits in _bits(values).ravel().tolist())
    texts = [str(value) for value in values.ravel()]
    return texts[0] if values.ndim == 0 else f"[{', '.join(texts)}]"


def _origin(name: str) -> str:
    """What decides a tensor of few values, with its verb."""
    if name.endswith((".input.scale", ".input.zero_point")):
        return "the recorded range gives"
    if name in ("mean_rgb", "std_rgb"):
        return f"the manifest's {name.removesuffix('_rgb')} is"
    return "expected is"


def _hint(received: npt.NDArray[Any], expected: npt.NDArray[Any]) -> str:
    """Says if conv1_1 only reads the channels of its input in reverse order."""
    if expected.ndim == 4 and expected.shape[1] == 3 and np.array_equal(received, expected[:, ::-1]):
        return ": its input channels are in reverse order, RGB and BGR"
    return ""
