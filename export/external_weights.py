"""Weights in a file of their own beside the ONNX file. Runtimes map it and load a network without copying weights."""

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

_ALIGNMENT = 65536  # bytes; a file can be mapped at these offsets on every system
_SMALLEST = 4096  # bytes; smaller tensors stay in the ONNX file


@contextmanager
def externalized_weights(model: onnx.ModelProto, path: Path) -> Iterator[Path]:
    """Moves a model's weights to a file beside `path` and yields its path.

    The file is named by its digest, so the weights of an older model at `path` are not overwritten. If the block
    succeeds, the older weights are removed. If it fails, the new ones are.

    Raises:
        OutputError: the file cannot be written.
    """
    old_files = _own_weight_files(path)
    tensors = [tensor for tensor in model.graph.initializer if tensor.ByteSize() >= _SMALLEST]
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.raw_data)
    weights_path = path.with_name(f"{path.stem}-{digest.hexdigest()[:12]}.weights")
    existed = weights_path.exists()
    with whole_file(weights_path) as temporary, temporary.open("wb") as file:
        for tensor in tensors:
            file.seek(-(-file.tell() // _ALIGNMENT) * _ALIGNMENT)
            data = tensor.raw_data  # once, because each access makes a copy
            tensor.ClearField("raw_data")
            _refer_to(weights_path.name, file.tell(), len(data), tensor)
            file.write(data)
    try:
        yield weights_path
    except BaseException:
        if not existed:
            weights_path.unlink(missing_ok=True)
        raise
    for old_file in old_files - {weights_path}:
        old_file.unlink(missing_ok=True)


def _refer_to(name: str, offset: int, length: int, tensor: TensorProto) -> None:
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _own_weight_files(path: Path) -> set[Path]:
    """The weight files of an older model at `path` that this module named."""
    try:
        files = OnnxFile(path).external_files if path.is_file() else ()
    except VGGDeployError:
        return set()
    return {file for file in files if re.fullmatch(rf"{re.escape(path.stem)}-[0-9a-f]{{12}}\.weights", file.name)}
