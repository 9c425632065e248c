"""The manifest beside a plan: written, read again, and compared with the plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vgg_deploy.artifacts.plan import PlanManifest, mismatch, read_plan, sidecar_of, write_plan
from vgg_deploy.errors import ManifestError, OutputError, PlanError, UsageError
from vgg_deploy.files import Source
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import Precision, Quantization
from vgg_deploy.network.shapes import AxisRange, Profile, ShapeRange, shapes_of

PROFILES = (
    Profile((64,), (1, 64, 64), (4, 64, 85), (8, 128, 128)),
    Profile((96, 128), (2, 96, 96), (4, 96, 128), (4, 256, 256)),
)
DATA = b"what TensorRT wrote"


@pytest.fixture
def plan(narrow_spec: Callable[..., Any], manifest_for: Callable[..., Manifest]) -> Callable[..., PlanManifest]:
    """`plan(**fields)` -> the manifest of a plan of `DATA`."""
    quantization = Quantization(
        "tensorrt", ("conv1_1",), ("fc8",), "minmax", {"conv1_1": (-1.5, 2.0)}, (Source("a.jpg", "00"),), (64,), True
    )
    model = manifest_for(narrow_spec("A")).with_(
        precision=Precision("float16", (), "unmeasured", None, quantization), shapes=shapes_of(PROFILES)
    )

    def make(**fields: Any) -> PlanManifest:
        known = {
            "backend": "tensorrt-rtx",
            "version": "1.7.1.116",
            "compute_capabilities": ("8.9", "12.0"),
            "hardware_compatibility": "none",
            "profiles": PROFILES,
            "layers": {"conv1_1": "int8", "fc8": "float16"},
            "layers_from": "declared",
            "plan": Source("model.plan", hashlib.sha256(DATA).hexdigest()),
            "onnx": Source("model.onnx", "0" * 64),
            "build_seconds": 1.25,
            "command": "vgg-deploy build model.onnx -o model.plan",
            "manifest": model,
        }
        return PlanManifest(**{**known, **fields})

    return make


def test_what_is_written_is_read_again(plan: Callable[..., PlanManifest], tmp_path: Path) -> None:
    path, manifest = tmp_path / "model.plan", plan()
    write_plan(path, memoryview(DATA), manifest)
    assert path.read_bytes() == DATA
    assert sidecar_of(path) == tmp_path / "model.plan.json"
    assert read_plan(path) == manifest
    assert mismatch(path, manifest) is None
    assert {item.name for item in tmp_path.iterdir()} == {"model.plan", "model.plan.json"}


def test_if_the_plan_cannot_be_put_in_its_place_an_older_pair_stays(
    plan: Callable[..., PlanManifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.plan"
    write_plan(path, DATA, plan())
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target == path:
            raise PermissionError(13, "Permission denied")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OutputError, match=r"cannot write .*model\.plan: no permission"):
        write_plan(path, b"new", plan(layers_from="built"))
    monkeypatch.undo()
    assert path.read_bytes() == DATA
    assert read_plan(path) == plan()
    assert {item.name for item in tmp_path.iterdir()} == {"model.plan", "model.plan.json"}


def test_if_the_manifest_cannot_be_written_the_plan_is_not_either(
    plan: Callable[..., PlanManifest], tmp_path: Path
) -> None:
    sidecar_of(tmp_path / "model.plan").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*model\.plan\.json: it is a folder"):
        write_plan(tmp_path / "model.plan", DATA, plan())
    assert [item.name for item in tmp_path.iterdir()] == ["model.plan.json"]


@pytest.mark.parametrize("changed", [DATA[:-1], b"another plan"])
def test_a_plan_that_was_changed_is_noticed(changed: bytes, plan: Callable[..., PlanManifest], tmp_path: Path) -> None:
    path = tmp_path / "model.plan"
    write_plan(path, DATA, plan())
    path.write_bytes(changed)
    text = mismatch(path, plan())
    assert "its SHA-256 differs" in text
    assert text.endswith("build it again: vgg-deploy build model.onnx -o model.plan")


def test_files_that_are_no_plans_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such plan"):
        read_plan(tmp_path / "absent.plan")
    with pytest.raises(UsageError, match="is not a file"):
        read_plan(tmp_path)
    (tmp_path / "x.plan").touch()
    with pytest.raises(PlanError, match=r"is empty \(0 bytes\); build it again"):
        read_plan(tmp_path / "x.plan")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: "", "is not JSON"),
        (lambda data: "[]", "has no plan_version: another tool wrote it"),
        (lambda data: json.dumps({**data, "plan_version": 2}), "has version 2, but this vgg_deploy reads 1"),
        (lambda data: json.dumps({**data, "profiles": []}), "the plan has no profile"),
        (lambda data: json.dumps({**data, "backend": "onnxruntime"}), "expected tensorrt or tensorrt-rtx"),
        (lambda data: json.dumps({**data, "layers_from": "hearsay"}), "expected declared or built"),
        (lambda data: json.dumps({**data, "layers": {"conv1_1": 8}}), r"layers\.conv1_1 is 8; expected str"),
    ],
)
def test_a_manifest_that_is_damaged_is_one_line(
    change: Callable[[dict[str, Any]], str], message: str, plan: Callable[..., PlanManifest], tmp_path: Path
) -> None:
    path = tmp_path / "model.plan"
    write_plan(path, DATA, plan())
    sidecar = sidecar_of(path)
    sidecar.write_text(change(json.loads(sidecar.read_text(encoding="utf-8"))), encoding="utf-8")
    with pytest.raises(ManifestError, match=message) as refused:
        read_plan(path)
    assert str(sidecar) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_missing_manifest_is_none_and_one_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.plan").write_bytes(DATA)
    assert read_plan(tmp_path / "x.plan") is None
    sidecar = sidecar_of(tmp_path / "x.plan")
    sidecar.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="is not UTF-8 text"):
        read_plan(tmp_path / "x.plan")
    sidecar.unlink()
    sidecar.mkdir()
    with pytest.raises(ManifestError, match="cannot be read"):
        read_plan(tmp_path / "x.plan")


def test_fields_that_a_later_version_adds_are_ignored(plan: Callable[..., PlanManifest]) -> None:
    data = {**json.loads(plan().to_json()), "news": 1}
    assert PlanManifest.from_json(json.dumps(data), "x") == plan()


def test_a_profile_takes_what_lies_within_it() -> None:
    profile = PROFILES[0]
    assert profile.accepts((8, 128, 64))
    for shape in ((0, 64, 64), (9, 64, 64), (1, 63, 64), (1, 64, 129)):
        assert not profile.accepts(shape)
    assert str(profile) == "Q=64: 1..8 x 64..128 x 64..128 x 3"
    assert str(PROFILES[1]).startswith("Q=96,128: ")
    assert str(Profile((), (1, 64, 64), (1, 64, 64), (1, 64, 64))) == "1 x 64 x 64 x 3"


def test_the_shapes_of_all_profiles_together_hold_each() -> None:
    assert shapes_of(PROFILES) == ShapeRange(AxisRange(1, 8), AxisRange(64, 256), AxisRange(64, 256))
    assert shapes_of(PROFILES[:1]) == PROFILES[0].shapes
