"""Weights that an ONNX file keeps in other files, anywhere in the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vgg_deploy.artifacts.onnx_format import (
    EXTERNAL,
    AttributeField,
    EntryField,
    FunctionField,
    GraphField,
    ModelField,
    NodeField,
    SparseTensorField,
    TensorField,
)
from vgg_deploy.artifacts.protobuf import Message, NotProtobufError
from vgg_deploy.errors import ModelFileError


def external_locations(model: Message, path: Path) -> Iterator[str]:
    """Yields the files that hold weights of a model, relative to its folder.

    Args:
        model: a ModelProto.
        path: the model's file.

    Raises:
        ModelFileError: a file is missing, or outside the model's folder: an untrusted model must not read arbitrary
            files.
        TruncatedError, NotProtobufError: the model is not a whole message.
    """
    folder = path.parent.resolve()
    for tensor in _tensors(model):
        if not _is_external(tensor):
            continue
        entries = tensor.messages(TensorField.EXTERNAL_DATA)
        # Check every location: if there are several, a runtime may choose another than we would.
        locations = [
            entry.text(EntryField.VALUE, "strict") for entry in entries if entry.text(EntryField.KEY) == "location"
        ]
        for location in locations or [""]:
            try:
                target = (folder / location).resolve()
                inside, present = target.is_relative_to(folder), target.is_file()
            except (OSError, ValueError, RuntimeError):  # too long, a null byte, a cycle of links
                inside = present = False
            if not location or Path(location).is_absolute() or not inside:
                raise ModelFileError(
                    f"{path} is refused: it places the weights of {tensor.text(TensorField.NAME)} in "
                    f"{location!r:.200}, outside its own folder"
                )
            if not present:
                raise ModelFileError(
                    f"{path} keeps its weights in {location}, which is missing from its folder; copy both files"
                )
            yield location


def external_range(tensor: Message) -> tuple[str, int, int | None] | None:
    """The place of a tensor's external data; None if the tensor holds its data itself.

    Returns:
        The file, relative to the model's folder; the offset; and the length in bytes (None: to the end).

    Raises:
        NotProtobufError: the offset or the length is not a number.
    """
    if not _is_external(tensor):
        return None
    entries = {
        entry.text(EntryField.KEY): entry.text(EntryField.VALUE) for entry in tensor.messages(TensorField.EXTERNAL_DATA)
    }
    offset, length = entries.get("offset", "0"), entries.get("length")
    if not offset.isdecimal() or not (length or "0").isdecimal():
        raise NotProtobufError(f"external data at offset {offset}, of {length} bytes")
    return entries.get("location", ""), int(offset), None if length is None else int(length)


def _is_external(tensor: Message) -> bool:
    # Check every number: if there are several, a runtime may choose another than we would.
    return any(number & 0xFFFF_FFFF == EXTERNAL for number in tensor.numbers(TensorField.LOCATION))


def _tensors(model: Message) -> Iterator[Message]:
    """All tensors of a model: initializers, attributes of nodes, and those in the subgraphs of nodes (If, Loop)."""
    graphs = [model.message(ModelField.GRAPH)]
    functions = model.messages(ModelField.FUNCTIONS)
    nodes = [node for function in functions for node in function.messages(FunctionField.NODES)]
    while graphs or nodes:
        sparse = []
        for graph in graphs:
            nodes += graph.messages(GraphField.NODES)
            sparse += graph.messages(GraphField.SPARSE_INITIALIZERS)
            yield from graph.messages(GraphField.INITIALIZERS)
        attributes = [attribute for node in nodes for attribute in node.messages(NodeField.ATTRIBUTES)]
        graphs, nodes = _values(attributes, AttributeField.GRAPH, AttributeField.GRAPHS), []
        sparse += _values(attributes, AttributeField.SPARSE_TENSOR, AttributeField.SPARSE_TENSORS)
        yield from _values(attributes, AttributeField.TENSOR, AttributeField.TENSORS)
        for tensor in sparse:
            yield from (tensor.message(SparseTensorField.VALUES), tensor.message(SparseTensorField.INDICES))


def _values(attributes: list[Message], single: int, repeated: int) -> list[Message]:
    """The messages that attributes hold in a single field and in its repeated counterpart."""
    return [
        message for attribute in attributes for message in (attribute.message(single), *attribute.messages(repeated))
    ]
