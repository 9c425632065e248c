"""Fixtures for tests of plans: our narrow networks and a foreign one as ONNX, and TensorRT-RTX."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.trt import backend as backends
from engines.trt.backend import TENSORRT_RTX, Backend
from export.graph import build_graph
from vgg_deploy.artifacts.export_options import GraphOptions
from vgg_deploy.artifacts.onnx_format import IR_VERSION, OPSET
from vgg_deploy.network.manifest import MANIFEST_KEY, PAPER_NORMALIZATION, Manifest
from vgg_deploy.network.precision import Precision, Quantization
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.spec import NetworkSpec

LABELS = "ant\nbee\ncat\ndog\nelk\n"


@pytest.fixture(scope="session")
def rtx() -> Backend:
    """TensorRT-RTX, which builds without a GPU. Skips if it is not installed."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    return backends.load(TENSORRT_RTX)


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds see no GPU, even if this machine has one."""
    monkeypatch.setattr("engines.trt.build.compute_capability", lambda: None)


def quantization_of(spec: NetworkSpec, layers: Sequence[str], target: str = "tensorrt") -> Quantization:
    """INT8 in `layers`, with made-up ranges."""
    names = tuple(layer.name for layer in spec.weight_layers)
    ranges = {name: (-150.0 if name == "conv1_1" else 0.0, 150.0) for name in (*names, "spatial_mean", "lrn1")}
    floating = tuple(name for name in names if name not in layers)
    return Quantization(target, tuple(layers), floating, "minmax", ranges, (), (73,), True)


@pytest.fixture
def model(
    narrow_spec: Callable[..., NetworkSpec], manifest_for: Callable[..., Manifest], tmp_path: Path
) -> Callable[..., Path]:
    """`model("A", name="model.onnx", half=False, int8=True, target="tensorrt", spec={...}, manifest={...}, **fields)`
    -> an ONNX file of ours with random weights, made without torch, in tmp_path.

    `int8` is True for all layers, or names some. `manifest` changes the file's manifest only. `fields`: GraphOptions.
    """

    def write(
        configuration: str = "A",
        name: str = "model.onnx",
        *,
        half: bool = False,
        int8: bool | Sequence[str] = False,
        target: str = "tensorrt",
        dynamic: bool = True,
        spec: dict[str, Any] | None = None,
        manifest: dict[str, Any] | None = None,
        **options: Any,
    ) -> Path:
        network = narrow_spec(configuration, **(spec or {}))
        layers = [layer.name for layer in network.weight_layers] if int8 is True else list(int8 or ())
        quantization = quantization_of(network, layers, target) if layers else None
        precision = Precision("float16", (), "unmeasured") if half else Precision()
        if quantization is not None:
            precision = Precision(precision.arithmetic, (), precision.range, None, quantization)
        wanted = GraphOptions(dynamic=dynamic, half=half, quantization=quantization, **options)
        built = build_graph(network, weights_of(network), PAPER_NORMALIZATION, wanted)
        edge = AxisRange(network.crop, None if dynamic else network.crop)
        fields = {
            "precision": precision,
            "shapes": ShapeRange(AxisRange(1, None if dynamic else 1), edge, edge),
            "outputs": wanted.outputs,
        }
        stated = manifest_for(network).with_(**{**fields, **(manifest or {})})
        built.metadata_props.add(key=MANIFEST_KEY, value=stated.to_json())
        onnx.save(built, tmp_path / name)
        return tmp_path / name

    return write


def weights_of(spec: NetworkSpec) -> dict[str, np.ndarray]:
    """Random float32 weights in convolutional form."""
    chance = np.random.default_rng(0)
    weights = {}
    for layer in spec.weight_layers:
        std = math.sqrt(2 / math.prod(layer.weight_shape[1:]))
        weights[f"{layer.name}.weight"] = chance.normal(0, std, layer.weight_shape).astype(np.float32)
        weights[f"{layer.name}.bias"] = chance.normal(0, 0.1, layer.out_channels).astype(np.float32)
    return weights


class Foreign:
    """An ONNX model of another exporter: one quantized convolution, five classes. Tests may change its parts."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {
            "scale": np.float32(0.5),
            "zero": np.int8(0),
            "integers": np.random.default_rng(0).integers(-127, 128, (5, 3, 3, 3)).astype(np.int8),
            "scales": np.full(5, 0.01, np.float32),
            "zeros": np.zeros(5, np.int8),
            "bias": np.zeros(5, np.float32),
        }
        self.size: tuple[int | str, ...] = ("n", "h", "w", 3)
        self.add("Cast", "cast", "images", to=TensorProto.FLOAT)
        self.add("Transpose", "transpose", "cast", perm=[0, 3, 1, 2])
        self.add("QuantizeLinear", "quantize", "transpose", "scale", "zero")
        self.add("DequantizeLinear", "dequantize", "quantize", "scale", "zero")
        self.add("DequantizeLinear", "weight", "integers", "scales", "zeros", axis=0)
        self.add("Conv", "conv", "dequantize", "weight", "bias")
        self.add("GlobalAveragePool", "mean", "conv")
        self.add("Flatten", "scores", "mean", axis=1)
        self.add("Softmax", "probabilities", "scores", axis=1)

    def add(self, operator: str, name: str, *inputs: str, **attributes: Any) -> None:
        """Adds a node whose output has the node's name."""
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))

    def node(self, name: str) -> onnx.NodeProto:
        return next(node for node in self.nodes if node.name == name)

    def insert(self, operator: str, name: str, before: str, **attributes: Any) -> None:
        """Inserts a node between another and its first input."""
        reader = self.node(before)
        index = self.nodes.index(reader)
        self.add(operator, name, reader.input[0], **attributes)
        self.nodes.insert(index, self.nodes.pop())
        reader.input[0] = name

    def model(self) -> onnx.ModelProto:
        images = helper.make_tensor_value_info("images", TensorProto.UINT8, self.size)
        scores = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, (self.size[0], 5))
        constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "foreign", [images], [scores], constants)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="other"
        )

    def save(self, folder: Path) -> Path:
        """Writes foreign.onnx, and labels.txt beside it."""
        (folder / "labels.txt").write_text(LABELS)
        onnx.save(self.model(), folder / "foreign.onnx")
        return folder / "foreign.onnx"


@pytest.fixture
def foreign() -> Foreign:
    return Foreign()
