"""Damages of the end of the graph: the mean, the soft-max, the outputs, the axes."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.mutants.damage import ANSWERS, FILE, LAYERS, add, damage
from tests.mutants.edit import Edit, NotApplicable


def _softmax(file: Edit, **attributes: Any) -> None:
    file.set(file.node("softmax"), **attributes)


add("soft-max over the batch", partial(_softmax, axis=0), LAYERS, ANSWERS)


@damage("no soft-max", LAYERS, ANSWERS)
def no_softmax(file: Edit) -> None:
    file.node("softmax").op_type = "Identity"
    _softmax(file, axis=None)


@damage("soft-max twice", LAYERS, ANSWERS)
def softmax_twice(file: Edit) -> None:
    file.insert("Softmax", "first", file.node("softmax").input[0], axis=1)


@damage("logarithm of the soft-max", LAYERS, ANSWERS)
def log_softmax(file: Edit) -> None:
    file.node("softmax").op_type = "LogSoftmax"


@damage("soft-max at temperature 2", LAYERS)
def temperature(file: Edit) -> None:
    file.put("temperature", np.array(2, np.float32))
    file.insert("Div", "cooled", file.node("softmax").input[0], "temperature")


@damage("mean behind the soft-max", LAYERS)
def mean_behind_softmax(file: Edit) -> None:
    softmax, mean = file.node("softmax"), file.node("spatial_mean")
    if file.node("fc8").input[0] != mean.output[0] and "score_map" not in [o.name for o in file.model.graph.output]:
        raise NotApplicable("casts or Q/DQ nodes stand behind the mean")
    if "score_map" in [output.name for output in file.model.graph.output]:
        scores = mean.input[0]
    else:
        file.node("fc8").input[0] = mean.input[0]
        scores = file.node("scores").input[0]
    file.add("Softmax", "softmaxes", scores, axis=1)
    file.add("GlobalAveragePool", "mean_of_softmaxes", "softmaxes")
    softmax.op_type = "Flatten"
    softmax.input[0] = "mean_of_softmaxes"


@damage("the largest instead of the mean", LAYERS)
def largest(file: Edit) -> None:
    file.node("spatial_mean").op_type = "GlobalMaxPool"


@damage("mean in half", also=FILE)
def mean_in_half(file: Edit) -> None:
    mean = file.node("spatial_mean")
    file.add("Cast", "mean_to_half", mean.input[0], to=TensorProto.FLOAT16)
    mean.input[0] = "mean_to_half"
    file.insert("Cast", "mean_to_single", mean.output[0], to=TensorProto.FLOAT)


@damage("scores rounded to half")
def scores_in_half(file: Edit) -> None:
    softmax = file.node("softmax")
    file.insert("Cast", "scores_to_half", softmax.input[0], to=TensorProto.FLOAT16)
    file.insert("Cast", "scores_to_single", "scores_to_half", to=TensorProto.FLOAT)


def _outputs(file: Edit) -> list[str]:
    return [output.name for output in file.model.graph.output]


def _behind(file: Edit, output: str, operator: str, **attributes: Any) -> None:
    """Lets a node behind the tensor of an output compute the output. Other readers keep the tensor."""
    node = file.replace_output(output, f"raw_{output}")
    file.add(operator, f"other_{output}", node.output[0], **attributes)
    file.node(f"other_{output}").output[0] = output


add("score_map behind a soft-max", partial(_behind, output="score_map", operator="Softmax", axis=1))
add("score_map transposed", partial(_behind, output="score_map", operator="Transpose", perm=[0, 1, 3, 2]))
add("score_map negated", partial(_behind, output="score_map", operator="Neg"))
add("features behind a soft-max", partial(_behind, output="features", operator="Softmax", axis=1))


@damage("features before the ReLU")
def features_before_relu(file: Edit) -> None:
    _features_of(file, file.node("fc7").output[0])


@damage("features of fc6")
def features_of_fc6(file: Edit) -> None:
    _features_of(file, file.node("relu6").output[0])


def _features_of(file: Edit, tensor: str) -> None:
    if "features" not in _outputs(file):
        raise NotApplicable("no features")
    node = next(node for node in file.nodes if "features" in node.output)
    file.nodes.remove(node)
    file.add("Cast", "other_cast", tensor, to=TensorProto.FLOAT)
    file.add("GlobalAveragePool", "other_mean", "other_cast")
    file.add("Flatten", "features", "other_mean", axis=1)


@damage("an output renamed", LAYERS, ANSWERS)
def renamed(file: Edit) -> None:
    file.replace_output("probabilities", "posteriors")
    file.model.graph.output[0].name = "posteriors"


@damage("an output missing")
def missing(file: Edit) -> None:
    if len(file.model.graph.output) == 1:
        raise NotApplicable("one output")
    del file.model.graph.output[-1]


@damage("an output added")
def added(file: Edit) -> None:
    file.model.graph.output.append(helper.make_tensor_value_info("relu7", TensorProto.FLOAT, None))


def _axis(file: Edit, axis: int, size: int) -> None:
    shape = file.model.graph.input[0].type.tensor_type.shape
    if not shape.dim[axis].dim_param:
        raise NotApplicable("the axis is fixed")
    shape.dim[axis].dim_value = size


add("batch axis fixed", partial(_axis, axis=0, size=1))


@damage("height and width fixed")
def size_fixed(file: Edit) -> None:
    for axis in (1, 2):
        _axis(file, axis, file.spec.crop)


@damage("a fixed axis made free")
def freed(file: Edit) -> None:
    shape = file.model.graph.input[0].type.tensor_type.shape
    if shape.dim[0].dim_param:
        raise NotApplicable("the axes are free")
    shape.dim[0].dim_param = "batch"


@damage("another opset")
def opset(file: Edit) -> None:
    file.model.opset_import[0].version -= 1


# Damages that change no answer.


@damage("an Identity inserted")
def identity(file: Edit) -> None:
    file.insert("Identity", "same", file.node("relu3_2").output[0])


@damage("a node renamed")
def node_renamed(file: Edit) -> None:
    file.node("relu3_2").name = "other"


@damage("a constant that nothing reads")
def unread(file: Edit) -> None:
    file.put("unread", np.zeros(3, np.float32))


@damage("made by another tool", also=frozenset())
def producer(file: Edit) -> None:
    file.model.producer_name = "other"
