"""Finds what would make the build of an ONNX file fail, before the build, and says what to do about it.

TensorRT's parser stops at the first fault of most kinds. It also reads unsigned 8 bit as signed and accepts profiles
that are too small, without an error. So these checks examine the graph first, then the parser's errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto, numpy_helper

from engines.trt.backend import Backend
from vgg_deploy.artifacts.onnx_layers import node_name
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.shapes import Profile, Shape

KEPT_BYTES = 1 << 17  # tensors up to this size are read for `of_graph`: zero-points of 65,536 channels
LARGEST_SIDE = 1 << 12  # a network without an output for images of this size has none at all

_UNSIGNED = (TensorProto.UINT8, TensorProto.UINT16)


@dataclass(frozen=True, slots=True)
class Finding:
    """A reason why a model cannot be built.

    Attributes:
        nodes: names of the affected nodes.
        text: what is wrong, what TensorRT expects, and what to do, in one line.
    """

    nodes: tuple[str, ...]
    text: str


def of_graph(model: onnx.ModelProto, manifest: Manifest) -> list[Finding]:
    """Quantization and types that TensorRT refuses or misreads.

    Args:
        model: the model with its small tensors only; see `KEPT_BYTES`.
        manifest: the model's manifest.
    """
    ours = manifest.spec is not None
    again = "export it again with --int8 --target tensorrt"
    symmetric = (
        "quantize it symmetrically in signed 8 bit (onnxruntime's quantize_static: QInt8 and ActivationSymmetric)"
    )
    float_bias = "leave biases in floating point (onnxruntime's quantize_static: QuantizeBias=False)"
    constants = _constants(model.graph)
    unsigned, asymmetric, biases = [], [], []
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        data, zero = constants.get(node.input[0]), constants.get(node.input[2] if len(node.input) > 2 else "")
        if data is not None and data.data_type == TensorProto.INT32:
            biases.append(node_name(node))
        elif _unsigned(node, data, zero):
            unsigned.append(node_name(node))
        elif zero is not None and _is_nonzero(zero):
            asymmetric.append(node_name(node))
    faults = (
        (unsigned, "unsigned 8 bit at {}, which TensorRT reads as signed", symmetric),
        (asymmetric, "zero-points other than 0 at {}; TensorRT accepts symmetric INT8 only", symmetric),
        (biases, "biases stored as INT32 at {}; TensorRT accepts them in floating point only", float_bias),
    )
    findings = [
        Finding(tuple(nodes), f"{fault.format(_named(nodes))}: {again if ours else remedy}")
        for nodes, fault, remedy in faults
        if nodes
    ]
    users = tuple(_raw_uint8_readers(model))
    if users:
        fault = f"uint8 used directly at {_named(users)}; TensorRT accepts only Cast on it"
        findings.append(Finding(users, f"{fault}: {'export it again' if ours else 'cast it to float first'}"))
    return findings


def of_profiles(model: onnx.ModelProto, profiles: Sequence[Profile]) -> list[Finding]:
    """A profile whose smallest image is too small for the network. TensorRT would build it, but it would not run."""
    batch, side, _ = min(profile.minimum for profile in profiles)
    empty_node = _first_empty_node(model, (batch, side, side))
    if empty_node is None:
        return []
    low, high = side, LARGEST_SIDE
    if _first_empty_node(model, (batch, high, high)):
        return [Finding((empty_node,), f"{empty_node} has no output for images of any size: the model is damaged")]
    while low + 1 < high:  # `low` is too small, `high` is large enough
        middle = (low + high) // 2
        low, high = (middle, high) if _first_empty_node(model, (batch, middle, middle)) else (low, middle)
    text = (
        f"{empty_node} has no output for images of {side} x {side}, the smallest of the profiles: give --scales of "
        f"{high} or more"
    )
    return [Finding((empty_node,), text)]


def of_parser(parser: Any, model: onnx.ModelProto, backend: Backend) -> list[Finding]:
    """What the backend's parser refuses: all operators that it does not support, and its own errors.

    Args:
        parser: an `OnnxParser` that failed to read the file.
        model: the model with its small tensors only.
    """
    remedy = "replace it in the model, or run the ONNX file itself (vgg-deploy infer --runtime onnxruntime)"
    functions = {function.name for function in model.functions}
    unsupported: dict[str, list[str]] = {}
    for node in model.graph.node:
        if node.op_type not in functions and not parser.supports_operator(node.op_type):
            unsupported.setdefault(node.op_type, []).append(node_name(node))
    findings = [
        Finding(tuple(nodes), f"operator {operator} at {_named(nodes)}, which {backend} does not support: {remedy}")
        for operator, nodes in unsupported.items()
    ]
    named = {name for finding in findings for name in finding.nodes}
    for index in range(parser.num_errors):
        refusal = parser.get_error(index)
        index_of_node = refusal.node()
        node = model.graph.node[index_of_node] if 0 <= index_of_node < len(model.graph.node) else None
        name = refusal.node_name() or (node_name(node) if node is not None else "no node in particular")
        if name not in named:
            fault = (
                f"{refusal.node_operator() or 'a fault'} at {name}, which {backend} refuses ({_reason(refusal.desc())})"
            )
            findings.append(Finding((name,), f"{fault}: {remedy}"))
    return findings


def _reason(description: str) -> str:
    """The line of the parser's text that gives the reason. Others repeat the node's name or report a missing driver."""
    lines = [" ".join(line.split()).removeprefix("Assertion failed: ") for line in description.splitlines()]
    reasons = [
        line for line in lines if line and not line.startswith("Invalid Node - ") and "catchCudaError" not in line
    ]
    return reasons[0] if reasons else "without a reason"


def texts(graph: list[Finding], parser: list[Finding]) -> tuple[str, ...]:
    """The texts of all findings. A finding of the parser is left out if the graph's findings already name its node."""
    known = {name for finding in graph for name in finding.nodes}
    return tuple(finding.text for finding in (*graph, *(item for item in parser if not known.intersection(item.nodes))))


def _constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        values = (attribute.t for attribute in node.attribute if attribute.name == "value")
        if node.op_type == "Constant":
            constants.update((node.output[0], value) for value in values)
    return constants


def _unsigned(node: onnx.NodeProto, data: TensorProto | None, zero: TensorProto | None) -> bool:
    if zero is not None:
        return zero.data_type in _UNSIGNED
    if node.op_type == "DequantizeLinear":
        return data is not None and data.data_type in _UNSIGNED
    # Without a zero-point ONNX quantizes to uint8, unless `output_dtype` says otherwise.
    output_type = next((attribute.i for attribute in node.attribute if attribute.name == "output_dtype"), 0)
    return len(node.input) < 3 and (output_type or TensorProto.UINT8) in _UNSIGNED


def _is_nonzero(zero: TensorProto) -> bool:
    """Whether a zero-point is not 0. The parser checks zero-points in external data."""
    if zero.data_location == TensorProto.EXTERNAL:
        return False
    try:
        return bool(numpy_helper.to_array(zero).any())
    except (ValueError, TypeError):  # a header without this tensor's data
        return False


def _raw_uint8_readers(model: onnx.ModelProto) -> Iterator[str]:
    """Nodes other than Cast that read uint8. Q/DQ nodes are left out, because they have findings of their own."""
    values = (*model.graph.input, *_inferred(model).graph.value_info)
    raw = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.UINT8}
    for node in model.graph.node:
        if node.op_type not in ("Cast", "QuantizeLinear", "DequantizeLinear") and raw.intersection(node.input):
            yield node_name(node)


def _first_empty_node(model: onnx.ModelProto, shape: Shape) -> str | None:
    """The first node whose output has no rows or columns left for a batch of this shape."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    del sized.graph.value_info[:]
    constants = {tensor.name for tensor in sized.graph.initializer}
    (images,) = (value for value in sized.graph.input if value.name not in constants)
    for axis, size in zip(images.type.tensor_type.shape.dim, shape, strict=False):
        axis.dim_value = size
    for output in sized.graph.output:  # its sizes may not hold for the smallest image
        output.type.tensor_type.ClearField("shape")
    empty = {
        value.name
        for value in _inferred(sized).graph.value_info
        if any(axis.HasField("dim_value") and axis.dim_value < 1 for axis in value.type.tensor_type.shape.dim)
    }
    return next((node_name(node) for node in sized.graph.node if empty.intersection(node.output)), None)


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # noqa: BLE001 - a graph that onnx cannot follow; the parser will report what is wrong
        return model


def _named(nodes: Sequence[str]) -> str:
    first, more = ", ".join(nodes[:3]), len(nodes) - 3
    return first if more <= 0 else f"{first} and {more} more"
