"""Another exporter's ONNX file as a reference: a copy that takes bytes and gives posteriors, as our files do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper, shape_inference, version_converter

from export.proof.pipeline.score_output import ScoreOutput, scores_of
from vgg_deploy.artifacts.onnx_file import OnnxFile
from vgg_deploy.artifacts.onnx_format import PRODUCER
from vgg_deploy.artifacts.value_info import ValueInfo
from vgg_deploy.errors import ModelFileError, UsageError, reason_of
from vgg_deploy.inference.engine import Engine
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.manifest import BGR, MANIFEST_KEY, NORMALIZATIONS, RGB, Manifest, Normalization, TrainScale
from vgg_deploy.network.tensors import PROBABILITIES

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
# Older operators broadcast only if an attribute says so, with rules of their own.
_FIRST_WITH_BROADCASTING, _CONVERTED_TO = 7, 13
_SHAPE_TENSOR = 4096  # bytes; a tensor below this may be a shape


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignInput:
    """What a graph expects at its floating-point input.

    Attributes:
        normalization: of pixels, always in the order R, G, B.
        channels: RGB or BGR, the order in which the graph takes the normalized channels.
    """

    normalization: Normalization
    channels: str = RGB


def takes_floats(path: Path) -> bool:
    """Whether an ONNX file is another exporter's with a floating-point input, so it does not normalize pixels itself.

    Raises:
        UsageError, ModelFileError: see `vgg_deploy.artifacts.onnx_file.OnnxFile`.
    """
    file = OnnxFile(path)
    return file.manifest is None and len(file.inputs) == 1 and file.inputs[0].element in _FLOATS


def foreign_input(path: Path, normalization: Normalization | None, channels: str | None) -> ForeignInput:
    """What the user states about the input of an ONNX file.

    Raises:
        UsageError: no normalization is given; names the choices.
    """
    if normalization is None:
        (value,) = OnnxFile(path).inputs
        raise UsageError(
            f"{path} takes {value}, so which normalization of pixels it expects is unknown: give --normalization "
            f"{', '.join(NORMALIZATIONS)}, or --mean R,G,B and --std R,G,B in units of 0..255; and --channels {BGR} if "
            "it takes B,G,R"
        )
    return ForeignInput(normalization=normalization, channels=channels or RGB)


def open_adapted(
    path: Path, expected: ForeignInput, classes: Sequence[ClassName], open_engine: Callable[[Path], Engine]
) -> Engine:
    """Opens the copy that `adapted` makes. `open_engine` should use ONNX Runtime, which runs any graph."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        onnx.save(adapted(path, expected, classes), copy)
        return open_engine(copy)


def adapted(path: Path, expected: ForeignInput, classes: Sequence[ClassName]) -> onnx.ModelProto:
    """A copy of a graph that takes uint8 [n, h, w, 3] in RGB and gives `probabilities` float32 [n, classes].

    A batch or size that the graph fixes stays fixed. The copy has a manifest that names the classes.

    Args:
        path: an ONNX file whose input is floating point, [n, 3, h, w] or [n, h, w, 3]. It gives logits, posteriors or
            their logarithms, [n, classes], or with axes of size 1 between or behind.
        expected: what it expects at its input.
        classes: in the order of its outputs.

    Raises:
        UsageError: another number of classes.
        ModelFileError: the graph is damaged, or what its input or output means is not clear; says what was found.
    """
    file = OnnxFile(path)  # refuses external data outside the file's folder
    value = _input(file)
    channels_first = _channels_first(path, value)
    model, shaped = _loaded(file)
    scores = scores_of(path, shaped, len(classes))
    names = _names(model.graph)
    if PROBABILITIES in names:
        renamed = _unused(PROBABILITIES, names)
        _rename(model.graph, PROBABILITIES, renamed)
        if scores.tensor == PROBABILITIES:
            scores = replace(scores, tensor=renamed)
        if value.name == PROBABILITIES:
            value = replace(value, name=renamed)
        names = _names(model.graph)
    prefix = _unused("adapted", names)
    front = _front(prefix, value, expected, channels_first=channels_first)
    old = model.graph.input[[item.name for item in model.graph.input].index(value.name)]
    model.graph.input.remove(old)
    nodes = [*front, *model.graph.node, *_back(prefix, scores)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    batch, height, width = _sizes(value, channels_first=channels_first)
    shape = [_axis(batch, "n"), _axis(height, "height"), _axis(width, "width"), 3]
    model.graph.input.append(helper.make_tensor_value_info(f"{prefix}_images", TensorProto.UINT8, shape))
    del model.graph.output[:]
    result = helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, [_axis(batch, "n"), len(classes)])
    model.graph.output.append(result)
    if model.producer_name == PRODUCER:
        model.producer_name = ""
    side = height or width or 1
    manifest = Manifest(tuple(classes), None, None, TrainScale(side, side))
    del model.metadata_props[:]
    model.metadata_props.add(key=MANIFEST_KEY, value=manifest.to_json())
    return model


def _loaded(file: OnnxFile) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A graph, and the same with inferred shapes, without large weights where possible: onnx copies them thrice."""
    try:
        model = onnx.load(file.path)
        opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), 1)
        if not model.functions and opset >= _FIRST_WITH_BROADCASTING:
            return model, shape_inference.infer_shapes(file.header_with_small_tensors(_SHAPE_TENSOR))
        if model.functions:
            model = inliner.inline_local_functions(model)
        if opset < _FIRST_WITH_BROADCASTING:
            model = version_converter.convert_version(model, _CONVERTED_TO)
        return model, shape_inference.infer_shapes(model)
    except Exception as error:  # onnx raises errors of many types
        raise ModelFileError(f"{file.path} cannot become a reference: {reason_of(error)}; export it again") from error


def _input(file: OnnxFile) -> ValueInfo:
    if file.manifest is not None:
        raise UsageError(f"{file.path} has a vgg_deploy manifest, so it normalizes pixels itself")
    if len(file.inputs) != 1:
        found = ", ".join(f"{value.name} {value}" for value in file.inputs) or "none"
        raise ModelFileError(f"{file.path} has {len(file.inputs)} inputs: {found}; expected one, the images")
    (value,) = file.inputs
    if value.element not in _FLOATS:
        raise ModelFileError(f"{file.path} takes {value}; expected floating point, as its normalization gives it")
    return value


def _channels_first(path: Path, value: ValueInfo) -> bool:
    shape = value.shape
    first, last = (len(shape) == 4 and shape[axis] == 3 for axis in (1, 3))
    if first == last:
        reason = "the three channels may be its second or its last axis" if first else "no axis has three channels"
        raise ModelFileError(f"{path} takes {value}; expected [n, 3, h, w] or [n, h, w, 3], but {reason}")
    if shape[0] is not None and shape[0] > 1:
        raise ModelFileError(f"{path} takes batches of {shape[0]} only: export it with a batch of 1, or a free one")
    return first


def _sizes(value: ValueInfo, *, channels_first: bool) -> tuple[int | None, int | None, int | None]:
    """Batch, height and width; None: free."""
    batch, *others = value.shape
    height, width = others[1:] if channels_first else others[:2]
    return batch, height, width


def _axis(size: int | None, name: str) -> int | str:
    return name if size is None else size


def _front(prefix: str, value: ValueInfo, expected: ForeignInput, *, channels_first: bool) -> list[onnx.NodeProto]:
    """From uint8 [n, h, w, 3] in RGB to the tensor that the graph takes as its input."""
    nodes: list[onnx.NodeProto] = []
    tensor = f"{prefix}_images"

    def add(operator: str, name: str, *constants: np.ndarray, **attributes: Any) -> None:
        nonlocal tensor
        inputs = [tensor]
        for values in constants:  # constants as nodes: before IR version 4 an initializer must also be an input
            inputs.append(f"{prefix}_{name}_constant")
            attribute = numpy_helper.from_array(values, inputs[-1])
            nodes.append(helper.make_node("Constant", [], [inputs[-1]], name=inputs[-1], value=attribute))
        tensor = f"{prefix}_{name}"
        nodes.append(helper.make_node(operator, inputs, [tensor], name=tensor, **attributes))

    normalization = expected.normalization
    add("Cast", "float", to=TensorProto.FLOAT)
    add("Sub", "mean", np.array(normalization.mean, np.float32))  # in RGB
    add("Div", "std", np.array(normalization.std, np.float32))
    if expected.channels == BGR:
        add("Gather", "channels", np.array([2, 1, 0], np.int64), axis=3)
    if channels_first:
        add("Transpose", "transpose", perm=[0, 3, 1, 2])
    add("Cast", "input", to=value.element)
    nodes[-1].output[0] = value.name
    return nodes


def _back(prefix: str, scores: ScoreOutput) -> list[onnx.NodeProto]:
    """From the output of the graph to `probabilities` [n, classes]."""
    steps: list[tuple[str, dict[str, Any]]] = [("Cast", {"to": TensorProto.FLOAT})]
    if not scores.flat:
        steps.append(("Flatten", {"axis": 1}))
    if scores.kind == "logits":
        steps.append(("Softmax", {"axis": 1}))
    elif scores.kind == "logarithms":
        steps.append(("Exp", {}))
    nodes = []
    tensor = scores.tensor
    for operator, attributes in steps:
        output = f"{prefix}_{operator.lower()}_of_scores"
        nodes.append(helper.make_node(operator, [tensor], [output], name=output, **attributes))
        tensor = output
    nodes[-1].output[0] = PROBABILITIES
    return nodes


def _names(graph: onnx.GraphProto) -> set[str]:
    """All names of tensors and nodes, in subgraphs too."""
    names = {value.name for values in (graph.input, graph.output, graph.initializer) for value in values}
    for node in graph.node:
        names |= {node.name, *node.input, *node.output}
        for subgraph in _subgraphs(node):
            names |= _names(subgraph)
    return names


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [graph for item in node.attribute for graph in ([item.g] if item.HasField("g") else item.graphs)]


def _unused(name: str, names: set[str]) -> str:
    """`name`, with underscores until no name begins with it."""
    while any(other.startswith(name) for other in names):
        name += "_"
    return name


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Renames a tensor everywhere."""
    for values in (graph.input, graph.output, graph.initializer, graph.value_info):
        for value in values:
            if value.name == old:
                value.name = new
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
        for subgraph in _subgraphs(node):
            _rename(subgraph, old, new)
