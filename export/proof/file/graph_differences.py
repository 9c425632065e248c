"""Compares the graph of a file, without the values of its tensors, with the graph that its manifest describes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from onnx import TensorProto, helper

from vgg_deploy.artifacts.protobuf import Message
from vgg_deploy.artifacts.value_info import ValueInfo

_COMPARED_APART = ("node", "input", "output", "initializer")  # fields of a graph


def graph_differences(received: onnx.ModelProto, expected: onnx.ModelProto) -> Iterator[str]:
    """The differences of two models without data, one line each. What changes no answer is ignored.

    Args:
        received, expected: with tensors that have a name, a type and a shape. They are emptied.
    """
    for model in (received, expected):
        _remove_descriptions(model)
    yield from _nodes(received.graph.node, expected.graph.node)
    for what in ("input", "output"):
        yield from _values(what, getattr(received.graph, what), getattr(expected.graph, what))
    yield from _tensors(received.graph.initializer, expected.graph.initializer)
    for model in (received, expected):
        for name in _COMPARED_APART:
            model.graph.ClearField(name)
    yield from _rest("graph.", received.graph, expected.graph)
    for model in (received, expected):
        model.ClearField("graph")
    yield from _rest("", received, expected)


def _remove_descriptions(model: onnx.ModelProto) -> None:
    """Removes documentation, metadata, types of inner values, and the version of the tool."""
    model.ClearField("producer_version")
    model.graph.ClearField("value_info")
    for message in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output):
        for name in ("doc_string", "metadata_props"):
            if name in message.DESCRIPTOR.fields_by_name:  # older versions of onnx have no metadata of nodes
                message.ClearField(name)


def _nodes(received: Sequence[onnx.NodeProto], expected: Sequence[onnx.NodeProto]) -> Iterator[str]:
    if list(received) == list(expected):
        return
    named = {node.name: node for node in received}
    names = Counter(node.name for node in received)
    known = {node.name for node in expected}
    found = False
    for node in expected:
        other = named.get(node.name)
        if other is None:
            found = True
            yield f"the node {node.name} ({node.op_type}) is missing"
        elif other != node:
            found = True
            yield f"the node {node.name}: {_node_difference(other, node)}"
    for node in received:
        if node.name not in known:
            found = True
            yield f"the node {node.name} ({node.op_type}) is not part of the network"
    for name, count in names.items():
        if count > 1:
            found = True
            yield f"{count} nodes are named {name!r}; expected one"
    if not found:
        pairs = zip(received, expected, strict=True)
        first = next(pair for pair in pairs if pair[0] != pair[1])
        yield f"the nodes are in another order: {first[0].name} stands in the place of {first[1].name}"


def _node_difference(received: onnx.NodeProto, expected: onnx.NodeProto) -> str:
    if (received.op_type, received.domain) != (expected.op_type, expected.domain):
        return f"it is {received.domain and received.domain + '.'}{received.op_type}; expected {expected.op_type}"
    for what in ("input", "output"):
        names = [list(getattr(node, what)) for node in (received, expected)]
        if names[0] != names[1]:
            verb = "reads" if what == "input" else "writes"
            return f"it {verb} {', '.join(names[0]) or 'nothing'}; expected {', '.join(names[1])}"
    attributes = [{item.name: _attribute(item) for item in node.attribute} for node in (received, expected)]
    for name in {**attributes[1], **attributes[0]}:
        values = [found.get(name, "absent") for found in attributes]
        if values[0] != values[1]:
            return f"{name} is {values[0]}; expected {values[1]}"
    return "it holds more than its operator, inputs, outputs and attributes, or holds an attribute twice"


def _attribute(attribute: onnx.AttributeProto) -> str:
    try:
        return f"{helper.get_attribute_value(attribute)!r:.80}"
    except ValueError:
        return "without a type"


def _values(
    what: str, received: Sequence[onnx.ValueInfoProto], expected: Sequence[onnx.ValueInfoProto]
) -> Iterator[str]:
    names = [[value.name for value in values] for values in (received, expected)]
    if names[0] != names[1]:
        yield f"its {what}s are {', '.join(names[0])}; expected {', '.join(names[1])}"
        return
    for value, other in zip(received, expected, strict=True):
        if value != other:
            texts = [str(ValueInfo.of(Message(memoryview(v.SerializeToString())))) for v in (value, other)]
            if texts[0] == texts[1]:
                yield f"its {what} {value.name} has other names of axes, or holds more than a type and a shape"
            else:
                yield f"its {what} {value.name} is {texts[0]}; expected {texts[1]}"


def _tensors(received: Sequence[TensorProto], expected: Sequence[TensorProto]) -> Iterator[str]:
    """Differences of names, types and shapes. The order of tensors in a file has no meaning."""
    found = {tensor.name: tensor for tensor in received}
    for tensor in expected:
        other = found.get(tensor.name)
        if other is None:
            yield f"the tensor {tensor.name} is missing"
        elif _type_and_shape(other) != _type_and_shape(tensor):
            yield f"the tensor {tensor.name} is {_type_and_shape(other)}; expected {_type_and_shape(tensor)}"
    for name in found.keys() - {tensor.name for tensor in expected}:
        yield f"the tensor {name} is not part of the network"
    for name, count in Counter(tensor.name for tensor in received).items():
        if count > 1:
            yield f"{count} tensors are named {name!r}; expected one"


def _type_and_shape(tensor: TensorProto) -> str:
    known = tensor.data_type in TensorProto.DataType.values()
    kind = TensorProto.DataType.Name(tensor.data_type).lower() if known else f"type {tensor.data_type}"
    return f"{kind} {list(tensor.dims)}"


def _rest(prefix: str, received: Any, expected: Any) -> Iterator[str]:
    """Differences of the other fields of two messages, such as the opset."""
    fields = [{field.name: value for field, value in message.ListFields()} for message in (received, expected)]
    for name in {**fields[1], **fields[0]}:
        if fields[0].get(name) != fields[1].get(name):
            texts = [" ".join(str(found.get(name, "absent")).split()) for found in fields]
            yield f"{prefix}{name} is {texts[0]:.80}; expected {texts[1]:.80}"
