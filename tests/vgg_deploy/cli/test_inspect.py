"""`vgg-deploy inspect`: what a file is, and whether it matches its manifest. It needs no TensorRT."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.graph import build_graph
from vgg_deploy.artifacts.description import describe
from vgg_deploy.artifacts.export_options import GraphOptions
from vgg_deploy.artifacts.plan import PlanManifest, sidecar_of, write_plan
from vgg_deploy.errors import ManifestError, ModelFileError, PlanError, UsageError
from vgg_deploy.files import Source
from vgg_deploy.network.manifest import MANIFEST_KEY, PAPER_NORMALIZATION, Manifest
from vgg_deploy.network.precision import Precision, Quantization
from vgg_deploy.network.shapes import AxisRange, Profile, ShapeRange
from vgg_deploy.network.spec import NetworkSpec

EDGE = AxisRange(64)
INSPECT = """
import sys
for name in ("tensorrt", "tensorrt_rtx", "onnxruntime", "openvino", "torch"):
    sys.modules[name] = None
from vgg_deploy.cli import main
main()
"""


@pytest.fixture
def spec(narrow_spec: Callable[..., NetworkSpec]) -> NetworkSpec:
    return narrow_spec("A")


@pytest.fixture
def quantization(spec: NetworkSpec) -> Quantization:
    """INT8 in all convolutions but the first."""
    layers = tuple(layer.name for layer in spec.convolutions[1:])
    names = [layer.name for layer in spec.weight_layers]
    ranges = dict.fromkeys(names, (0.0, 10.5))
    return Quantization("tensorrt", layers, ("conv1_1", "fc6", "fc7", "fc8"), "entropy", ranges, (), (73,), True)


@pytest.fixture
def model(spec: NetworkSpec, manifest_for: Callable[..., Manifest], tmp_path: Path) -> Callable[..., Path]:
    """`model(half=..., quantization=..., stated={...})` -> an ONNX file; `stated` makes its manifest wrong."""

    def write(
        stated: dict[str, Any] | None = None, half: bool = False, quantization: Quantization | None = None
    ) -> Path:
        weights = {}
        for layer in spec.weight_layers:
            weights[f"{layer.name}.weight"] = np.ones(layer.weight_shape, np.float32)
            weights[f"{layer.name}.bias"] = np.zeros(layer.out_channels, np.float32)
        built = build_graph(
            spec, weights, PAPER_NORMALIZATION, GraphOptions(dynamic=True, half=half, quantization=quantization)
        )
        largest = {"conv1_1": 1234.5} if half else None
        precision = (
            Precision("float16", (), "measured", largest, quantization)
            if half
            else Precision(quantization=quantization)
        )
        truth: dict[str, Any] = {
            "precision": precision,
            "shapes": ShapeRange(AxisRange(1), EDGE, EDGE),
            "outputs": ("probabilities",),
            "source": Source("best.safetensors", "ab" * 32),
            "tools": {"vgg_deploy": "0.1.0"},
        }
        manifest = manifest_for(spec).with_(**{**truth, **(stated or {})})
        built.metadata_props.add(key=MANIFEST_KEY, value=manifest.to_json())
        onnx.save(built, tmp_path / "model.onnx")
        return tmp_path / "model.onnx"

    return write


@pytest.fixture
def plan(
    spec: NetworkSpec, manifest_for: Callable[..., Manifest], quantization: Quantization, tmp_path: Path
) -> Callable[..., Path]:
    """`plan(**fields)` -> a plan with placeholder content and a manifest beside it."""

    def write(**fields: Any) -> Path:
        data, precision = b"what TensorRT wrote", Precision("float16", (), "unmeasured", None, quantization)
        profile = Profile((73,), (1, 73, 73), (4, 73, 97), (8, 146, 146))
        model = manifest_for(spec).with_(precision=precision, shapes=profile.shapes, outputs=("probabilities",))
        known = {
            "backend": "tensorrt-rtx",
            "version": "1.7.1.116",
            "compute_capabilities": (),
            "hardware_compatibility": "none",
            "profiles": (profile,),
            "layers": {layer.name: precision.of(layer.name) for layer in spec.weight_layers},
            "layers_from": "declared",
            "plan": Source("model.plan", hashlib.sha256(data).hexdigest()),
            "onnx": Source("model.onnx", "cd" * 32),
            "build_seconds": 1.25,
            "command": "vgg-deploy build model.onnx -o model.plan --scales 73",
            "manifest": model,
        }
        path = tmp_path / "model.plan"
        write_plan(path, data, PlanManifest(**{**known, **fields}))
        return path

    return write


def facts_of(text: str) -> dict[str, str]:
    """The first block of the output, by name."""
    lines = text.split("\n\n")[0].splitlines()
    pairs = [line.split(None, 1) if line.split("  ")[0].count(" ") == 0 else line.split("  ", 1) for line in lines]
    return {name.strip(): value.strip() for name, value in pairs}


def test_an_onnx_file_is_described_in_full(
    model: Callable[..., Path], quantization: Quantization, vgg_deploy_command: Callable[..., Any]
) -> None:
    path = model(half=True, quantization=quantization)
    done = vgg_deploy_command("inspect", str(path))
    assert (done.code, done.err) == (0, "")
    facts = facts_of(done.out)
    assert facts["precision"] == "1/8 convolutions FP16, 7/8 convolutions INT8, fc6-fc8 FP16"
    assert facts["images"] == "uint8 1.. x 64.. x 64.. x 3"
    assert facts["input"] == "images: uint8 [?, ?, ?, 3]"
    assert facts["output"] == "probabilities: float [?, 5]"
    assert facts["classes"] == "5: 0, 1, 2, 3, 4"
    assert facts["normalization"] == "(pixel - 123.68,116.779,103.939) / 1,1,1, RGB in units of 0..255"
    assert facts["trained at"] == "S=73, bilinear, sides rounded by floor, also mirrored"
    assert facts["exported from"] == f"best.safetensors (SHA-256 {'ab' * 32})"
    assert facts["exported with"] == "vgg_deploy 0.1.0"
    assert facts["network"].startswith("configuration A (vgg11), ")
    assert facts["SHA-256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert f"{path.stat().st_size:,} bytes" in facts["file"]
    rows = [line.split() for line in done.out.splitlines()]
    assert ["conv1_1", "float16", "0", "..", "10.5", "1,234"] in rows
    assert ["conv2_1", "int8", "0", "..", "10.5"] in rows


def test_the_whole_manifest_is_printed(model: Callable[..., Path], vgg_deploy_command: Callable[..., Any]) -> None:
    path = model()
    done = vgg_deploy_command("inspect", str(path))
    block = done.out.split("\nmanifest:\n")[1]
    printed = dict(line.strip().split(": ", 1) for line in block.splitlines())
    stored = json.loads(next(entry.value for entry in onnx.load(path).metadata_props if entry.key == MANIFEST_KEY))
    assert {name: json.loads(value) for name, value in printed.items()} | {"version": 1} == stored


def test_json_has_the_facts_and_the_whole_manifest(
    model: Callable[..., Path], quantization: Quantization, vgg_deploy_command: Callable[..., Any]
) -> None:
    path = model(quantization=quantization)
    done = vgg_deploy_command("inspect", str(path), "--json")
    assert (done.code, done.err) == (0, "")
    data = json.loads(done.out)
    assert data["kind"] == "onnx"
    assert data["bytes"] == path.stat().st_size
    assert data["contradictions"] == []
    assert data["layers"]["conv1_1"] == "float32"
    assert data["layers"]["conv5_2"] == "int8"
    assert data["inputs"] == {"images": "uint8 [?, ?, ?, 3]"}
    assert data["manifest"]["precision"]["quantization"]["method"] == "entropy"
    assert data["manifest"]["spec"]["configuration"] == "A"


@pytest.mark.parametrize(("half", "expected"), [(False, 4), (True, 2)])
def test_the_size_of_the_weights_is_that_of_their_types(
    half: bool, expected: int, model: Callable[..., Path], spec: NetworkSpec
) -> None:
    normalization = 3 * 4  # the mean
    assert describe(model(half=half)).weight_bytes == spec.parameters * expected + normalization


def test_a_plan_is_described_in_full(plan: Callable[..., Path], vgg_deploy_command: Callable[..., Any]) -> None:
    done = vgg_deploy_command("inspect", str(plan()))
    assert (done.code, done.err) == (0, "")
    facts = facts_of(done.out)
    assert facts["made by"] == "tensorrt-rtx 1.7.1.116"
    assert facts["precision"] == "1/8 convolutions FP16, 7/8 convolutions INT8, fc6-fc8 FP16, declared"
    assert facts["runs on"] == "compute capability 8.0 and later, except 9.0"
    assert facts["profile"] == "Q=73: 1..8 x 73..146 x 73..146 x 3, tuned for 4 x 73 x 97 x 3"
    assert facts["built from"] == f"model.onnx (SHA-256 {'cd' * 32}) in 1.2 s"
    assert facts["build again"] == "vgg-deploy build model.onnx -o model.plan --scales 73"
    assert facts["images"] == "uint8 1..8 x 73..146 x 73..146 x 3"
    assert "conv2_1  int8" in done.out
    assert '  backend: "tensorrt-rtx"' in done.out


@pytest.mark.parametrize(
    ("fields", "runs_on"),
    [
        ({"compute_capabilities": ("8.9", "12.0")}, "compute capability 8.9, 12.0"),
        (
            {"backend": "tensorrt", "compute_capabilities": ("8.6",), "hardware_compatibility": "ampere+"},
            "compute capability 8.6, and any from 8.0",
        ),
    ],
)
def test_the_gpus_of_a_plan_are_stated(
    fields: dict[str, Any], runs_on: str, plan: Callable[..., Path], vgg_deploy_command: Callable[..., Any]
) -> None:
    assert facts_of(vgg_deploy_command("inspect", str(plan(**fields))).out)["runs on"] == runs_on


def test_a_plan_as_json_has_its_manifest_around_that_of_its_model(
    plan: Callable[..., Path], vgg_deploy_command: Callable[..., Any]
) -> None:
    path = plan(layers_from="built")
    data = json.loads(vgg_deploy_command("inspect", str(path), "--json").out)
    assert data["kind"] == "plan"
    assert data["manifest"] == json.loads(sidecar_of(path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_plan_that_is_not_what_its_manifest_describes_exits_1(
    options: tuple[str, ...], plan: Callable[..., Path], vgg_deploy_command: Callable[..., Any]
) -> None:
    path = plan()
    path.write_bytes(path.read_bytes()[:-3])
    done = vgg_deploy_command("inspect", str(path), *options)
    assert done.code == 1
    assert done.err.startswith(f"Error: {path} is not the file that model.plan.json describes (its SHA-256 differs)")
    assert done.err.count("\n") == 1
    assert done.out


def test_a_plan_whose_layers_are_not_what_its_model_declares_exits_1(
    plan: Callable[..., Path], spec: NetworkSpec, vgg_deploy_command: Callable[..., Any]
) -> None:
    path = plan(layers=dict.fromkeys((layer.name for layer in spec.weight_layers), "float32"))
    done = vgg_deploy_command("inspect", str(path))
    assert done.code == 1
    assert "conv1_1 is float32 instead of float16, conv2_1 is float32 instead of int8" in done.err


@pytest.mark.parametrize(
    ("stated", "pattern"),
    [
        (
            {"precision": Precision("float16", (), "unmeasured")},
            "conv1_1 is float32 instead of float16, .* and 8 more; export it again",
        ),
        (
            {"outputs": ("probabilities", "features")},
            "has the outputs probabilities, but its manifest states probabilities, features",
        ),
        (
            {"shapes": ShapeRange(AxisRange(1, 1), EDGE, EDGE)},
            r"takes images of 1\.\. x 64\.\. x 64\.\. x 3, but its manifest states 1 x 64",
        ),
    ],
)
def test_an_onnx_file_that_contradicts_its_manifest_exits_1(
    stated: dict[str, Any], pattern: str, model: Callable[..., Path], vgg_deploy_command: Callable[..., Any]
) -> None:
    path = model(stated=stated)
    done = vgg_deploy_command("inspect", str(path))
    assert done.code == 1
    assert done.out
    assert done.err.startswith("Error: ")
    (text,) = describe(path).contradictions
    assert re.search(pattern, text)


def test_a_file_of_ours_that_lost_its_manifest_exits_1(
    model: Callable[..., Path], vgg_deploy_command: Callable[..., Any]
) -> None:
    path = model()
    stripped = onnx.load(path)
    del stripped.metadata_props[:]
    onnx.save(stripped, path)
    done = vgg_deploy_command("inspect", str(path))
    assert done.code == 1
    assert "was written by vgg_deploy, but its manifest is missing" in done.err
    assert "8/8 convolutions FP32" in done.out


def test_what_is_known_of_a_foreign_file_is_printed(tmp_path: Path, vgg_deploy_command: Callable[..., Any]) -> None:
    weights = numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float16), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["n", None, 8, 8]) for name in ("x", "y")]
    model = helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:], [weights]), producer_name="pytorch", producer_version="2.4"
    )
    onnx.save(model, tmp_path / "other.onnx")
    done = vgg_deploy_command("inspect", str(tmp_path / "other.onnx"))
    assert (done.code, done.err) == (0, "")
    facts = facts_of(done.out)
    assert facts["made by"].startswith("pytorch 2.4, opset ")
    assert facts["precision"] == "node_of_y FP16"
    assert facts["input"] == "x: float16 [?, ?, 8, 8]"
    assert facts["manifest"] == "no vgg_deploy manifest: classes, normalization and S are unknown"
    assert "108 bytes of weights" in facts["file"]
    assert json.loads(vgg_deploy_command("inspect", str(tmp_path / "other.onnx"), "--json").out)["manifest"] is None


def test_other_files_are_refused_by_kind(tmp_path: Path, plan: Callable[..., Path]) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"is a checkpoint; inspect takes an ONNX file or a plan.*: vgg-deploy export"):
        describe(tmp_path / "best.safetensors")
    with pytest.raises(UsageError, match=r"name the plan: .*model\.plan$"):
        describe(sidecar_of(plan()))
    with pytest.raises(UsageError, match="no such model"):
        describe(tmp_path / "absent.onnx")
    with pytest.raises(UsageError, match="no such plan"):
        describe(tmp_path / "absent.plan")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ModelFileError):
        describe(tmp_path / "text.onnx")
    (tmp_path / "empty.plan").touch()
    with pytest.raises(PlanError, match="is empty"):
        describe(tmp_path / "empty.plan")


def test_a_plan_without_its_manifest_cannot_be_described(plan: Callable[..., Path]) -> None:
    path = plan()
    sidecar_of(path).unlink()
    with pytest.raises(
        ManifestError, match=r"has no model\.plan\.json beside it, .* copy both files, or build the plan"
    ):
        describe(path)


def test_the_types_and_sizes_of_a_plan_fit_each_other(plan: Callable[..., Path], spec: NetworkSpec) -> None:
    whole = describe(plan())
    known = whole.plan
    single = describe(plan(layers=dict.fromkeys(known.layers, "float32")))
    half = describe(plan(layers=dict.fromkeys(known.layers, "float16")))
    biases = sum(layer.out_channels for layer in spec.weight_layers)
    assert half.weight_bytes == 2 * spec.parameters
    assert single.weight_bytes == 4 * (spec.parameters - biases) + 2 * biases
    assert whole.weight_bytes < half.weight_bytes


@pytest.mark.parametrize("kind", ["model", "plan"])
def test_it_needs_no_runtime_and_no_torch(kind: str, request: pytest.FixtureRequest) -> None:
    path = request.getfixturevalue(kind)()
    command = [sys.executable, "-c", INSPECT, "inspect", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "precision " in done.stdout


def test_a_plan_that_build_wrote_fits(model: Callable[..., Path], vgg_deploy_command: Callable[..., Any]) -> None:
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed")
    path = model(half=True)
    done = vgg_deploy_command("build", str(path), "--backend", "tensorrt-rtx", "--scales", "64")
    assert done.code == 0, done.err
    done = vgg_deploy_command("inspect", str(path.with_suffix(".plan")))
    assert (done.code, done.err) == (0, "")
