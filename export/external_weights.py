"""Weights in a file of their own beside the ONNX file: runtimes map it, and load a network without copying them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
from onnx import TensorProto

from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.errors import VGGDeployError
from vgg_deploy.files import whole_file

_ALIGNMENT = 65536  # bytes; where a file can be mapped on every system
_LEAST = 4096  # bytes; smaller tensors stay in the ONNX file


@contextmanager
def externalized_weights(model: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """Moves a model's weights to a file beside `path`, named by their digest, so that an older file at `path` keeps its own.

    When the block ends without an error, the weights that the older file had so are removed; otherwise the new ones are.

    Raises:
        OutputError: the file cannot be written.
    """
    former = _former(path)
    tensors = [tensor for tensor in model.graph.initializer if tensor.ByteSize() >= _LEAST]
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.raw_data)
    beside = path.with_name(f"{path.stem}-{digest.hexdigest()[:12]}.weights")
    old = beside.exists()
    with whole_file(beside) as temporary, temporary.open("wb") as file:
        for tensor in tensors:
            file.seek(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT)
            data = tensor.raw_data  # each time that it is asked for it is copied
            tensor.ClearField("raw_data")
            _place(tensor, beside.name, file.tell(), len(data))
            file.write(data)
    try:
        yield beside
    except BaseException:
        if not old:
            beside.unlink(missing_ok=True)
        raise
    for each in former - {beside}:
        each.unlink(missing_ok=True)


def _place(tensor: TensorProto, name: str, offset: int, length: int) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _former(path: Path) -> set[Path]:
    """The weights of an older file at `path`, so far as they are named as ours."""
    try:
        files = OnnxFile(path).external_files if path.is_file() else ()
    except VGGDeployError:
        return set()
    return {file for file in files if re.fullmatch(rf"{re.escape(path.stem)}-[0-9a-f]{{12}}\.weights", file.name)}
