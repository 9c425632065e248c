"""What the output of another exporter's graph is: logits, posteriors, or logarithms of posteriors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from vgg_deploy.errors import ModelFileError, UsageError

# Operators that change the shape or the type of scores and nothing else.
_SHAPING = frozenset({"Identity", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Dropout", "Transpose"})
# Operators that a network's class scores come from, before any soft-max.
_LINEAR = frozenset(
    {"Gemm", "MatMul", "Add", "Conv", "BatchNormalization", "GlobalAveragePool", "AveragePool", "ReduceMean"}
)
_LAST_AXIS_SINCE = 13  # opset from which the soft-max has the last axis by default; before, it has the second

_Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class ScoreOutput:
    """The output of a graph.

    Attributes:
        tensor: its name.
        kind: logits, posteriors or logarithms (of posteriors).
        flat: whether it is [n, classes]; if not, there are more axes, all of size 1.
    """

    tensor: str
    kind: str
    flat: bool


def scores_of(path: Path, model: onnx.ModelProto, classes: int) -> ScoreOutput:
    """What the only output of a graph is.

    Args:
        path: the file, for messages.
        model: with inferred shapes.
        classes: how many classes it should have.

    Raises:
        UsageError: it has another number of classes.
        ModelFileError: several outputs, or one that is not clear; says what was found and what was expected.
    """
    outputs = model.graph.output
    if len(outputs) != 1:
        found = ", ".join(value.name for value in outputs)
        raise ModelFileError(f"{path} has {len(outputs)} outputs: {found}; expected one, the class scores")
    shapes = _shapes(model)
    (name,) = (value.name for value in outputs)
    flat = _is_flat(path, name, shapes.get(name), classes)
    return ScoreOutput(name, _kind(path, model, name, shapes), flat)


def _shapes(model: onnx.ModelProto) -> dict[str, _Shape]:
    """The known shapes by the name of the tensor; None: a free axis."""
    shapes: dict[str, _Shape] = {}
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            axes = (axis.dim_value if axis.HasField("dim_value") else 0 for axis in tensor.shape.dim)
            shapes[value.name] = tuple(size if size > 0 else None for size in axes)
    return shapes


def _is_flat(path: Path, name: str, shape: _Shape | None, classes: int) -> bool:
    if shape is None:
        raise ModelFileError(f"{path}: the shape of its output {name} is unknown; expected [n, classes]")
    listed = f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
    wide = [size for size in shape[1:] if size != 1]
    if len(shape) not in (2, 4) or len(wide) != 1:
        raise ModelFileError(
            f"{path}: its output {name} is {listed}; expected [n, classes] or [n, classes, 1, 1]. Whether scores of "
            "several positions are averaged before or after the soft-max is not clear"
        )
    if wide[0] not in (None, classes):
        raise UsageError(
            f"{path} has {wide[0]} classes, and the judged file has {classes}: they are different networks"
        )
    return len(shape) == 2


def _kind(path: Path, model: onnx.ModelProto, name: str, shapes: Mapping[str, _Shape]) -> str:
    makers = {output: node for node in model.graph.node for output in node.output}

    def maker(tensor: str) -> onnx.NodeProto | None:
        """The node that computes a tensor, whatever was done to its shape and type."""
        node = makers.get(tensor)
        while node is not None and node.op_type in _SHAPING and node.input:
            node = makers.get(node.input[0])
        return node

    node = maker(name)
    operator = "nothing" if node is None else node.op_type
    if node is not None and node.domain in ("", "ai.onnx"):
        if operator in ("Softmax", "LogSoftmax"):
            _check_axis(path, model, node, shapes)
            return "posteriors" if operator == "Softmax" else "logarithms"
        before = maker(node.input[0]) if node.input else None
        if operator == "Exp" and before is not None and before.op_type == "LogSoftmax":
            _check_axis(path, model, before, shapes)
            return "posteriors"
        if operator == "Div" and before is not None and before.op_type == "Exp" and _is_sum(maker(node.input[1])):
            return "posteriors"  # a soft-max in single steps
        if operator in ("Sigmoid", "HardSigmoid"):
            raise ModelFileError(
                f"{path} ends with {operator}: a probability for each class alone. VGG's soft-max gives one "
                "distribution over all classes, so the two cannot be compared"
            )
        if operator in _LINEAR:
            return "logits"
    raise ModelFileError(
        f"{path} ends with {operator}, so whether its output {name} holds logits or posteriors is not clear; expected "
        f"Softmax, LogSoftmax, or one of {', '.join(sorted(_LINEAR))}"
    )


def _is_sum(node: onnx.NodeProto | None) -> bool:
    return node is not None and node.op_type == "ReduceSum"


def _check_axis(path: Path, model: onnx.ModelProto, node: onnx.NodeProto, shapes: Mapping[str, _Shape]) -> None:
    """Raises ModelFileError unless a soft-max is over the classes."""
    shape = shapes.get(node.input[0])
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)
    default = -1 if opset >= _LAST_AXIS_SINCE else 1
    axis = next((item.i for item in node.attribute if item.name == "axis"), default)
    if shape is None:
        raise ModelFileError(f"{path}: the shape of {node.input[0]}, the input of its {node.op_type}, is unknown")
    axis %= len(shape)
    # Before opset 13 the soft-max is over all axes from `axis` on.
    over = shape[axis:] if opset < _LAST_AXIS_SINCE else (shape[axis],)
    if axis == 0 or all(size == 1 for size in over):
        listed = ", ".join("?" if size is None else str(size) for size in shape)
        raise ModelFileError(f"{path}: its {node.op_type} is over axis {axis} of [{listed}], which are not the classes")
