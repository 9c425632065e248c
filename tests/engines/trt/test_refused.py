"""Builds that are refused or fail leave an older plan as it was."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.trt.build import build
from engines.trt.build_options import BuildOptions
from vgg_deploy.artifacts.plan import sidecar_of
from vgg_deploy.errors import BuildError, OutputError, UsageError

pytestmark = pytest.mark.usefixtures("rtx", "without_gpu")

MakeModel = Callable[..., Path]
SMALL = BuildOptions(scales=(64,), max_batch=2)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["absent.onnx", "."])
def test_a_missing_model_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such model|is not a file"):
        build(tmp_path / name, tmp_path / "x.plan")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (
            "best.safetensors",
            "is a checkpoint; export it first: vgg-deploy export --weights .*best.safetensors --dynamic",
        ),
        ("vgg16.plan", "is already a plan"),
    ],
)
def test_checkpoints_and_plans_are_not_models(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match=reason):
        build(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"scales": (64,)}, "--scales: the model accepts images of 64 x 64 only; .*--dynamic"),
        ({"one_profile": True}, "--one-profile: the model accepts"),
        ({"max_batch": 4}, "--max-batch 4: the model accepts batches of 1 only"),
    ],
)
def test_shapes_for_a_model_of_one_shape_are_refused(options: dict[str, Any], reason: str, model: MakeModel) -> None:
    with pytest.raises(UsageError, match=reason):
        build(model(dynamic=False), options=BuildOptions(**options))


def test_a_model_of_one_shape_has_one_profile_of_it(model: MakeModel) -> None:
    (profile,) = build(model(dynamic=False)).manifest.profiles
    assert (profile.minimum, profile.optimum, profile.maximum) == ((1, 64, 64),) * 3
    assert str(profile) == "1 x 64 x 64 x 3"


def test_scales_and_options_of_the_other_backend_are_refused_by_their_checks(model: MakeModel) -> None:
    for options, reason in (
        ({"scales": (96, 96)}, "expected different"),
        ({"timing_cache": Path("t")}, "requires tensorrt"),
    ):
        with pytest.raises(UsageError, match=reason):
            build(model(), options=BuildOptions(**options))


def test_a_plan_is_not_written_over_a_model(model: MakeModel) -> None:
    path = model()
    before = path.read_bytes()
    for output in (path, path.with_name("other.onnx"), path.with_name("x.plan.json")):
        with pytest.raises(UsageError, match="would overwrite a model or its manifest"):
            build(path, output)
    os.link(path, path.with_name("same.plan"))
    with pytest.raises(UsageError, match="would overwrite a model or its manifest"):
        build(path, path.with_name("same.plan"))
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["x", "best.safetensors"])
def test_an_extension_that_no_plan_has_is_refused(name: str, model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"give a file that ends in \.plan or \.engine"):
        build(model(), tmp_path / name, SMALL)
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


def test_profiles_that_tensorrt_only_warns_about_are_refused(model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"finds the profiles too large .*: give a smaller --max-batch"):
        build(model(), options=BuildOptions(scales=(64,), max_batch=100_000_000))
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


def test_a_folder_is_not_a_plan(model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder"):
        build(model(), tmp_path)
    with pytest.raises(OutputError, match="is a file, not a folder"):
        build(model(), tmp_path / "model.onnx" / "x.plan")


def test_too_small_a_workspace_is_an_error_with_tensorrts_reason(model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(
        BuildError, match=r"failed to build .*; give a larger --workspace than 1KiB, a smaller --max-batch"
    ):
        build(model(), options=BuildOptions(scales=(64,), workspace=1024))
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


def test_a_full_disk_leaves_an_older_plan_as_it_was(
    model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model()
    build(path, options=SMALL)
    before = files_of(tmp_path)
    opened = Path.open

    def full(self: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        return opened(Path("/dev/full") if mode == "wb" else self, mode, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OutputError, match=r"cannot write .*model\.plan: the disk is full"):
        build(path, options=BuildOptions(scales=(96,)))
    monkeypatch.undo()
    assert files_of(tmp_path) == before


def test_a_manifest_that_cannot_be_written_leaves_an_older_plan_as_it_was(model: MakeModel, tmp_path: Path) -> None:
    path = model()
    build(path, options=SMALL)
    sidecar_of(path.with_suffix(".plan")).unlink()
    sidecar_of(path.with_suffix(".plan")).mkdir()
    before = path.with_suffix(".plan").read_bytes()
    with pytest.raises(OutputError, match=r"cannot write .*model\.plan\.json: it is a folder"):
        build(path, options=BuildOptions(scales=(96,)))
    assert path.with_suffix(".plan").read_bytes() == before
    assert not list(tmp_path.glob(".*"))
