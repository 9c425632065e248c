"""The ONNX format: the version of our files, and the field numbers of onnx.proto, one class per message."""

from __future__ import annotations

OPSET = 20
IR_VERSION = 9  # of ONNX 1.15, the first release with opset 20; older runtimes can still read it
PRODUCER = "vgg_deploy"  # the `producer_name` of our files


class ModelField:
    """ModelProto."""

    PRODUCER, GRAPH, OPSET, METADATA, FUNCTIONS = 2, 7, 8, 14, 25


class FunctionField:
    """FunctionProto."""

    NODES = 7


class GraphField:
    """GraphProto."""

    NODES, INITIALIZERS, INPUTS, OUTPUTS, SPARSE_INITIALIZERS = 1, 5, 11, 12, 15


class NodeField:
    """NodeProto."""

    INPUTS, OUTPUTS, NAME, OPERATOR, ATTRIBUTES, DOMAIN = 1, 2, 3, 4, 5, 7


class AttributeField:
    """AttributeProto."""

    NAME, FLOAT, INTEGER, TEXT, TENSOR, GRAPH, INTEGERS = 1, 2, 3, 4, 5, 6, 8
    TENSORS, GRAPHS, TYPE, SPARSE_TENSOR, SPARSE_TENSORS = 10, 11, 20, 22, 23


class TensorField:
    """TensorProto."""

    DIMENSIONS, TYPE, NAME, EXTERNAL_DATA, LOCATION = 1, 2, 8, 13, 14
    FLOATS, INTEGERS, LONG_INTEGERS, RAW_DATA, DOUBLES, UNSIGNED_LONG_INTEGERS = 4, 5, 7, 9, 10, 11
    DATA = frozenset({4, 5, 6, 7, 9, 10, 11})  # float, int32, string, int64, raw, double and uint64 data


class SparseTensorField:
    """SparseTensorProto."""

    VALUES, INDICES = 1, 2


class EntryField:
    """StringStringEntryProto."""

    KEY, VALUE = 1, 2


class ValueField:
    """ValueInfoProto and the messages in it: TypeProto, TypeProto.Tensor, TensorShapeProto and its Dimension."""

    NAME, TYPE = 1, 2
    TYPE_TENSOR = 1
    TENSOR_ELEMENT, TENSOR_SHAPE = 1, 2
    SHAPE_AXES = 1
    AXIS_SIZE = 1


class ElementType:
    """TensorProto.DataType."""

    FLOAT, UINT8, INT8, UINT16, INT16, INT32, INT64, BOOL, FLOAT16 = 1, 2, 3, 4, 5, 6, 7, 9, 10
    DOUBLE, UINT32, UINT64, BFLOAT16 = 11, 12, 13, 16


_TYPE_NAMES = {
    ElementType.FLOAT: "float32",
    ElementType.FLOAT16: "float16",
    ElementType.INT8: "int8",
    ElementType.INT32: "int32",
}


def type_name(element: int) -> str:
    """A type of `ElementType` in messages: the name of one that our files have, or its number."""
    return _TYPE_NAMES.get(element, f"type {element}")


class AttributeType:
    """AttributeProto.AttributeType."""

    FLOAT, INTEGER, TEXT, INTEGERS = 1, 2, 3, 7


EXTERNAL = 1  # of TensorProto.DataLocation
