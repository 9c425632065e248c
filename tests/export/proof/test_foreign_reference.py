"""Other exporters' ONNX files as references: what their inputs and outputs mean, and what is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import open_engine
from export.proof.pipeline.foreign_reference import ForeignInput, adapted, foreign_input, open_adapted, takes_floats
from vgg_deploy.errors import ModelFileError, UsageError
from vgg_deploy.network.classes import numbered_classes
from vgg_deploy.network.manifest import PAPER_NORMALIZATION, TORCHVISION_NORMALIZATION, Normalization
from vgg_deploy.network.tensors import PROBABILITIES

CLASSES, SIDE = 4, 8
NORMALIZATION = Normalization((10.0, 60.0, 200.0), (50.0, 60.0, 70.0))


@dataclass
class Foreign:
    """A small graph: the mean of each channel, a matrix, and what `end` adds. It is written with onnx's helpers.

    Attributes:
        end: names of operators after the logits.
        layout: NCHW or NHWC.
        shape: of the input; None: the layout's, with free axes.
    """

    end: tuple[Any, ...] = ()
    layout: str = "NCHW"
    shape: list[Any] | None = None
    opset: int = 17
    ir_version: int = 8
    element: int = TensorProto.FLOAT
    names: dict[str, str] = field(default_factory=dict)
    weights_as_inputs: bool = False
    output_shape: list[Any] | None = None
    outputs: int = 1

    def name(self, of: str) -> str:
        return self.names.get(of, of)

    def write(self, path: Path, **save: Any) -> Path:
        kind = helper.tensor_dtype_to_np_dtype(self.element)
        axes = [2, 3] if self.layout == "NCHW" else [1, 2]
        free = ["n", 3, "h", "w"] if self.layout == "NCHW" else ["n", "h", "w", 3]
        matrix = matrix_of_weights().astype(kind)
        nodes = [
            helper.make_node("ReduceMean", [self.name("x")], [self.name("pooled")], axes=axes, keepdims=0),
            helper.make_node("MatMul", [self.name("pooled"), "matrix"], [self.name("logits")]),
        ]
        tensor = self.name("logits")
        for index, step in enumerate(self.end):
            operator, attributes = step if isinstance(step, tuple) else (step, {})
            output = self.name(f"step{index}")
            extra = attributes.pop("inputs", []) if attributes else []
            nodes.append(helper.make_node(operator, [tensor, *extra], [output], **attributes))
            tensor = output
        initializers = [
            numpy_helper.from_array(matrix, "matrix"),
            numpy_helper.from_array(np.array([-1, CLASSES, 1, 1], np.int64), "four_axes"),
        ]
        inputs = [helper.make_tensor_value_info(self.name("x"), self.element, self.shape or free)]
        if self.weights_as_inputs:
            inputs += [helper.make_tensor_value_info(i.name, i.data_type, list(i.dims)) for i in initializers]
        shape = self.output_shape or ["n", CLASSES]
        outputs = [helper.make_tensor_value_info(tensor, self.element, shape)]
        if self.outputs > 1:
            outputs.append(helper.make_tensor_value_info(self.name("pooled"), self.element, ["n", 3]))
        graph = helper.make_graph(nodes, "g", inputs, outputs, initializers)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=self.ir_version
        )
        onnx.save(model, path, **save)
        return path


def matrix_of_weights() -> np.ndarray:
    return np.random.default_rng(1).normal(0, 1.0, (3, CLASSES)).astype(np.float32)


def images(side: int = SIDE, n: int = 1) -> np.ndarray:
    return np.random.default_rng(2).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def expected_posteriors(pixels: np.ndarray, *, bgr: bool = False) -> np.ndarray:
    """The answers, computed without ONNX: uint8 [n, h, w, 3] -> [n, classes]."""
    x = (pixels.astype(np.float64) - NORMALIZATION.mean) / NORMALIZATION.std  # in R, G, B
    logits = x[..., :: -1 if bgr else 1].mean(axis=(1, 2)) @ matrix_of_weights()
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def answers(path: Path, pixels: np.ndarray, channels: str = "rgb") -> np.ndarray:
    expected = ForeignInput(normalization=NORMALIZATION, channels=channels)
    classes = numbered_classes(CLASSES)
    with open_adapted(path, expected, classes, lambda copy: open_engine(copy, runtime="onnxruntime")) as engine:
        assert engine.info.outputs == (PROBABILITIES,)
        assert engine.info.manifest.classes == classes
        return engine.run(pixels).probabilities


@pytest.mark.parametrize(
    "foreign",
    [
        Foreign(),
        Foreign(end=("Softmax",)),
        Foreign(end=("LogSoftmax",)),
        Foreign(end=("LogSoftmax", "Exp")),
        Foreign(end=("Softmax", "Identity", ("Cast", {"to": TensorProto.FLOAT}))),
        Foreign(end=(("Softmax", {"axis": 1}),), opset=11),
        Foreign(end=("Softmax",), opset=9, ir_version=3, weights_as_inputs=True),
        Foreign(layout="NHWC"),
        Foreign(layout="NHWC", end=("Softmax",)),
        Foreign(end=(("Reshape", {"inputs": ["four_axes"]}),), output_shape=["n", CLASSES, 1, 1]),
        Foreign(
            end=(("Reshape", {"inputs": ["four_axes"]}), ("Softmax", {"axis": 1})), output_shape=["n", CLASSES, 1, 1]
        ),
        Foreign(output_shape=["n", "c"]),
        Foreign(names={"x": "adapted_images", "logits": PROBABILITIES}),
        Foreign(names={"pooled": PROBABILITIES, "logits": "adapted"}, end=("Softmax",)),
        Foreign(names={"x": PROBABILITIES, "pooled": "images"}),
    ],
    ids=lambda foreign: repr(foreign)[8:90],
)
def test_a_graph_gives_the_posteriors_of_the_stated_normalization(foreign: Foreign, tmp_path: Path) -> None:
    path = foreign.write(tmp_path / "m.onnx")
    assert takes_floats(path)
    for side, n in ((SIDE, 1), (21, 3)):
        pixels = images(side, n)
        np.testing.assert_allclose(answers(path, pixels), expected_posteriors(pixels), atol=2e-6)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_bgr_exchanges_the_normalized_channels_and_mean_and_std_stay_in_rgb(layout: str, tmp_path: Path) -> None:
    path = Foreign(layout=layout).write(tmp_path / "m.onnx")
    pixels = images()
    received = answers(path, pixels, "bgr")
    np.testing.assert_allclose(received, expected_posteriors(pixels, bgr=True), atol=2e-6)
    assert np.abs(received - expected_posteriors(pixels)).max() > 0.05  # the channels matter


def test_an_old_graph_is_converted(tmp_path: Path) -> None:
    path = Foreign(opset=6, ir_version=3, weights_as_inputs=True, end=("Softmax",)).write(tmp_path / "m.onnx")
    np.testing.assert_allclose(answers(path, images()), expected_posteriors(images()), atol=2e-6)


def test_a_softmax_in_single_steps_is_known(tmp_path: Path) -> None:
    model = onnx.load(Foreign(end=("Exp",)).write(tmp_path / "m.onnx"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "second"))
    model.graph.node.append(helper.make_node("ReduceSum", ["step0", "second"], ["sum"], keepdims=1))
    model.graph.node.append(helper.make_node("Div", ["step0", "sum"], ["shares"]))
    model.graph.output[0].name = "shares"
    onnx.save(model, tmp_path / "m.onnx")
    np.testing.assert_allclose(answers(tmp_path / "m.onnx", images()), expected_posteriors(images()), atol=2e-6)


def test_a_softmax_inside_a_function_of_the_file_is_found(tmp_path: Path) -> None:
    model = onnx.load(Foreign(end=("Identity",)).write(tmp_path / "m.onnx"))
    body = [helper.make_node("Softmax", ["a"], ["b"], axis=-1)]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("local", "Ending", ["a"], ["b"], body, opsets))
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[-1].op_type, model.graph.node[-1].domain = "Ending", "local"
    onnx.save(model, tmp_path / "m.onnx")
    np.testing.assert_allclose(answers(tmp_path / "m.onnx", images()), expected_posteriors(images()), atol=2e-6)


def test_a_half_precision_input_is_cast(tmp_path: Path) -> None:
    path = Foreign(element=TensorProto.FLOAT16).write(tmp_path / "m.onnx")
    np.testing.assert_allclose(answers(path, images()), expected_posteriors(images()), atol=5e-3)


def test_weights_in_another_file_are_found(tmp_path: Path) -> None:
    path = Foreign().write(tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    assert (tmp_path / "w.bin").stat().st_size > 0
    np.testing.assert_allclose(answers(path, images()), expected_posteriors(images()), atol=2e-6)


def test_a_fixed_batch_and_size_stay_fixed(tmp_path: Path) -> None:
    path = Foreign(shape=[1, 3, SIDE, SIDE], output_shape=[1, CLASSES]).write(tmp_path / "m.onnx")
    model = adapted(path, ForeignInput(normalization=NORMALIZATION), numbered_classes(CLASSES))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, tmp_path / "adapted.onnx")
    with open_engine(tmp_path / "adapted.onnx", runtime="onnxruntime") as engine:
        assert not engine.info.shapes.free
        np.testing.assert_allclose(engine.run(images()).probabilities, expected_posteriors(images()), atol=2e-6)
        with pytest.raises(UsageError, match="this model takes"):
            engine.run(images(SIDE + 1))


def test_a_model_of_torch_gives_what_it_gives_in_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2), torch.nn.Flatten()]
    model = torch.nn.Sequential(*layers, torch.nn.Linear(6 * 16, CLASSES)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter without dynamo is deprecated, and widely used
        torch.onnx.export(model, (torch.zeros(1, 3, SIDE, SIDE),), tmp_path / "m.onnx", dynamo=False)
    x = (torch.from_numpy(images()).double() - torch.tensor(NORMALIZATION.mean)) / torch.tensor(NORMALIZATION.std)
    with torch.inference_mode():
        wanted = model(x.permute(0, 3, 1, 2).float()).softmax(1).numpy()
    np.testing.assert_allclose(answers(tmp_path / "m.onnx", images()), wanted, atol=2e-6)


def test_our_export_agrees_with_the_export_of_torch(exported: Callable[..., Any], tmp_path: Path) -> None:
    """The reference tells a right from a wrong normalization, which a comparison with the checkpoint cannot."""
    torch = pytest.importorskip("torch")
    from train.network.checkpoint import read
    from train.network.model import VGG

    made = exported("A", dynamic=False)
    checkpoint = next(tmp_path.glob("*.safetensors"))
    weights = read(checkpoint)
    assert weights.manifest.spec is not None
    model = VGG(weights.manifest.spec).eval()
    model.load_state_dict(weights.weights)
    side = weights.manifest.crop
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, (torch.zeros(1, 3, side, side),), tmp_path / "theirs.onnx", dynamo=False)
    pixels = images(side)
    with open_engine(made.path, runtime="onnxruntime") as ours:
        received = ours.run(pixels).probabilities
    differences = []
    for normalization in (PAPER_NORMALIZATION, TORCHVISION_NORMALIZATION):
        expected = ForeignInput(normalization=normalization)
        classes = made.manifest.classes
        with open_adapted(tmp_path / "theirs.onnx", expected, classes, open_engine) as theirs:
            differences.append(np.abs(theirs.run(pixels).probabilities - received).max())
    assert differences[0] < 1e-5 < 1e-2 < differences[1]


@pytest.mark.parametrize(
    ("foreign", "message"),
    [
        (Foreign(end=("Sigmoid",)), "ends with Sigmoid: a probability for each class alone"),
        (Foreign(end=("Relu",)), "ends with Relu, so whether its output .* logits or posteriors is not clear"),
        (Foreign(end=(("Softmax", {"axis": 0}),)), r"Softmax is over axis 0 of \[n|Softmax is over axis 0"),
        (
            Foreign(
                end=(("Reshape", {"inputs": ["four_axes"]}), ("Softmax", {"axis": -1})),
                output_shape=["n", CLASSES, 1, 1],
            ),
            "Softmax is over axis 3 of .* not the classes",
        ),
        (
            Foreign(end=(("Reshape", {"inputs": ["four_axes"]}), "Softmax"), output_shape=["n", CLASSES, 1, 1]),
            "Softmax is over axis 3 of .* not the classes",  # the default since opset 13
        ),
        (Foreign(outputs=2), "has 2 outputs: logits, pooled; expected one"),
        (Foreign(shape=["n", 3, 8, 3]), "the three channels may be its second or its last axis"),
        (Foreign(shape=["n", "c", "h", "w"]), "no axis has three channels"),
        (Foreign(shape=[2, 3, 8, 8], output_shape=[2, CLASSES]), "takes batches of 2 only"),
        (Foreign(output_shape=["n", CLASSES, 7, 7], end=(("Reshape", {"inputs": ["four_axes"]}),)), "output"),
    ],
)
def test_what_is_not_clear_is_refused_with_what_was_found(foreign: Foreign, message: str, tmp_path: Path) -> None:
    path = foreign.write(tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match=message):
        adapted(path, ForeignInput(normalization=NORMALIZATION), numbered_classes(CLASSES))


def test_another_number_of_classes_is_refused_with_both_numbers(tmp_path: Path) -> None:
    path = Foreign().write(tmp_path / "m.onnx")
    with pytest.raises(UsageError, match="has 4 classes, and the judged file has 5"):
        adapted(path, ForeignInput(normalization=NORMALIZATION), numbered_classes(5))


def test_several_inputs_are_refused_with_their_names(tmp_path: Path) -> None:
    model = onnx.load(Foreign().write(tmp_path / "m.onnx"))
    model.graph.input.append(helper.make_tensor_value_info("training", TensorProto.BOOL, []))
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelFileError, match=r"2 inputs: x float \[\?, 3, \?, \?\], training bool \[\]; expected one"):
        adapted(tmp_path / "m.onnx", ForeignInput(normalization=NORMALIZATION), numbered_classes(CLASSES))


def test_without_a_normalization_the_options_are_named(tmp_path: Path) -> None:
    path = Foreign().write(tmp_path / "m.onnx")
    with pytest.raises(UsageError) as refusal:
        foreign_input(path, None, None)
    for text in ("float [?, 3, ?, ?]", "--normalization paper, torchvision", "--mean R,G,B", "--channels bgr"):
        assert text in str(refusal.value)
    assert foreign_input(path, NORMALIZATION, None).channels == "rgb"


def test_our_own_file_needs_no_adapting(exported: Callable[..., Any]) -> None:
    path = exported("A").path
    assert not takes_floats(path)
    with pytest.raises(UsageError, match="normalizes pixels itself"):
        adapted(path, ForeignInput(normalization=NORMALIZATION), numbered_classes(5))
