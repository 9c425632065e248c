"""Damages of weights that are kept in a file beside the graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto


def _weights(path: Path) -> Path:
    (weights,) = path.parent.glob("*.weights")
    return weights


def _old_weights(path: Path) -> None:
    """The weights of an earlier training under the name of the new ones."""
    old = np.frombuffer(_weights(path).read_bytes(), np.float32)
    _weights(path).write_bytes((old * np.float32(0.97)).tobytes())


def _cut_off(path: Path) -> None:
    _weights(path).write_bytes(_weights(path).read_bytes()[:-4096])


def _one_bit(path: Path) -> None:
    data = bytearray(_weights(path).read_bytes())
    data[2] ^= 1  # the lowest bit of the exponent lies in the third byte's highest; this is one of the mantissa
    _weights(path).write_bytes(data)


def _missing(path: Path) -> None:
    _weights(path).unlink()


def _places(path: Path, change: Callable[[list[TensorProto]], None]) -> None:
    model = onnx.load(path, load_external_data=False)
    change([tensor for tensor in model.graph.initializer if tensor.external_data])
    path.write_bytes(model.SerializeToString())


def _set(tensor: TensorProto, key: str, value: str) -> None:
    next(entry for entry in tensor.external_data if entry.key == key).value = value


def _get(tensor: TensorProto, key: str) -> str:
    return next(entry.value for entry in tensor.external_data if entry.key == key)


def _exchanged(path: Path) -> None:
    """Two tensors of one shape read each other's bytes."""

    def exchange(tensors: list[TensorProto]) -> None:
        one, other = [tensor for tensor in tensors if tensor.name in ("conv4_2.weight", "conv5_1.weight")]
        offsets = _get(one, "offset"), _get(other, "offset")
        _set(one, "offset", offsets[1])
        _set(other, "offset", offsets[0])

    _places(path, exchange)


def _shifted(path: Path) -> None:
    _places(path, lambda tensors: _set(tensors[0], "offset", str(int(_get(tensors[0], "offset")) + 4)))


def _graph_cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


DAMAGES: dict[str, Callable[[Path], None]] = {
    "old weights beside a new graph": _old_weights,
    "the file of weights cut off": _cut_off,
    "one bit of the file of weights": _one_bit,
    "the file of weights missing": _missing,
    "two tensors read each other's bytes": _exchanged,
    "a tensor read four bytes further": _shifted,
    "the graph cut off": _graph_cut_off,
}
