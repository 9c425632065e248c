"""Weights that an ONNX file keeps in files beside it, wherever in the model they hide."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vgg_deploy.artifacts.protobuf import Message, NotProtobufError
from vgg_deploy.errors import ModelFileError

# Field numbers of onnx.proto, by message.
MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
GRAPH_NODE, GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_FUNCTION_NODE, _NODE_ATTRIBUTE = 7, 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)  # one; several
_SPARSE_VALUES, _SPARSE_INDICES = 1, 2
TENSOR_NAME, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 8, 13, 14
KEY, VALUE = 1, 2  # of an entry

_EXTERNAL = 1  # of TensorProto.DataLocation


def external_data(model: Message, path: Path) -> Iterator[str]:
    """The files in which weights of a model are, relative to its folder.

    Args:
        model: a ModelProto.
        path: the model's file.

    Raises:
        ModelFileError: one is outside the model's folder, as a model from elsewhere must not read what it likes; or missing.
        CutOffError, NotProtobufError: the model is no whole message.
    """
    folder = path.parent.resolve()
    for tensor in _tensors(model):
        # Of several places, too, runtimes may take another one than we would: all are looked at.
        if not _is_external(tensor):
            continue
        entries = tensor.messages(_TENSOR_EXTERNAL)
        for location in [each.text(VALUE, "strict") for each in entries if each.text(KEY) == "location"] or [""]:
            try:
                target = (folder / location).resolve()
                inside, present = target.is_relative_to(folder), target.is_file()
            except (OSError, ValueError, RuntimeError):  # too long, a null byte, a circle of links
                inside = present = False
            if not location or Path(location).is_absolute() or not inside:
                raise ModelFileError(
                    f"{path}: the weights of {tensor.text(TENSOR_NAME)} are said to be in {location!r:.200}, outside the model's folder: refused"
                )
            if not present:
                raise ModelFileError(f"{path}: its weights are in {location}, which is not beside it; copy both files")
            yield location


def external_place(tensor: Message) -> tuple[str, int, int | None] | None:
    """The file of a tensor's data, relative to its model's folder, where they begin, and their length in bytes (None: to the end);
    None for a tensor that has them itself.

    Raises:
        NotProtobufError: an offset or a length that is no number.
    """
    if not _is_external(tensor):
        return None
    entries = {each.text(KEY): each.text(VALUE) for each in tensor.messages(_TENSOR_EXTERNAL)}
    offset, length = entries.get("offset", "0"), entries.get("length")
    if not offset.isdecimal() or not (length or "0").isdecimal():
        raise NotProtobufError(f"weights at {offset}, of {length} bytes")
    return entries.get("location", ""), int(offset), None if length is None else int(length)


def _is_external(tensor: Message) -> bool:
    # Of several numbers runtimes may take another one than we would.
    return any(number & 0xFFFF_FFFF == _EXTERNAL for number in tensor.numbers(_TENSOR_LOCATION))


def _tensors(model: Message) -> Iterator[Message]:
    """All tensors of a model: weights, those that nodes carry themselves, and those of the graphs in nodes (If, Loop)."""
    graphs = [model.message(MODEL_GRAPH)]
    nodes = [node for function in model.messages(_MODEL_FUNCTION) for node in function.messages(_FUNCTION_NODE)]
    while graphs or nodes:
        sparse = []
        for graph in graphs:
            nodes += graph.messages(GRAPH_NODE)
            sparse += graph.messages(_GRAPH_SPARSE)
            yield from graph.messages(GRAPH_INITIALIZER)
        attributes = [attribute for node in nodes for attribute in node.messages(_NODE_ATTRIBUTE)]
        graphs, nodes = _carried(attributes, _ATTRIBUTE_GRAPH), []
        sparse += _carried(attributes, _ATTRIBUTE_SPARSE)
        yield from _carried(attributes, _ATTRIBUTE_TENSOR)
        for tensor in sparse:
            yield from (tensor.message(_SPARSE_VALUES), tensor.message(_SPARSE_INDICES))


def _carried(attributes: list[Message], fields: tuple[int, int]) -> list[Message]:
    """What attributes have in a field that is there once, and in its plural."""
    one, several = fields
    return [found for each in attributes for found in (each.message(one), *each.messages(several))]
