"""Plans that TensorRT-RTX builds without a GPU, and what is refused instead of built."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

import vgg_deploy
from engines.trt.backend import Backend, listening
from engines.trt.build import build
from engines.trt.build_options import BuildOptions
from engines.trt.gpu import compute_capability
from engines.trt.inspector import built_types
from vgg_deploy.artifacts.plan import mismatch, read_plan
from vgg_deploy.artifacts.verdict_record import write_verdict
from vgg_deploy.errors import BuildError, UsageError
from vgg_deploy.files import Source
from vgg_deploy.network.manifest import TrainScale
from vgg_deploy.network.precision import FLOAT16, FLOAT32, INT8, Precision
from vgg_deploy.network.verdict import Verdict

pytestmark = pytest.mark.usefixtures("rtx", "without_gpu")

MakeModel = Callable[..., Path]
SMALL = BuildOptions(scales=(64,), max_batch=2)
PRECISIONS = {
    "fp32": ({}, FLOAT32),
    "fp16": ({"half": True}, FLOAT16),
    "int8": ({"int8": True}, INT8),
    "int8 and fp16": ({"int8": True, "half": True}, INT8),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("configuration", ["A-LRN", "C", "E"])
def test_each_configuration_builds_in_each_precision_and_computes_in_it(
    configuration: str, precision: str, model: MakeModel
) -> None:
    options, kind = PRECISIONS[precision]
    built = build(model(configuration, **options), options=SMALL)
    spec = built.manifest.manifest.spec
    assert dict(built.manifest.layers) == {layer.name: kind for layer in spec.weight_layers}
    assert built.manifest.layers_from == "declared"
    assert built.path.stat().st_size > 1000


@pytest.mark.parametrize("dynamic", [False, True])
def test_models_with_further_outputs_build(dynamic: bool, model: MakeModel) -> None:
    path = model("A-LRN", half=True, score_map=True, features=True, dynamic=dynamic, spec={"fine": dynamic})
    built = build(path, options=SMALL if dynamic else None)
    assert set(built.manifest.manifest.outputs) == {"probabilities", "score_map", "features"}


def test_layers_kept_in_floating_point_stay_so_in_the_plan(model: MakeModel) -> None:
    built = build(model("B", half=True, int8=("conv1_2", "conv2_1", "fc7")), options=SMALL)
    expected = {"conv1_2": INT8, "conv2_1": INT8, "fc7": INT8}
    assert {layer: expected.get(layer, FLOAT16) for layer in built.manifest.layers} == dict(built.manifest.layers)


def test_the_plan_and_its_manifest_lie_beside_the_model_and_match(model: MakeModel, rtx: Backend) -> None:
    path = model()
    built = vgg_deploy.build(path)
    plan = path.with_suffix(".plan")
    assert built.path == plan
    assert {item.name for item in path.parent.iterdir()} == {"model.onnx", "model.plan", "model.plan.json"}
    stated = read_plan(plan)
    assert stated == built.manifest
    assert mismatch(plan, built.manifest) is None
    assert built.manifest.plan == Source("model.plan", hashlib.sha256(plan.read_bytes()).hexdigest())
    assert built.manifest.onnx == Source.of(path)
    assert (built.manifest.backend, built.manifest.version) == ("tensorrt-rtx", rtx.version)
    assert built.manifest.compute_capabilities == ()
    assert built.manifest.build_seconds > 0


def test_a_plan_carries_the_verdict_of_its_model_only_if_the_model_was_not_changed_since(model: MakeModel) -> None:
    path = model()
    verdict = write_verdict(path, Verdict("2026-11-25", Source("best.safetensors", "ab" * 32), (1, 2), "openvino"))
    assert build(path).manifest.manifest.verdict == verdict
    edited = onnx.load(path)
    bias = next(tensor for tensor in edited.graph.initializer if tensor.name == "fc8.bias")
    bias.raw_data = bytes(len(bias.raw_data))
    onnx.save(edited, path)
    built = build(path)
    assert built.manifest.manifest.verdict is None
    assert f"{path} was changed since it was {verdict}; the plan does not keep that verdict" in built.notices


def test_profiles_come_from_the_paper_s_scales_for_the_training_scale(model: MakeModel) -> None:
    built = build(model(manifest={"train_scale": TrainScale(96, 96)}))
    assert [profile.scales for profile in built.manifest.profiles] == [(87,), (96,), (105,)]  # crop 64: S - 9, S, S + 9
    assert str(built.manifest.manifest.shapes) == "1..8 x 87..210 x 87..210 x 3"
    assert built.notices == ()
    low = build(model(manifest={"train_scale": TrainScale(72, 72)}))
    assert [profile.scales for profile in low.manifest.profiles] == [(64,), (72,), (81,)]
    assert low.notices == (
        "multiscale: the default Q=63 is below the network's crop of 64; Q=64,72,81 are averaged instead",
    )


def test_one_profile_makes_a_smaller_plan(model: MakeModel, tmp_path: Path) -> None:
    path, scales = model(), (64, 96, 128)
    three = build(path, tmp_path / "3.plan", BuildOptions(scales=scales))
    single = build(path, tmp_path / "1.plan", BuildOptions(scales=scales, one_profile=True))
    assert [len(built.manifest.profiles) for built in (three, single)] == [3, 1]
    assert single.manifest.profiles[0].scales == scales
    assert single.path.stat().st_size < three.path.stat().st_size
    assert single.manifest.manifest.shapes == three.manifest.manifest.shapes


def test_the_command_in_the_manifest_builds_the_same_plan_again(
    model: MakeModel, tmp_path: Path, vgg_deploy_command: Callable[..., Any]
) -> None:
    options = BuildOptions(max_batch=3, max_aspect=1.25, workspace=1 << 30, compute_capabilities=("8.9", "12.0"))
    built = build(model(), tmp_path / "my plans" / "a.plan", options)
    arguments = shlex.split(built.manifest.command)
    assert arguments[:2] == ["vgg-deploy", "build"]
    done = vgg_deploy_command(*arguments[1:])
    assert done.code == 0, done.err
    again = read_plan(built.path)
    assert (again.profiles, again.compute_capabilities) == (built.manifest.profiles, ("8.9", "12.0"))
    assert again.command == built.manifest.command


@pytest.mark.parametrize("capabilities", [("7.5",), ("8.9", "12.0")])
def test_the_manifest_lists_the_named_gpus(capabilities: tuple[str, ...], model: MakeModel) -> None:
    built = build(model(), options=BuildOptions(scales=(64,), compute_capabilities=capabilities))
    assert built.manifest.compute_capabilities == capabilities


@pytest.mark.parametrize("capability", ["9.0", "sm_89"])
def test_a_gpu_that_rtx_does_not_build_for_is_a_usage_error(capability: str, model: MakeModel, tmp_path: Path) -> None:
    path = model()
    with pytest.raises(UsageError, match=r"builds for 7\.5, 8\.0, 8\.6, 8\.9, 12\.0, 12\.1\. .* except 9\.0"):
        build(path, options=BuildOptions(compute_capabilities=(capability,)))
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("really", "stated", "reason"),
    [
        (
            {},
            Precision("float16", (), "unmeasured"),
            "declares 8/8 convolutions FP16, fc6-fc8 FP16, but the parsed network has 8/8 convolutions FP32",
        ),
        ({"half": True}, Precision("float16", ("fc6",), "unmeasured"), "fc6 is float16 instead of float32"),
    ],
)
def test_a_plan_of_another_precision_than_the_manifest_declares_is_not_written(
    really: dict[str, Any], stated: Precision, reason: str, model: MakeModel, tmp_path: Path
) -> None:
    path = model("A", **really, manifest={"precision": stated})
    with pytest.raises(BuildError, match=reason):
        build(path, options=SMALL)
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


def test_an_engine_of_another_precision_is_not_written(
    model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model(half=True)
    monkeypatch.setattr("engines.trt.build.compute_capability", lambda: (8, 9))
    monkeypatch.setattr("engines.trt.build.built_types", lambda *_: {"conv3_1": FLOAT32})
    with pytest.raises(BuildError, match=r"the built engine has .*conv3_1 is float32 instead of float16"):
        build(path, options=SMALL)
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("reported", "layers_from", "notices"), [(11, "built", 0), (10, "declared", 1), (0, "declared", 1)]
)
def test_with_a_gpu_the_types_are_those_that_the_engine_reports(
    reported: int, layers_from: str, notices: int, model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.trt.build.compute_capability", lambda: (8, 9))
    monkeypatch.setattr(
        "engines.trt.build.built_types", lambda _b, _p, layers: dict.fromkeys(list(layers)[:reported], FLOAT16)
    )
    built = build(model(half=True), options=SMALL)
    assert built.manifest.layers_from == layers_from
    assert len(built.notices) == notices
    assert all("the manifest lists the declared types" in text for text in built.notices)


def test_without_a_gpu_a_built_plan_reports_no_types(
    model: MakeModel, rtx: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:

    if compute_capability() is not None:
        pytest.skip("this machine has a GPU, which may load the plan")
    plan = build(model(), options=SMALL).path
    with listening(rtx) as messages:
        assert built_types(rtx, memoryview(plan.read_bytes()), ["conv1_1"]) == {}
    assert any("deserializeCudaEngine" in text for text in messages.errors)  # it was tried


def test_a_notice_says_that_int8_on_rtx_is_unproven(model: MakeModel) -> None:
    notices = build(model(int8=True), options=SMALL).notices
    assert sum(text.startswith("INT8 convolutions may not be faster than FP16") for text in notices) == 1


def test_warnings_of_tensorrt_are_shown_once(model: MakeModel) -> None:
    notices = [text for text in build(model(int8=True, half=True)).notices if text.startswith("tensorrt-rtx: ")]
    assert notices
    assert len(set(notices)) == len(notices)
    assert not any("\n" in text or "unsupported in TensorRT-RTX" in text for text in notices)


def test_every_line_of_tensorrt_s_log_is_given_to_verbose(model: MakeModel) -> None:
    lines: list[str] = []
    build(model(), options=SMALL, verbose=lines.append)
    assert any(line.startswith("[verbose] ") for line in lines)
    assert any("[MemUsageStats]" in line for line in lines)
