"""The exported file: its manifest, its axes, and FP16 with and without calibration."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import export.exporter
import vgg_deploy
from engines import open_engine
from export import export as export_checkpoint
from export.graph import build_graph
from vgg_deploy.artifacts.export_options import GraphOptions
from vgg_deploy.artifacts.onnx_file import read_manifest
from vgg_deploy.errors import ModelFileError, OutputError, VGGDeployError
from vgg_deploy.files import sha256_of
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.manifest import MANIFEST_KEY, TORCHVISION_NORMALIZATION, Normalization, Rescaling, TrainScale
from vgg_deploy.network.shapes import AxisRange, ShapeRange
from vgg_deploy.network.spec import CONFIGURATIONS

Files = Callable[..., Path]

Exported = Callable[..., Any]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_manifest_in_the_file_is_the_checkpoints_and_says_what_was_made(
    configuration: str, exported: Exported, narrow_checkpoint: Files
) -> None:
    classes = tuple(ClassName(f"n{index:08}", label) for index, label in enumerate(["ä", "b", "c", "d", "e"]))
    fields = {
        "classes": classes,
        "normalization": TORCHVISION_NORMALIZATION,
        "train_scale": TrainScale(70, 90),
        "mirror": False,
        "rescaling": Rescaling("lanczos", "nearest"),
        "training": {"recipe": {"epochs": 2}, "history": [0.5, 0.25]},
    }
    made = exported(configuration, checkpoint={"manifest": fields}, dynamic=True, score_map=True)
    checkpoint = narrow_checkpoint(configuration, manifest=fields)
    manifest = read_manifest(made.path)
    assert manifest == made.manifest
    for name, value in fields.items():
        assert getattr(manifest, name) == value
    assert manifest.spec.configuration == configuration
    assert (manifest.source.name, manifest.source.sha256) == (checkpoint.name, sha256_of(checkpoint))
    assert manifest.outputs == ("probabilities", "score_map")
    assert manifest.precision.arithmetic == "float32"
    assert manifest.tools["vgg_deploy"] == vgg_deploy.__version__
    assert manifest.tools["python"] == platform.python_version()
    assert set(manifest.tools) == {"vgg_deploy", "python", "torch", "onnx", "numpy"}


@pytest.mark.parametrize("half", [False, True])
def test_the_file_holds_the_graph_as_it_was_built(half: bool, exported: Exported, narrow_checkpoint: Files) -> None:
    from train.network.checkpoint import read

    made = exported("A-LRN", half=half, dynamic=True, features=True)
    weights = {name: tensor.numpy() for name, tensor in read(narrow_checkpoint("A-LRN")).weights.items()}
    options = GraphOptions(dynamic=True, half=half, features=True)
    expected = build_graph(made.manifest.spec, weights, made.manifest.normalization, options)
    expected.metadata_props.add(key=MANIFEST_KEY, value=made.manifest.to_json())
    assert onnx.load(made.path) == expected
    assert made.path.stat().st_size == expected.ByteSize()


def test_a_file_takes_one_fixed_crop_unless_dynamic_is_requested(exported: Exported) -> None:
    one, crop = AxisRange(1, 1), AxisRange(64, 64)
    assert exported().manifest.shapes == ShapeRange(one, crop, crop)
    assert exported(dynamic=True).manifest.shapes == ShapeRange(AxisRange(1), AxisRange(64), AxisRange(64))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_axis_that_became_fixed_is_found_in_the_written_file_and_nothing_is_left(
    axis: int, exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    build = export.exporter.build_graph

    def with_a_fixed_axis(*arguments: Any) -> onnx.ModelProto:
        model = build(*arguments)
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 64
        return model

    monkeypatch.setattr(export.exporter, "build_graph", with_a_fixed_axis)
    with pytest.raises(
        ModelFileError, match=r"the written file takes images of .*64.*; expected 1\.\. x 64\.\. x 64\.\."
    ):
        exported(dynamic=True)
    assert [path.name for path in tmp_path.iterdir()] == ["vgg11-0.safetensors"]


def without_a_weight(model: onnx.ModelProto) -> None:
    del model.graph.initializer[3]


def with_half_a_bias(model: onnx.ModelProto) -> None:
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "conv3_1.bias")
    values = onnx.numpy_helper.to_array(bias).astype(np.float16)
    bias.data_type, bias.raw_data = TensorProto.FLOAT16, values.tobytes()


@pytest.mark.parametrize(
    ("damage", "error"),
    [(without_a_weight, onnx.checker.ValidationError), (with_half_a_bias, onnx.shape_inference.InferenceError)],
)
def test_an_invalid_graph_is_not_left_behind(
    damage: Any, error: type[Exception], exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    build = export.exporter.build_graph

    def damaged(*arguments: Any) -> onnx.ModelProto:
        model = build(*arguments)
        damage(model)
        return model

    monkeypatch.setattr(export.exporter, "build_graph", damaged)
    with pytest.raises(error, match="conv"):
        exported()
    assert not list(tmp_path.glob("*.onnx*"))


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """Inside, no file can grow past `size` bytes, as on a full disk. Keep it short: pytest writes files too."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_an_older_file_survives_an_export_to_a_full_disk(exported: Exported, tmp_path: Path) -> None:
    path = exported().path
    before, names = path.read_bytes(), sorted(tmp_path.iterdir())
    from train.network.checkpoint import read

    checkpoint = read(tmp_path / "vgg11-0.safetensors")
    with files_end_at(10_000), pytest.raises(OutputError, match=r"cannot write .*model\.onnx: File too large"):
        export_checkpoint(checkpoint, path)
    assert path.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == names


def test_without_calibration_fp16_says_that_the_range_is_unmeasured(exported: Exported) -> None:
    made = exported(half=True)
    assert made.manifest.precision.arithmetic == "float16"
    assert made.manifest.precision.range == "unmeasured"
    assert '"range": "unmeasured"' in made.manifest.to_json()
    assert made.manifest.precision.largest_activations is None
    assert made.manifest.precision.float32_layers == ()
    assert any("not measured" in text and "--calibration" in text for text in made.notices)


def test_calibration_measures_every_layer_and_keeps_none_in_fp32_without_need(
    exported: Exported, batch: Callable[..., np.ndarray]
) -> None:
    made = exported(half=True, calibration=[batch(1, 70, 90), batch(1, 64, 64, seed=1)])
    precision = made.manifest.precision
    assert precision.float32_layers == ()
    assert list(precision.largest_activations) == [layer.name for layer in made.manifest.spec.weight_layers]
    assert all(value > 0 for value in precision.largest_activations.values())
    peak = max(precision.largest_activations.values())
    assert any(f"largest activation {peak:,.0f}" in text and "65,504" in text for text in made.notices)
    assert read_manifest(made.path).precision == precision


@pytest.mark.parametrize(
    ("configuration", "layers", "kept"),
    [
        ("A", ("conv5_2",), ("conv5_2", "fc6")),
        ("E", ("conv1_1", "conv4_4"), ("conv1_1", "conv1_2", "conv4_4", "conv5_1")),
    ],
)
def test_with_calibration_layers_that_overflow_and_their_readers_stay_fp32_and_are_named(
    configuration: str, layers: tuple[str, ...], kept: tuple[str, ...], exported: Exported, batch: Callable[..., Any]
) -> None:
    images = [batch(1, 80, 96)]
    made = exported(configuration, enlarged=(1e6, *layers), half=True, dynamic=True, calibration=images)
    assert made.manifest.precision.float32_layers == kept
    assert any(text.startswith(f"kept in FP32: {', '.join(kept)} (") for text in made.notices)
    stored = {tensor.name: tensor.data_type for tensor in onnx.load(made.path).graph.initializer}
    for layer in made.manifest.spec.weight_layers:
        expected = TensorProto.FLOAT if layer.name in kept else TensorProto.FLOAT16
        assert stored[f"{layer.name}.weight"] == stored[f"{layer.name}.bias"] == expected


def test_weights_beyond_fp16_stay_fp32_without_calibration_too(exported: Exported) -> None:
    def change(weights: dict[str, Any]) -> None:
        weights["conv4_2.weight"][0, 0, 0, 0] = 1e5

    made = exported(change=change, half=True)
    assert made.manifest.precision.float32_layers == ("conv4_2",)
    assert "kept in FP32: conv4_2 (weights beyond FP16's range)" in made.notices


def test_a_network_that_overflows_fp32_cannot_be_calibrated(
    exported: Exported, batch: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    def change(weights: dict[str, Any]) -> None:
        weights["conv2_1.weight"] *= 1e37

    with pytest.raises(VGGDeployError, match="conv2_1 returns inf on a calibration image even in float32"):
        exported(change=change, half=True, calibration=[batch(1, 64, 64)])
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize("std", [(1.0, 1.0, 1.0), (58.4, 57.1, 57.4), (1.0, 1.0, 2.0)])
def test_the_graph_normalizes_as_the_checkpoint_was_trained(
    std: tuple[float, float, float], exported: Exported, narrow_checkpoint: Files, batch: Callable[..., np.ndarray]
) -> None:
    from train.network.checkpoint import read
    from train.network.reference import Reference

    fields, images = {"normalization": Normalization((10.0, 100.0, 200.0), std)}, batch(2, 66, 95)
    made = exported("B", checkpoint={"manifest": fields}, dynamic=True)
    with open_engine(made.path) as engine, Reference(read(narrow_checkpoint("B", manifest=fields))) as reference:
        received, expected = engine.run(images), reference.run(images)
    np.testing.assert_allclose(received.probabilities, expected.probabilities, atol=1e-5)


MEASURED_EXPORT = """
import sys, time
from pathlib import Path
import torch
from train.network.checkpoint import Checkpoint, read, save
from train.network.model import VGG
from vgg_deploy.network.classes import numbered_classes
from vgg_deploy.files import Source
from vgg_deploy.network.manifest import PAPER_NORMALIZATION, Manifest, TrainScale
from vgg_deploy.network.precision import Quantization
from vgg_deploy.network.spec import NetworkSpec

folder, half = Path(sys.argv[1]), sys.argv[2] == "half"
path = folder / "vgg16.safetensors"
if not path.exists():
    torch.manual_seed(0)
    spec = NetworkSpec("D")
    manifest = Manifest(numbered_classes(1000), spec, PAPER_NORMALIZATION, TrainScale(256, 256))
    save(path, VGG(spec).state_dict(), manifest)
else:
    from export import export
    quantization = None
    if sys.argv[2] == "int8":
        names = tuple(layer.name for layer in NetworkSpec("D").weight_layers)
        ranges = dict.fromkeys((*names, "spatial_mean"), (0.0, 100.0))
        quantization = Quantization("onnxruntime", names[:-1], names[-1:], "minmax", ranges, (), (256,), True)
    began = time.perf_counter()
    export(read(path), folder / "vgg16.onnx", dynamic=True, half=half, quantization=quantization)
    # Not ru_maxrss, which begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    print(time.perf_counter() - began, peak)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell a process's peak memory")
def test_exporting_vgg16_needs_less_than_four_times_its_weights_of_memory(tmp_path: Path) -> None:
    weights = 138_357_544 * 4  # bytes
    for argument in ("save", "single", "half", "int8"):
        command = [sys.executable, "-c", MEASURED_EXPORT, str(tmp_path), argument]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
        if argument != "save":
            seconds, peak = map(float, done.stdout.split())
            print(
                f"VGG-16, {argument}: exported in {seconds:.1f} s, "
                f"peak {peak / 1e6:,.0f} MB for {weights / 1e6:,.0f} MB of weights"
            )
            assert peak < 4 * weights
