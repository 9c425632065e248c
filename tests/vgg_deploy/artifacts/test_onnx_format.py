"""The field numbers of onnx.proto, compared with onnx's own."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from vgg_deploy.artifacts.onnx_format import (
    EXTERNAL,
    AttributeField,
    AttributeType,
    ElementType,
    EntryField,
    FunctionField,
    GraphField,
    ModelField,
    NodeField,
    SparseTensorField,
    TensorField,
)

# Our name to onnx's name, if it is not the same in capitals.
NAMES: dict[Any, tuple[Any, dict[str, str]]] = {
    ModelField: (onnx.ModelProto, {"PRODUCER": "producer_name", "OPSET": "opset_import", "METADATA": "metadata_props"}),
    FunctionField: (onnx.FunctionProto, {"NODES": "node"}),
    GraphField: (
        onnx.GraphProto,
        {
            "NODES": "node",
            "INITIALIZERS": "initializer",
            "INPUTS": "input",
            "OUTPUTS": "output",
            "SPARSE_INITIALIZERS": "sparse_initializer",
        },
    ),
    NodeField: (
        onnx.NodeProto,
        {"INPUTS": "input", "OUTPUTS": "output", "OPERATOR": "op_type", "ATTRIBUTES": "attribute"},
    ),
    AttributeField: (
        onnx.AttributeProto,
        {"FLOAT": "f", "INTEGER": "i", "TEXT": "s", "TENSOR": "t", "GRAPH": "g", "INTEGERS": "ints"},
    ),
    TensorField: (
        onnx.TensorProto,
        {
            "DIMENSIONS": "dims",
            "TYPE": "data_type",
            "FLOATS": "float_data",
            "INTEGERS": "int32_data",
            "LONG_INTEGERS": "int64_data",
            "DOUBLES": "double_data",
            "UNSIGNED_LONG_INTEGERS": "uint64_data",
            "LOCATION": "data_location",
        },
    ),
    SparseTensorField: (onnx.SparseTensorProto, {}),
    EntryField: (onnx.StringStringEntryProto, {}),
}


@pytest.mark.parametrize("fields", NAMES, ids=lambda fields: fields.__name__)
def test_every_field_has_the_number_that_onnx_gives_it(fields: Any) -> None:
    message, names = NAMES[fields]
    numbers = {field.name: field.number for field in message.DESCRIPTOR.fields}
    ours = {name: value for name, value in vars(fields).items() if name.isupper() and isinstance(value, int)}
    assert ours == {name: numbers[names.get(name, name.lower())] for name in ours}


def test_the_data_of_a_tensor_is_every_field_that_ends_in_data_but_its_external_place() -> None:
    fields = onnx.TensorProto.DESCRIPTOR.fields
    assert {f.number for f in fields if f.name.endswith("_data") and f.name != "external_data"} == TensorField.DATA


def test_types_have_the_numbers_that_onnx_gives_them() -> None:
    tensor, attribute = onnx.TensorProto, onnx.AttributeProto
    assert (ElementType.FLOAT, ElementType.UINT8, ElementType.FLOAT16, EXTERNAL) == (
        tensor.FLOAT,
        tensor.UINT8,
        tensor.FLOAT16,
        tensor.EXTERNAL,
    )
    assert (AttributeType.FLOAT, AttributeType.INTEGER, AttributeType.TEXT, AttributeType.INTEGERS) == (
        attribute.FLOAT,
        attribute.INT,
        attribute.STRING,
        attribute.INTS,
    )
