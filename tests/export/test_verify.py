"""vgg-deploy verify: which files pass, which fail, and which layer it names."""

from __future__ import annotations

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
from onnx import numpy_helper
from PIL import Image

from export.proof.answers import check_same_network
from vgg_deploy.errors import UsageError
from vgg_deploy.network.manifest import MANIFEST_KEY, PAPER_NORMALIZATION, TORCHVISION_NORMALIZATION, Manifest
from vgg_deploy.network.spec import NetworkSpec

Exported = Callable[..., Any]
Command = Callable[..., Any]
RUNTIMES = ("onnxruntime", "openvino", "ncnn")


def alter(path: Path, tensor: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes one weight in an ONNX file."""
    model = onnx.load(path)
    stored = next(item for item in model.graph.initializer if item.name == tensor)
    before = numpy_helper.to_array(stored)
    stored.raw_data = change(before.copy()).astype(before.dtype).tobytes()
    onnx.save(model, path)


@pytest.fixture
def verify(vgg_deploy_command: Command, pictures: Path, narrow_checkpoint: Callable[..., Path]) -> Command:
    """`verify(model, ..., "--option", reference=...)`; the default reference is the checkpoint of A from seed 0."""

    def run(*arguments: str | Path, reference: Path | None = None, images: Path = pictures) -> Any:
        against = reference or narrow_checkpoint("A")
        command = ("verify", *arguments, "--reference", against, "--images", images, "--threads", "1")
        return vgg_deploy_command(*map(str, command))

    return run


def lines_of(finished: Any, begin: str) -> list[str]:
    return [line for line in finished.out.splitlines() if line.startswith(begin)]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_good_files_pass_every_stage(exported: Exported, verify: Command, runtime: str) -> None:
    single = exported(name="single.onnx", dynamic=True, score_map=True).path
    half = exported(name="half.onnx", dynamic=True, half=True).path
    fixed = exported(name="fixed.onnx").path
    done = verify(single, half, fixed, "--runtime", runtime)
    assert done.code == 0, done.out
    rows = done.out.splitlines()[2:]
    stages = [row.split("  ")[0] for row in rows if row.endswith(" ok")]
    rounding = "half.onnx, activations rounded to FP16"
    assert stages == ["convolutional form (PyTorch)", "single.onnx", "half.onnx", rounding, "fixed.onnx"]
    for column in ("max |dp|", "mean |dp|", "divergence", "top-1 agreement"):
        assert column in done.out.splitlines()[0]
    # Four pictures at three sizes for files with free axes, and their central crops for the others.
    views = [re.search(r" (\d+) +\d\.\de", row)[1] for row in rows[:5]]  # type: ignore[index]
    assert views == ["4", "12", "12", "12", "4"]
    assert "FAILED" not in done.out


@pytest.fixture
def bf16() -> None:
    """Skips without OpenVINO, and on CPUs that do not compute in bfloat16."""
    openvino = pytest.importorskip("openvino")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU does not compute in bfloat16")


@pytest.mark.usefixtures("bf16")
def test_bfloat16_is_named_and_judged_by_the_thresholds_of_fp16(exported: Exported, verify: Command) -> None:
    model = exported(name="single.onnx", dynamic=True).path
    done = verify(model, "--allow-bf16", "--runtime", "openvino", "--json", "-")
    (stage,) = [stage for stage in json.loads(done.out)["stages"] if stage["name"].startswith("single.onnx")]
    assert stage["name"] == "single.onnx, computed in bfloat16"
    assert stage["precision"] == "float16"
    assert stage["parity"]["max_dp"] > 1e-5  # float32 would be less
    assert done.code == bool(stage["failures"])


@pytest.mark.usefixtures("bf16")
def test_an_onnx_reference_is_computed_in_its_own_precision(exported: Exported, verify: Command) -> None:
    model = exported(name="single.onnx", dynamic=True).path
    done = verify(model, "--allow-bf16", "--runtime", "openvino", "--json", "-", reference=model)
    (stage,) = json.loads(done.out)["stages"]
    assert stage["parity"]["max_dp"] > 1e-5


@pytest.mark.parametrize(
    ("layer", "half", "runtime"),
    [
        ("conv1_1", False, "onnxruntime"),
        ("conv3_2", True, "openvino"),
        ("conv5_2", False, "ncnn"),
        ("fc6", True, "onnxruntime"),
        ("fc8", False, "openvino"),
        ("fc8", True, "ncnn"),
    ],
)
def test_a_file_with_a_perturbed_weight_fails_and_its_layer_is_named(
    layer: str, half: bool, runtime: str, exported: Exported, verify: Command
) -> None:
    path = exported(dynamic=True, half=half).path
    alter(path, f"{layer}.weight", lambda weight: weight * 1.5)
    done = verify(path, "--runtime", runtime)
    assert done.code == 1
    precision = "float16" if half else "float32"
    failed = lines_of(done, f"FAILED model.onnx ({precision} thresholds): ")
    assert len(failed) == 1
    assert "max_dp" in failed[0]
    diverging = [line for line in done.out.splitlines() if line.startswith("  first layer that diverges: ")]
    assert len(diverging) == (2 if half else 1)
    assert all(line.startswith(f"  first layer that diverges: {layer}, by ") for line in diverging)


@pytest.mark.parametrize("layer", ["conv1_1", "fc8"])
def test_nan_fails_and_the_layer_where_it_begins_is_named(layer: str, exported: Exported, verify: Command) -> None:
    path = exported(dynamic=True, score_map=True).path

    def with_nan(weight: np.ndarray) -> np.ndarray:
        weight.flat[0] = np.nan
        return weight

    alter(path, f"{layer}.weight", with_nan)
    done = verify(path)
    assert done.code == 1
    assert "max_dp is nan" in done.out
    assert "divergence is nan" in done.out
    assert "top-1 agreement nan%" in done.out
    assert f"first layer that diverges: {layer}, by nan" in done.out


def test_a_runtime_that_would_lose_nan_names_the_weight(exported: Exported, verify: Command) -> None:
    pytest.importorskip("ncnn")
    path = exported(dynamic=True).path
    alter(path, "conv4_1.weight", lambda weight: weight * np.nan)
    done = verify(path, "--runtime", "ncnn")
    assert done.code == 1
    assert "conv4_1.weight has values that are not finite: the weights are damaged" in done.err


def test_a_checkpoint_with_another_normalization_than_the_file_states_is_caught(
    exported: Exported, verify: Command, narrow_checkpoint: Callable[..., Path]
) -> None:
    path = exported(dynamic=True, checkpoint={"manifest": {"normalization": TORCHVISION_NORMALIZATION}}).path
    done = verify(path, reference=narrow_checkpoint("A", manifest={"normalization": PAPER_NORMALIZATION}))
    assert done.code == 1, done.err
    assert "FAILED model.onnx" in done.out
    assert "first layer that diverges: conv1_1" in done.out
    assert "was made from vgg11-0.safetensors, not from this" in done.err


def test_flipped_images_are_named_with_their_margins(
    exported: Exported, verify: Command, pictures: Path, tmp_path: Path
) -> None:
    path = exported(dynamic=True).path
    alter(path, "fc8.bias", lambda bias: bias + np.array([0, 0, 0, 50, 0]))
    done = verify(path, "--json", str(tmp_path / "report.json"))
    flips = lines_of(done, "flipped in model.onnx: ")
    assert flips
    report = json.loads((tmp_path / "report.json").read_text())
    listed = report["stages"][1]["parity"]["flips"]
    assert len(listed) == len(flips)
    for line, flip in zip(flips, listed, strict=True):
        assert flip["candidate"]["label"] == "3"
        assert 0 <= flip["margin"] <= 1
        assert line.endswith(f"{flip['reference']['label']} -> 3, by a margin of {flip['margin']:.2g}")
        assert any(flip["view"].startswith(image.name) for image in pictures.iterdir())


OVERFLOWING = [("conv3_1", 1e3), ("fc6", 1e5)]  # the output of fc6 has the size of units, not of pixels


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("layer", "factor"), OVERFLOWING)
def test_overflowing_fp16_fails_on_the_rounding_line_although_cpus_compute_it_correctly(
    layer: str,
    factor: float,
    runtime: str,
    enlarged_checkpoint: Callable[..., Path],
    vgg_deploy_command: Command,
    verify: Command,
    tmp_path: Path,
) -> None:
    reference, path = enlarged_checkpoint(factor, layer), tmp_path / "half.onnx"
    made = vgg_deploy_command("export", "--weights", str(reference), "--dynamic", "--fp16", "-o", str(path))
    assert made.code == 0, made.err
    assert "not measured" in made.err
    done = verify(path, "--runtime", runtime, reference=reference)
    assert done.code == 1
    assert [line for line in done.out.splitlines() if line.startswith("half.onnx  ") and line.endswith(" ok")]
    failed = lines_of(done, "FAILED half.onnx, activations rounded to FP16 (float16 thresholds): ")
    assert len(failed) == 1
    assert "max_dp is nan" in failed[0] or "max_dp is inf" in failed[0]
    assert f"first layer that diverges: {layer}, by inf" in done.out


@pytest.mark.parametrize(("layer", "factor"), OVERFLOWING)
def test_with_calibration_the_same_network_keeps_those_layers_in_fp32_and_passes(
    layer: str,
    factor: float,
    enlarged_checkpoint: Callable[..., Path],
    vgg_deploy_command: Command,
    verify: Command,
    pictures: Path,
    tmp_path: Path,
) -> None:
    reference, path = enlarged_checkpoint(factor, layer), tmp_path / "half.onnx"
    arguments = ("export", "--weights", reference, "--dynamic", "--fp16", "--calibration", pictures, "-o", path)
    made = vgg_deploy_command(*map(str, arguments))
    assert made.code == 0, made.err
    assert f"{layer}, " in made.err
    assert "kept in FP32" in made.err
    done = verify(path, reference=reference)
    assert done.code == 0, done.out


def test_an_onnx_reference_serves_as_well_as_its_checkpoint(exported: Exported, verify: Command) -> None:
    reference = exported(name="reference.onnx", dynamic=True).path
    good, bad = exported(name="good.onnx", dynamic=True, half=True).path, exported(name="bad.onnx", dynamic=True).path
    alter(bad, "conv4_2.weight", np.negative)
    done = verify(good, reference=reference)
    assert done.code == 0, done.out
    assert "reference.onnx" in done.out
    assert "PyTorch" not in done.out
    done = verify(good, bad, reference=reference)
    assert done.code == 1
    assert lines_of(done, "FAILED bad.onnx")
    assert not lines_of(done, "FAILED good.onnx")
    assert "first layer that diverges: conv4_2" in done.out


WITHOUT_TORCH = """
import sys
for name in ("torch", "torchvision", "safetensors"):
    sys.modules[name] = None
from vgg_deploy.cli import main
main()
"""


@pytest.mark.parametrize("layer", [None, "conv3_1"])
def test_an_onnx_reference_needs_no_torch(
    layer: str | None, exported: Exported, pictures: Path, tmp_path: Path
) -> None:
    reference = exported(name="reference.onnx", dynamic=True).path
    candidate = exported(name="candidate.onnx", dynamic=True, half=True).path
    if layer:
        alter(candidate, f"{layer}.weight", lambda weight: -weight)
    arguments = ("verify", candidate, "--reference", reference, "--images", pictures)
    command = [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == (1 if layer else 0), done.stderr
    assert [line for line in done.stderr.splitlines() if not line.startswith("runtime ")] == []
    assert (f"first layer that diverges: {layer}" in done.stdout) == bool(layer)


def test_a_fixed_file_is_compared_with_a_free_reference_on_crops_and_the_other_way_round(
    exported: Exported, verify: Command
) -> None:
    free, fixed = exported(name="free.onnx", dynamic=True).path, exported(name="fixed.onnx").path
    for model, reference in ((fixed, free), (free, fixed), (fixed, fixed)):
        done = verify(model, reference=reference)
        assert done.code == 0, done.out
        assert done.out.splitlines()[2].split()[:3] == [model.name, reference.name, "4"]


@pytest.mark.parametrize("fields", [{"classes": 7}, {"width_divisor": 32}, {"crop": 96}, {"configuration": "B"}])
def test_a_file_of_another_network_than_its_reference_is_refused(
    fields: dict[str, Any], manifest_for: Callable[..., Manifest], narrow_spec: Callable[..., NetworkSpec]
) -> None:
    reference = manifest_for(narrow_spec("A"))
    other = manifest_for(narrow_spec(**{"configuration": "A", **fields}))
    check_same_network(Path("a.onnx"), reference, reference)
    with pytest.raises(UsageError, match=r"^a\.onnx is .*, but the reference is .*: they are different networks"):
        check_same_network(Path("a.onnx"), other, reference)


def test_verify_refuses_another_network_with_either_kind_of_reference(exported: Exported, verify: Command) -> None:
    seven = exported(name="seven.onnx", checkpoint={"classes": 7}, dynamic=True).path
    five = exported(name="five.onnx", dynamic=True).path
    for reference in (None, five):
        done = verify(seven, reference=reference)
        assert done.code == 2
        assert "different networks" in done.err
        assert "--arch" not in done.err
        assert len(done.err.splitlines()) <= 2


def test_unreadable_images_are_skipped_with_a_notice(exported: Exported, verify: Command, pictures: Path) -> None:
    (pictures / "broken.png").write_bytes((pictures / "0.png").read_bytes()[:500])
    (pictures / "empty.jpg").write_bytes(b"")
    done = verify(exported(dynamic=True).path)
    assert done.code == 0, done.out
    *notices, runtime = done.err.splitlines()
    assert len(notices) == 2
    assert runtime.startswith("runtime ")
    assert notices[0].startswith(f"skipped {pictures / 'broken.png'}: cannot be decoded")
    assert notices[1] == f"skipped {pictures / 'empty.jpg'}: the file is empty (0 bytes)"


def test_a_folder_whose_images_are_all_unreadable_is_bad_use(
    exported: Exported, verify: Command, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    done = verify(exported(dynamic=True).path, images=folder)
    assert done.code == 2
    assert "no image in this folder" in done.err
    (folder / "x.png").write_bytes(b"not an image")
    done = verify(exported(dynamic=True).path, images=folder)
    assert done.code == 2
    assert "none of the images can be read" in done.err
    assert "x.png" in done.err


def test_the_report_as_json_is_the_table_with_every_digit(exported: Exported, verify: Command, tmp_path: Path) -> None:
    path = exported(dynamic=True, half=True).path
    done = verify(path, "--json", "-")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["passed"] is True
    assert [stage["name"] for stage in report["stages"]] == [
        "convolutional form (PyTorch)",
        "model.onnx",
        "model.onnx, activations rounded to FP16",
    ]
    for stage in report["stages"]:
        assert stage["failures"] == []
        assert stage["diverges"] is None
        assert set(stage["parity"]) >= {"views", "max_dp", "mean_dp", "divergence", "agreement", "flips"}
    done = verify(path, "--json", str(tmp_path / "reports" / "report.json"))
    assert json.loads((tmp_path / "reports" / "report.json").read_text()) == report
    assert "model.onnx" in done.out


def test_the_report_of_nan_is_still_json(exported: Exported, verify: Command) -> None:
    path = exported(dynamic=True).path
    alter(path, "fc8.bias", lambda bias: bias + np.nan)
    done = verify(path, "--json", "-")
    assert done.code == 1

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    report = json.loads(done.out, parse_constant=refuse)
    assert report["passed"] is False
    stage = report["stages"][1]
    assert stage["parity"]["max_dp"] is None
    assert "max_dp is nan" in stage["failures"]


def test_a_sample_of_the_images_is_the_same_each_time(exported: Exported, verify: Command) -> None:
    path = exported(dynamic=True).path
    first, again = (verify(path, "--limit", "2", "--json", "-") for _ in range(2))
    assert first.out == again.out
    assert json.loads(first.out)["stages"][1]["parity"]["views"] == 6
    done = verify(path, "--limit", "0")
    assert done.code == 2
    assert "'--limit': 0" in done.err


def test_a_foreign_checkpoint_is_read_with_the_facts_of_the_file(
    vgg_deploy_command: Command, verify: Command, random_weights: Callable[..., Any], narrow_spec: Any, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    weights, path = tmp_path / "foreign.safetensors", tmp_path / "lrn.onnx"
    save_file(random_weights(narrow_spec("A-LRN")), weights)
    arguments = ("--arch", "A-LRN", "--mean", "100,110,120", "--std", "50")
    made = vgg_deploy_command("export", "--weights", str(weights), *arguments, "--dynamic", "-o", str(path))
    assert made.code == 0, made.err
    done = verify(path, reference=weights)
    assert done.code == 0, done.out + done.err
    assert " ".join(done.err.split()).count(f"{weights} has no class names") == 1
    assert verify(path, "--mean", "100,110,121", "--std", "50", reference=weights).code == 1


def test_a_file_without_our_manifest_is_judged_by_its_answers(
    exported: Exported, verify: Command, tmp_path: Path
) -> None:
    path = exported(dynamic=True).path
    model = onnx.load(path)
    model.producer_name = "another"
    kept = [entry for entry in model.metadata_props if entry.key != MANIFEST_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, path)
    reference = exported(name="reference.onnx", dynamic=True).path
    assert verify(path, reference=reference).code == 2  # it has no class names
    labels = tmp_path / "labels.txt"
    labels.write_text("a\nb\nc\nd\ne\n")
    images = tmp_path / "crops"
    images.mkdir()
    Image.fromarray(np.full((100, 120, 3), 90, np.uint8)).save(images / "grey.png")
    arguments = ("--labels", str(labels))
    # Its smallest size is unknown, so the reference comes first.
    done = verify(reference, *arguments, reference=path, images=images)
    assert done.code == 0, done.out + done.err
    alter(path, "conv3_1.weight", np.negative)
    done = verify(reference, *arguments, reference=path, images=images)
    assert done.code == 1, done.out + done.err
    assert "layers cannot be compared" in done.out


def test_options_about_weights_are_refused_with_an_onnx_reference(exported: Exported, verify: Command) -> None:
    path = exported(dynamic=True).path
    for arguments in (("--arch", "A"), ("--normalization", "paper"), ("--train-scale", "256")):
        done = verify(path, *arguments, reference=path)
        assert done.code == 2
        assert "its manifest states how the network was trained" in done.err


def test_a_missing_reference_or_model_is_bad_use(exported: Exported, verify: Command, tmp_path: Path) -> None:
    path = exported(dynamic=True).path
    for missing in ("none.onnx", "none.safetensors", "none.pth"):
        done = verify(path, reference=tmp_path / missing)
        assert done.code == 2
        assert "no such" in done.err
    assert verify(tmp_path / "none.onnx").code == 2
