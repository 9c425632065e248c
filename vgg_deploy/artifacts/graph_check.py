"""Compares the graph of an ONNX file with its manifest: layers, attributes, constants, scales, shapes of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from vgg_deploy.artifacts.expected_steps import ExpectedStep, expected_steps
from vgg_deploy.artifacts.graph_path import BrokenPathError, Step, path_to
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.artifacts.onnx_format import ElementType, type_name
from vgg_deploy.artifacts.onnx_graph import Attribute, Node
from vgg_deploy.artifacts.weights_check import WeightsCheck
from vgg_deploy.network.levels import Levels, activation_levels
from vgg_deploy.network.manifest import Manifest, Triple
from vgg_deploy.network.precision import Quantization

_NUMPY_TYPES: dict[int, Any] = {ElementType.FLOAT: np.float32, ElementType.FLOAT16: np.float16}
# What ONNX (opsets 13 to 20) assumes for attributes that a node does not have.
_WINDOW_DEFAULTS: dict[str, Attribute] = {
    "auto_pad": "NOTSET",
    "dilations": (1, 1),
    "pads": (0, 0, 0, 0),
    "strides": (1, 1),
}
_DEFAULTS: dict[str, dict[str, Attribute]] = {
    "Conv": {**_WINDOW_DEFAULTS, "group": 1},
    "MaxPool": {**_WINDOW_DEFAULTS, "ceil_mode": 0, "storage_order": 0},
    "LRN": {"alpha": 1e-4, "beta": 0.75, "bias": 1.0},
    "Flatten": {"axis": 1},
    "Softmax": {"axis": -1},
}
_RANKS = {"Flatten": 4, "Softmax": 2}  # of the input of operators with an axis, which may be counted from the end
_OPTIONAL = {"Conv": ("kernel_shape",)}  # attributes that follow from the weights if they are missing


class GraphCheck:
    """Checks a graph against its manifest. `contradictions` are ends of sentences about the file.

    Args:
        file: the file with the graph.
        manifest: what it should compute, with a spec and a normalization. Every one of its outputs is in the graph.
        types: whether to check the types of values between nodes.
    """

    def __init__(self, file: OnnxFile, manifest: Manifest, *, types: bool = True) -> None:
        self._manifest, self._types, self._inputs = manifest, types, file.graph.inputs
        self._tensors = {tensor.name: tensor for tensor in file.tensors}
        self._producers = {value: node for node in file.graph.nodes for value in node.outputs}
        self._weights = WeightsCheck(self._producers, self._tensors)

    def contradictions(self) -> tuple[str, ...]:
        """What differs from the manifest; empty if nothing does."""
        # The outputs share most of their nodes, and each fault is reported once.
        return tuple(dict.fromkeys(self._found()))

    def _found(self) -> Iterator[str]:
        for output, expected in expected_steps(self._manifest).items():
            try:
                steps = path_to(output, self._producers, self._inputs)
            except BrokenPathError as error:
                yield str(error)
            else:
                yield from self._path(output, steps, expected)

    def _path(self, output: str, steps: tuple[Step, ...], expected: list[ExpectedStep]) -> Iterator[str]:
        before, kind = "the images", 0
        for step, wanted in zip(steps, expected, strict=False):
            found, expects = step.node, wanted.operators
            if (found is None) != (not expects) or (found is not None and found.operator not in expects):
                has = f"the output {output}" if found is None else f"{found.operator} {found.name}"
                wants = f"{expects[0]} ({wanted.name})" if expects else f"the output {output}"
                yield f"after {before} comes {has}; expected {wants}"
                return  # the rest is shifted, so it would differ too
            yield from self._gap(step, wanted, wanted.name if found is not None else f"the output {output}", kind)
            kind = step.type
            if found is not None:
                before = found.name
                yield from self._node(found, wanted, step.type)

    def _gap(self, step: Step, wanted: ExpectedStep, name: str, before: int) -> Iterator[str]:
        """Casts and Q/DQ pairs before a step; `before` is the type of the input of the step before."""
        kind = before if wanted.type is None else wanted.type
        if self._types and step.type != kind:
            yield f"{name} reads {type_name(step.type)}; expected {type_name(kind)}"
        if step.casts > 1:
            yield f"{step.casts} casts come before {name}; expected one at most, since casts round"
        quantization = self._manifest.precision.quantization
        if len(step.pairs) != (wanted.range_source is not None):
            places = {0: "no Q/DQ pair", 1: "one Q/DQ pair"}
            yield (
                f"the input of {name} has {places.get(len(step.pairs), f'{len(step.pairs)} Q/DQ pairs')}; expected "
                f"{places[wanted.range_source is not None]}"
            )
        elif wanted.range_source is not None and quantization is not None:
            (pair,), span = step.pairs, quantization.ranges.get(wanted.range_source)
            if span is None:
                yield f"the input of {name} is quantized, but the manifest has no range of {wanted.range_source}"
                return
            levels = _levels_of(span, quantization, pair.type)
            stated = f"[{span[0]:g}, {span[1]:g}] of {wanted.range_source}"
            yield from self._levels(pair.quantize, levels, stated)
            if pair.dequantize.inputs[1:] != pair.quantize.inputs[1:]:
                yield from self._levels(pair.dequantize, levels, stated)
            for node in (pair.quantize, pair.dequantize):
                yield from _attributes(node, {}, ("axis",))

    def _levels(self, node: Node, levels: Levels, span: str) -> Iterator[str]:
        """Scale and zero-point of a QuantizeLinear or a DequantizeLinear."""
        for index, name, expected in ((1, "scale", levels.scale), (2, "zero point", levels.zero_point)):
            values = self._constant(node, index)
            if values is None:
                yield f"the {name} of {node.name} is missing, or is no constant of the file"
            elif values.dtype != expected.dtype or values.size != 1 or values.tobytes() != expected.tobytes():
                found = f"{values.reshape(-1)[0]:.9g}" if values.size == 1 else f"{values.size} values"
                kinds = "" if values.dtype == expected.dtype else f" ({values.dtype}, expected {expected.dtype})"
                yield (
                    f"the {name} of {node.name} is {found}{kinds}, but the range {span} that its manifest states "
                    f"gives {float(expected):.9g}"
                )

    def _node(self, node: Node, wanted: ExpectedStep, kind: int) -> Iterator[str]:
        if node.domain not in ("", "ai.onnx"):
            yield f"{node.name} has an operator of the domain {node.domain!r}; expected ONNX's own {node.operator}"
        if wanted.named and node.name != wanted.name:
            yield f"in the place of {wanted.name} is a {node.operator} that is named {node.name}"
        yield from _attributes(node, wanted.attributes, ())
        normalization, quantization = self._manifest.normalization, self._manifest.precision.quantization
        assert normalization is not None
        if node.operator == "Sub":
            yield from self._triple(node, "subtracts the mean", normalization.mean)
        elif node.operator == "Div":
            yield from self._triple(node, "divides by the std", normalization.std)
        elif node.operator == "Max":
            zero = self._constant(node, 1)
            if len(node.inputs) != 2 or zero is None or zero.size != 1 or zero.any():
                yield f"{node.name} is no ReLU: it is the maximum of its input and {node.inputs[1:2]}, which is not 0"
        elif node.operator == "Conv" and wanted.layer is not None:
            levels = None
            if quantization is not None and wanted.layer.name in quantization.layers:
                levels = _levels_of(quantization.ranges[wanted.layer.name], quantization, kind)
            target = "" if quantization is None else quantization.target
            yield from self._weights.contradictions(node, wanted.layer, kind, levels, target)

    def _triple(self, node: Node, does: str, expected: Triple) -> Iterator[str]:
        """The constant of a normalization, one number for each channel."""
        values = self._constant(node, 1)
        if values is None or values.dtype != np.float32 or values.size != 3 or values.shape[-1:] != (3,):
            yield f"{node.name} has no constant of three float32 numbers"
        elif values.tobytes() != np.array(expected, np.float32).tobytes():
            found, stated = (",".join(f"{value:g}" for value in triple) for triple in (values.reshape(-1), expected))
            if found == stated:
                found, stated = ",".join(map(repr, values.reshape(-1).tolist())), ",".join(map(repr, expected))
            yield f"it {does} {found} ({node.inputs[1]}), but its manifest states {stated}"

    def _constant(self, node: Node, index: int) -> npt.NDArray[Any] | None:
        tensor = self._tensors.get(node.inputs[index]) if len(node.inputs) > index else None
        return None if tensor is None else tensor.values


def _levels_of(span: tuple[float, float], quantization: Quantization, kind: int) -> Levels:
    """The levels that a stated range gives for values of a type."""
    with np.errstate(all="ignore"):  # an edited range may be beyond every number of the type
        return activation_levels(span, quantization.target, _NUMPY_TYPES.get(kind, np.float32))


def _attributes(node: Node, expected: Mapping[str, Attribute], ignored: tuple[str, ...]) -> Iterator[str]:
    """Attributes that differ from the expected ones or, where none is expected, from ONNX's defaults."""
    defaults = _DEFAULTS.get(node.operator, {})
    optional = (*ignored, *_OPTIONAL.get(node.operator, ()))
    for name in dict.fromkeys((*expected, *defaults, *node.attributes)):
        if name not in node.attributes and name in optional:
            continue
        found = node.attributes.get(name, defaults.get(name))
        wanted = expected.get(name, defaults.get(name))
        if name == "axis" and isinstance(found, int) and found < 0:
            found += _RANKS.get(node.operator, 0)
        if name in ignored or found == _as_float32(wanted):
            continue
        if name not in expected and name not in defaults:
            yield f"{node.name} has the attribute {name}={_written(found)}, which {node.operator} here does not have"
        else:
            yield f"{node.name} has {name}={_written(found)}; expected {_written(wanted)}"


def _as_float32(value: Attribute) -> Attribute:
    return float(np.float32(value)) if isinstance(value, float) else value


def _written(value: Attribute) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return "nothing" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
