"""Exact evaluation of an ONNX file that `export` wrote, node by node, in numpy float64.

It is slow and simple: what it returns is what the file says. A sum of 25,088 products is exact to 1e-12 in float64, and
the sums of INT8 layers are exact, because they are computed on the integers and scaled once.

float32 tensors are not rounded. Rounding would move them by 6e-8 of their value, far less than any limit here, and a
runtime that fuses nodes does not round between them either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from export.proof.layers import operators
from export.proof.layers.operators import Doubles, Window
from export.proof.layers.value import HALF, Rounding, Value, along
from vgg_deploy.artifacts.onnx_layers import node_name
from vgg_deploy.errors import ModelFileError

_TYPES: dict[int, np.dtype[Any]] = {
    TensorProto.FLOAT: np.dtype(np.float32),
    TensorProto.FLOAT16: HALF,
    TensorProto.DOUBLE: np.dtype(np.float64),
}


class Exact:
    """Evaluates nodes.

    Args:
        nodes: in the order of computation.
        constants: by name, the tensors that the nodes read and do not compute.
        rounding: what is rounded to FP16.
    """

    def __init__(
        self, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, npt.NDArray[Any]], rounding: Rounding
    ) -> None:
        self._nodes, self._constants, self._rounding = nodes, constants, rounding

    def run(self, inputs: Mapping[str, Value], wanted: Iterable[str]) -> dict[str, Value]:
        """Computes the `wanted` tensors. A tensor is forgotten after its last reader.

        Raises:
            ModelFileError: a node is of an unknown kind, or reads a tensor that nothing computes.
        """
        wanted = set(wanted)
        values = dict(inputs)
        readers = Counter(name for node in self._nodes for name in node.input)
        for node in self._nodes:
            values[node.output[0]] = self._computed(node, values)
            for name in node.input:
                readers[name] -= 1
                if not readers[name] and name not in wanted:
                    values.pop(name, None)
        missing = wanted - values.keys()
        if missing:
            raise ModelFileError(f"no node computes {', '.join(sorted(missing))}")
        return {name: values[name] for name in wanted}

    def _computed(self, node: onnx.NodeProto, values: Mapping[str, Value]) -> Value:
        operator = _OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        where = f"node {node_name(node)} ({node.op_type})"
        if operator is None:
            raise ModelFileError(f"{where} is an operator that the exact evaluation does not know")
        unknown = attributes.keys() - operator.attributes
        if unknown:
            raise ModelFileError(f"{where} has the attribute {', '.join(sorted(unknown))}, which is not known here")
        if len(node.output) != 1:
            raise ModelFileError(f"{where} has {len(node.output)} outputs; expected one")
        arguments = [self._argument(name, values, where) for name in node.input if name]
        try:
            return operator.compute(arguments, attributes, self._rounding)
        except (ValueError, IndexError, TypeError, AssertionError) as error:
            shapes = ", ".join(f"{argument.dtype} {list(argument.shape)}" for argument in arguments)
            raise ModelFileError(f"{where} cannot be computed from {shapes}: {error}") from error

    def _argument(self, name: str, values: Mapping[str, Value], where: str) -> Value:
        if name in values:
            return values[name]
        if name not in self._constants:
            raise ModelFileError(f"{where} reads {name}, which no node computes")
        return Value(self._constants[name], self._constants[name].dtype)


Attributes = Mapping[str, Any]
_Compute = Callable[[list[Value], Attributes, Rounding], Value]


@dataclass(frozen=True, slots=True)
class _Operator:
    compute: _Compute
    attributes: frozenset[str] = frozenset()


def _cast(arguments: list[Value], attributes: Attributes, rounding: Rounding) -> Value:
    kind = attributes["to"]
    if kind not in _TYPES:
        raise ValueError(f"casts to {TensorProto.DataType.Name(kind)} are not known here")
    return Value(arguments[0].stored(rounding.of_activations).astype(np.float64, copy=False), _TYPES[kind])


def _arithmetic(compute: Callable[[Doubles, Doubles], Doubles]) -> _Compute:
    def computed(arguments: list[Value], _attributes: Attributes, rounding: Rounding) -> Value:
        first, second = arguments
        return Value(
            compute(first.stored(rounding.of_activations), second.stored(rounding.of_activations)), first.dtype
        )

    return computed


def _selected(compute: Callable[[Doubles, Attributes], Doubles]) -> _Compute:
    """An operator that only selects or moves values: rounding before it or after it is the same."""

    def computed(arguments: list[Value], attributes: Attributes, _rounding: Rounding) -> Value:
        return Value(compute(arguments[0].exact, attributes), arguments[0].dtype)

    return computed


def _mapped(compute: Callable[[Doubles, Attributes], Doubles]) -> _Compute:
    """An operator that computes new values from one tensor."""

    def computed(arguments: list[Value], attributes: Attributes, rounding: Rounding) -> Value:
        return Value(compute(arguments[0].stored(rounding.of_activations), attributes), arguments[0].dtype)

    return computed


def _max(arguments: list[Value], _attributes: Attributes, _rounding: Rounding) -> Value:
    result = arguments[0].exact
    for other in arguments[1:]:
        result = np.maximum(result, other.exact)
    return Value(result, arguments[0].dtype)


def _convolution(arguments: list[Value], attributes: Attributes, rounding: Rounding) -> Value:
    maps, weight = arguments[:2]
    bias = arguments[2].stored(rounding.of_stored) if len(arguments) > 2 else None
    kernel = weight.shape[2:]
    if attributes.get("group", 1) != 1:
        raise ValueError("it has several groups")
    if tuple(attributes.get("kernel_shape", kernel)) != kernel or maps.shape[1] != weight.shape[1]:
        raise ValueError("its weight does not fit")
    window = _window(attributes, kernel)
    half = rounding.of_stored and maps.dtype == HALF  # then weights are rounded, and the products not of integers
    if half or maps.scale is None or weight.scale is None or maps.scale.size > 1 or weight.axis % 4:

        def stored(chosen: slice) -> Doubles:
            return weight.part(chosen).stored(rounding.of_stored)

        return Value(
            operators.convolution(maps.stored(rounding.of_activations), weight.shape[0], stored, bias, window),
            maps.dtype,
        )

    def integers(chosen: slice) -> Doubles:
        return weight.numbers[chosen].astype(np.float64)

    sums = operators.convolution(maps.numbers, weight.shape[0], integers, None, window)  # whole numbers, exact
    sums *= (maps.scale.ravel() * weight.scale.ravel())[:, None, None]
    return Value(sums if bias is None else np.add(sums, bias[:, None, None], out=sums), maps.dtype)


def _window(attributes: Attributes, kernel: Sequence[int]) -> Window:
    pads = tuple(attributes.get("pads", (0, 0, 0, 0)))
    auto_pad = attributes.get("auto_pad", b"NOTSET").decode()
    if len(kernel) != 2 or auto_pad not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ValueError(f"kernel {list(kernel)} and padding {auto_pad} are not known here")
    return Window(
        kernel=(kernel[0], kernel[1]),
        strides=tuple(attributes.get("strides", (1, 1))),
        dilations=tuple(attributes.get("dilations", (1, 1))),
        before=pads[:2],
        after=pads[2:],
        auto_pad=auto_pad,
        ceil=bool(attributes.get("ceil_mode", 0)),
    )


def _max_pool(values: Doubles, attributes: Attributes) -> Doubles:
    return operators.max_pool(values, _window(attributes, attributes["kernel_shape"]))


def _average_pool(values: Doubles, attributes: Attributes) -> Doubles:
    count_padding = bool(attributes.get("count_include_pad", 0))
    window = _window(attributes, attributes["kernel_shape"])
    return operators.average_pool(values, window, count_padding=count_padding)


def _lrn(values: Doubles, attributes: Attributes) -> Doubles:
    return operators.local_response_normalization(
        values,
        size=attributes["size"],
        alpha=attributes.get("alpha", 1e-4),
        beta=attributes.get("beta", 0.75),
        bias=attributes.get("bias", 1.0),
    )


def _flatten(values: Doubles, attributes: Attributes) -> Doubles:
    axis = attributes.get("axis", 1)
    axis += values.ndim if axis < 0 else 0
    return values.reshape(int(np.prod(values.shape[:axis])), -1)


def _transpose(values: Doubles, attributes: Attributes) -> Doubles:
    return np.transpose(values, attributes.get("perm"))


def _quantize(arguments: list[Value], attributes: Attributes, rounding: Rounding) -> Value:
    values, scale, *others = arguments
    zero_point = others[0] if others else Value(np.zeros(()), np.dtype(np.uint8))
    limits = np.iinfo(zero_point.dtype)
    steps, offset = (along(each.exact, len(values.shape), attributes.get("axis", 1)) for each in (scale, zero_point))
    integers = np.rint(values.stored(rounding.of_stored) / steps) + offset  # to even, as ONNX rounds
    return Value(np.clip(integers, limits.min, limits.max), zero_point.dtype)


def _dequantize(arguments: list[Value], attributes: Attributes, _rounding: Rounding) -> Value:
    values, scale, *others = arguments
    axis, numbers = attributes.get("axis", 1), values.numbers
    if others and others[0].numbers.any():
        numbers = numbers - along(others[0].exact, numbers.ndim, axis)
    return Value(numbers, scale.dtype, scale.exact, axis)


_PLACED = frozenset({"kernel_shape", "strides", "pads", "dilations", "auto_pad"})
_OPERATORS = {
    "Cast": _Operator(_cast, frozenset({"to", "saturate"})),
    "Sub": _Operator(_arithmetic(np.subtract)),
    "Add": _Operator(_arithmetic(np.add)),
    "Mul": _Operator(_arithmetic(np.multiply)),
    "Div": _Operator(_arithmetic(np.divide)),
    "Transpose": _Operator(_selected(_transpose), frozenset({"perm"})),
    "Conv": _Operator(_convolution, _PLACED | {"group"}),
    "Relu": _Operator(_selected(lambda values, _attributes: np.maximum(values, 0))),
    "Max": _Operator(_max),
    "MaxPool": _Operator(_selected(_max_pool), _PLACED | {"ceil_mode", "storage_order"}),
    "AveragePool": _Operator(_mapped(_average_pool), _PLACED | {"ceil_mode", "count_include_pad"}),
    "LRN": _Operator(_mapped(_lrn), frozenset({"size", "alpha", "beta", "bias"})),
    "QuantizeLinear": _Operator(_quantize, frozenset({"axis", "saturate"})),
    "DequantizeLinear": _Operator(_dequantize, frozenset({"axis"})),
    "GlobalAveragePool": _Operator(_mapped(lambda values, _attributes: values.mean(axis=(2, 3), keepdims=True))),
    "Flatten": _Operator(_selected(_flatten), frozenset({"axis"})),
    "Softmax": _Operator(
        _mapped(lambda values, attributes: operators.softmax(values, attributes.get("axis", -1))), frozenset({"axis"})
    ),
    "Identity": _Operator(_selected(lambda values, _attributes: values)),
    "Sigmoid": _Operator(_mapped(lambda values, _attributes: 1 / (1 + np.exp(-values)))),
}
