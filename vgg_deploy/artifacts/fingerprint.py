"""The digests of an ONNX model: of one in memory that is about to be written, and of a file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.artifacts.protobuf import Message
from vgg_deploy.artifacts.tensor import StoredTensor
from vgg_deploy.network.digests import Digests, json_digest
from vgg_deploy.network.manifest import Manifest

_DESCRIPTIVE = ("doc_string", "metadata_props")  # fields of many messages that change no answer


def model_digests(model: onnx.ModelProto, manifest: Manifest) -> Digests:
    """The digests of a model in memory that holds all its tensors. One tensor at a time is copied.

    Args:
        manifest: the manifest that its file will have.
    """
    return Digests(
        manifest=json_digest(json.loads(manifest.to_json())),
        graph=graph_digest(model),
        tensors={tensor.name: _tensor_digest(tensor) for tensor in model.graph.initializer},
    )


def file_digests(file: OnnxFile) -> Digests:
    """The digests of a file with a manifest as it is now, from one pass over its bytes and its external data.

    Raises:
        ModelFileError: a tensor is damaged, or its external data cannot be read.
    """
    return Digests(
        manifest=json_digest(json.loads(file.manifest_json or "{}")),
        graph=graph_digest(file.header),
        tensors={tensor.name: tensor.sha256 for tensor in file.tensors},
    )


def graph_digest(model: onnx.ModelProto) -> str:
    """SHA-256 of what a model computes, apart from the values of its initializers, in hexadecimal.

    It covers opsets, functions, nodes with all attributes, inputs, outputs, sparse initializers, and the name, type and
    shape of each initializer. Documentation, metadata, types of inner values and the tool's name do not change it.
    """
    digest = hashlib.sha256()
    for part in _parts(model):
        data = part.SerializeToString(deterministic=True)
        digest.update(f"{type(part).__name__} {len(data)} ".encode())
        digest.update(data)
    return digest.hexdigest()


def _parts(model: onnx.ModelProto) -> Iterator[Any]:
    graph = model.graph
    yield from sorted(model.opset_import, key=lambda opset: opset.domain)
    for function in model.functions:
        described = _undescribed(function)
        del described.value_info[:]
        for index, node in enumerate(described.node):
            described.node[index].CopyFrom(_undescribed(node))
        yield described
    yield from map(_undescribed, (*graph.node, *graph.input, *graph.output))
    yield from graph.sparse_initializer
    for tensor in graph.initializer:
        yield onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)


def _undescribed(message: Any) -> Any:
    """A copy of a message without its documentation and metadata."""
    copy = type(message)()
    copy.CopyFrom(message)
    for name in _DESCRIPTIVE:
        if name in copy.DESCRIPTOR.fields_by_name:  # older versions of onnx have no metadata on nodes
            copy.ClearField(name)
    return copy


def _tensor_digest(tensor: onnx.TensorProto) -> str:
    return StoredTensor.of(Message(memoryview(tensor.SerializeToString())), Path(), {}).sha256
