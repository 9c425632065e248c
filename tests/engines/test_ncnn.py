"""What is translated from an ONNX file to ncnn, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import open_engine
from vgg_deploy.errors import EngineError
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.tensors import Images

pytest.importorskip("ncnn")


@pytest.fixture
def changed(tiny_model: Path, tmp_path: Path) -> Callable[[Callable[[onnx.ModelProto], None]], Path]:
    """`changed(change)` -> the tiny model after a change."""

    def make(change: Callable[[onnx.ModelProto], None]) -> Path:
        model, path = onnx.load(tiny_model), tmp_path / "changed.onnx"
        change(model)
        onnx.save(model, path)
        return path

    return make


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(each for each in model.graph.node if each.name == name)


def attribute(name: str, **values: Any) -> Callable[[onnx.ModelProto], None]:
    """A change to a node's attributes."""

    def change(model: onnx.ModelProto) -> None:
        changed = node(model, name)
        others = [attribute for attribute in changed.attribute if attribute.name not in values]
        del changed.attribute[:]
        changed.attribute.extend([*others, *(helper.make_attribute(key, value) for key, value in values.items())])

    return change


def weight(name: str, value: float) -> Callable[[onnx.ModelProto], None]:
    """A change to one weight."""

    def change(model: onnx.ModelProto) -> None:
        tensor = next(each for each in model.graph.initializer if each.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values.flat[1] = value
        tensor.raw_data = values.tobytes()

    return change


def unnormalized(model: onnx.ModelProto) -> None:
    node(model, "subtract_mean").op_type = "Add"


def without_bias(model: onnx.ModelProto) -> None:
    del node(model, "conv2_1").input[2]


def constant(model: onnx.ModelProto) -> None:
    value = numpy_helper.from_array(np.zeros(1, np.float32))
    model.graph.node.insert(0, helper.make_node("Constant", [], ["constant"], name="constant", value=value))


def rounded(model: onnx.ModelProto) -> None:
    """Makes conv2_1 read a tensor that was rounded to FP16."""
    reader = node(model, "conv2_1")
    half = helper.make_node("Cast", [reader.input[0]], ["half"], name="half", to=TensorProto.FLOAT16)
    back = helper.make_node("Cast", ["half"], ["back"], name="back", to=TensorProto.FLOAT)
    reader.input[0] = "back"
    index = list(model.graph.node).index(reader)
    model.graph.node.insert(index, back)
    model.graph.node.insert(index, half)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (attribute("conv2_1", strides=[2, 1]), "node conv2_1 is a convolution unlike those of vgg-deploy export"),
        (attribute("conv2_1", pads=[1, 1, 0, 0]), "node conv2_1 is a convolution unlike"),
        (attribute("conv2_1", pads=[1, 1, 1, 1], group=2), "node conv2_1 is a convolution unlike"),
        (attribute("pool1", pads=[0, 0, 1, 1]), "node pool1 is a pooling unlike those of vgg-deploy export"),
        (attribute("pool1", ceil_mode=1), "node pool1 is a pooling unlike"),
        (attribute("transpose", perm=[0, 3, 2, 1]), "it normalizes its input by Cast, Sub, Transpose, unlike"),
        (unnormalized, "it normalizes its input by Cast, Add, Transpose, unlike files of vgg-deploy export"),
        (attribute("conv2_1", auto_pad=b"SAME_UPPER"), "node conv2_1 is a convolution unlike"),
        (attribute("softmax", axis=0), "node softmax is Softmax, which is not translated to ncnn"),
        (attribute("scores", axis=0), "node scores is Flatten, which is not translated to ncnn"),
        (without_bias, "node conv2_1 is a convolution unlike"),
        (constant, "node constant is Constant, which is not translated to ncnn"),
        (rounded, "node back rounds to FP16, and ncnn computes everything in float32 here"),
        (weight("conv2_1.weight", np.nan), "conv2_1.weight has values that are not finite: the weights are damaged"),
        (weight("fc8.bias", np.inf), "fc8.bias has values that are not finite"),
    ],
)
def test_nodes_that_ncnn_would_compute_differently_are_refused_by_name(
    change: Callable[[onnx.ModelProto], None], reason: str, changed: Callable[..., Path]
) -> None:
    path = changed(change)
    with pytest.raises(EngineError, match=f"ncnn refused {path}: {reason}"):
        open_engine(path, runtime="ncnn")


def test_auto_gives_files_that_ncnn_cannot_run_to_another_runtime_and_says_why(changed: Callable[..., Path]) -> None:
    with open_engine(changed(attribute("pool1", ceil_mode=1))) as engine:
        assert engine.info.runtime.startswith("onnxruntime")
        (notice,) = engine.info.notices
    reason = "node pool1 is a pooling unlike those of vgg-deploy export"
    assert notice == f"runtime onnxruntime: ncnn would be faster, but cannot run this file: {reason}"


def test_tensors_may_have_any_names(changed: Callable[..., Path], images: Images) -> None:
    def rename(model: onnx.ModelProto) -> None:
        for reader in model.graph.node:
            names = [f"a b\n{name}" if name.startswith("relu") else name for name in reader.input]
            reader.input[:] = names
            reader.output[:] = [f"a b\n{name}" if name.startswith("relu") else name for name in reader.output]

    path = changed(rename)
    with open_engine(path, runtime="ncnn") as ours, open_engine(path, runtime="onnxruntime") as theirs:
        np.testing.assert_allclose(ours.run(images).probabilities, theirs.run(images).probabilities, atol=1e-6)


def test_unused_constants_and_explicit_defaults_change_nothing(
    changed: Callable[..., Path], images: Images, tiny_model: Path
) -> None:
    def resave(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.arange(3), "shape"))
        attribute("pool1", pads=[0] * 4, dilations=[1, 1], ceil_mode=0)(model)
        attribute("conv2_1", auto_pad=b"NOTSET", group=1)(model)

    with open_engine(changed(resave), runtime="ncnn") as engine, open_engine(tiny_model, runtime="ncnn") as original:
        np.testing.assert_array_equal(engine.run(images).probabilities, original.run(images).probabilities)


def test_large_finite_weights_are_accepted(changed: Callable[..., Path]) -> None:
    def change(model: onnx.ModelProto) -> None:
        for index in (0, 1, 2):  # their sum is past float32's range
            tensor = next(each for each in model.graph.initializer if each.name == "conv2_1.weight")
            values = numpy_helper.to_array(tensor).copy()
            values.flat[index] = 3e38
            tensor.raw_data = values.tobytes()

    with open_engine(changed(change)) as engine:  # auto would avoid ncnn if it took them for damage
        assert engine.info.runtime.startswith("ncnn")


def test_a_std_divides(changed: Callable[..., Path], images: Images) -> None:
    def divide(model: onnx.ModelProto) -> None:
        reader = node(model, "transpose")
        std = numpy_helper.from_array(np.array([58.4, 57.1, 57.4], np.float32), "std_rgb")
        model.graph.initializer.append(std)
        index = list(model.graph.node).index(reader)
        model.graph.node.insert(
            index, helper.make_node("Div", [reader.input[0], "std_rgb"], ["divide_std"], name="divide_std")
        )
        reader.input[0] = "divide_std"

    path = changed(divide)
    with open_engine(path, runtime="ncnn") as ours, open_engine(path, runtime="onnxruntime") as theirs:
        expected = theirs.run(images)
        np.testing.assert_allclose(ours.run(images).probabilities, expected.probabilities, atol=1e-6)


def test_each_computed_layer_is_timed_under_its_nodes_name(tiny_model: Path, images: Images) -> None:
    from engines.ncnn.engine import layer_times

    runs = layer_times(tiny_model, EngineOptions(threads=1), images, 2)
    assert len(runs) == 2
    for times in runs:
        assert {"conv1_1", "pool1", "fc6", "fc8"} <= times.keys()
        assert all(time >= 0 for time in times.values())
        assert sum(times.values()) > 0
