"""What a checkpoint file is, by its content: safetensors, shards of a network with their index, or torch.save's file.

The ending of its name has no say.
"""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from train.network.unpickling import unpickled
from vgg_deploy.artifacts.kinds import CHECKPOINT, require_file
from vgg_deploy.errors import CheckpointError
from vgg_deploy.files import sha256_of
from vgg_deploy.network.manifest import MANIFEST_KEY, Manifest

SAFETENSORS, ZIP, PICKLE, INDEX = "safetensors", "a zip archive", "a pickle", "an index of shards"

# Files of other kinds that people give, by their first bytes, and what to do.
_OTHERS = (
    (b"version https://git-lfs", "a Git LFS pointer; fetch the file itself with git lfs pull"),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras writes; convert it to a PyTorch state_dict"),
    (b"\x1f\x8b", "compressed by gzip; unpack it"),
    (b"\xfd7zXZ", "compressed by xz; unpack it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it"),
    (b"<", "a web page or XML; download the file again"),
)
_TAR = slice(257, 262)  # where a tar archive says "ustar"
_LARGEST_HEADER = 100_000_000  # bytes of a safetensors header; its library refuses larger ones
_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.\w+)")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a checkpoint file holds.

    Attributes:
        loaded: tensors by name, or what torch.save wrote: often a mapping with the weights in it.
        sha256: of the file; of an index: of it and its shards.
        manifest: ours, in our own checkpoints.
        metadata: texts beside the tensors of a safetensors file.
    """

    loaded: Any
    sha256: str
    manifest: Manifest | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


def container_of(path: Path) -> str | None:
    """SAFETENSORS, ZIP, PICKLE, INDEX, or None for a file of another kind."""
    with path.open("rb") as file:
        start = file.read(9)
    # First, because a header's length may start with any byte.
    if start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= _LARGEST_HEADER:
        return SAFETENSORS
    if start[:4] == b"PK\x03\x04":
        return ZIP
    if start[:1] == b"\x80":  # pickle's opcode PROTO
        return PICKLE
    if start.lstrip()[:1] == b"{":
        return INDEX
    return None


def contents_of(path: Path) -> Contents:
    """Reads a checkpoint file of any kind, without running code.

    Raises:
        UsageError: no such file.
        CheckpointError: it is damaged, cut off, holds code, or is of another kind.
    """
    require_file(path, CHECKPOINT)
    container = container_of(path)
    if container == INDEX:
        return _shards(path)
    if container == SAFETENSORS:
        tensors, metadata = _safetensors(path)
        text = metadata.get(MANIFEST_KEY)
        if text is None:
            _refuse_a_shard(path)
        manifest = None if text is None else Manifest.from_json(text, str(path))
        return Contents(tensors, sha256_of(path), manifest, metadata)
    if container is None or (container == ZIP and not zipfile.is_zipfile(path)):
        raise CheckpointError(f"{path} cannot be read as a checkpoint: {_what_else(path, container)}")
    loaded = unpickled(path, zipped=container == ZIP)
    _refuse_a_shard(path)
    return Contents(loaded, sha256_of(path))


def _what_else(path: Path, container: str | None) -> str:
    if container is not None:
        return "damaged, cut off, or not a PyTorch checkpoint"
    with path.open("rb") as file:
        start = file.read(512)
    known = next((what for magic, what in _OTHERS if start.startswith(magic)), None)
    if start[_TAR] == b"ustar":
        known = "a tar archive; unpack it"
    if known is not None:
        return f"it is {known}"
    if not start:
        return "it is empty: damaged, cut off, or another file"
    return (
        "damaged, cut off, or another format; expected safetensors or a file of torch.save. An ONNX file or a plan "
        "is no checkpoint"
    )


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - not a mapping
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read as safetensors ({error}): damaged, cut off, or another format"
        ) from error


def _shards(path: Path) -> Contents:
    """Reads the shards that an index names: {"weight_map": {tensor: file beside the index}}."""
    try:
        index = json.loads(path.read_bytes())
        places = index["weight_map"]
        files = list(dict.fromkeys(places.values()))
        if not files or not all(isinstance(name, str) and Path(name).name == name for name in files):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: damaged, cut off, or another format; JSON is expected to be an "
            'index of shards, with "weight_map" and the names of files beside it'
        ) from error
    if absent := [name for name in files if not path.with_name(name).is_file()]:
        raise CheckpointError(
            f"{path} names {len(files)} shards, but {', '.join(absent[:3])}"
            f"{f' and {len(absent) - 3} more' if len(absent) > 3 else ''} are not beside it; copy all shards there"
        )
    digest, tensors = hashlib.sha256(path.read_bytes()), {}
    for name in files:
        shard = path.with_name(name)
        kind = container_of(shard)
        if kind not in (SAFETENSORS, ZIP, PICKLE):
            raise CheckpointError(f"{shard} cannot be read as a checkpoint: {_what_else(shard, None)}")
        held = _safetensors(shard)[0] if kind == SAFETENSORS else unpickled(shard, zipped=kind == ZIP)
        wanted = [tensor for tensor, place in places.items() if place == name]
        lacking = [tensor for tensor in wanted if not isinstance(held, Mapping) or tensor not in held]
        if lacking:
            raise CheckpointError(f"{shard} lacks {lacking[0]}, which {path.name} places there; copy all shards again")
        tensors.update({tensor: held[tensor] for tensor in wanted})
        digest.update(sha256_of(shard).encode())
    return Contents(tensors, digest.hexdigest())


def _refuse_a_shard(path: Path) -> None:
    """Raises CheckpointError if the file is one shard of several, beside their index."""
    match = _SHARD.fullmatch(path.name)
    if match is None or int(match[2]) < 2:
        return
    index = path.with_name(f"{match[1]}{match[3]}.index.json")
    if index.is_file():
        raise CheckpointError(f"{path} is one of {int(match[2])} shards; give their index: {index}")
