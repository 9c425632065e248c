"""vgg-deploy verify: which files pass, which fail, and which layer it names."""

from __future__ import annotations

import json
import re
import shutil
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

from engines import open_engine
from export.proof.answers.proof import check_same_network
from tests.vgg_deploy.artifacts.damage import without_digests
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


def proofs_of(finished: Any, file: str = "model.onnx") -> dict[int, str]:
    """The verdict of each proof of a file, by number, from the report."""
    lines, verdicts = finished.out.splitlines(), {}
    for line in lines[lines.index(file) + 1 :]:
        if re.fullmatch(r"\S+\.(onnx|safetensors)", line):  # the next file
            break
        if re.match(r"  \d ", line):
            verdicts[int(line[2])] = line[14:23].strip()
    return verdicts


def proof(finished: Any, number: int, file: str = "model.onnx") -> dict[str, Any]:
    """A proof of a file, from the JSON report on stdout."""
    (artifact,) = (item for item in json.loads(finished.out)["artifacts"] if item["file"] == file)
    (found,) = (item for item in artifact["proofs"] if item["number"] == number)
    return found


GOOD = {1: "ok", 2: "ok", 3: "ok", 4: "not shown"}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_good_files_pass_every_proof_that_is_made(exported: Exported, verify: Command, runtime: str) -> None:
    single = exported(name="single.onnx", dynamic=True, score_map=True).path
    half = exported(name="half.onnx", dynamic=True, half=True).path
    fixed = exported(name="fixed.onnx").path
    done = verify(single, half, fixed, "--runtime", runtime)
    assert done.code == 0, done.out
    assert proofs_of(done, "vgg11-0.safetensors") == {3: "ok"}  # its two forms
    for path in (single, half, fixed):
        assert proofs_of(done, path.name) == GOOD
    assert max(map(len, done.out.splitlines())) <= 80
    assert "FAILED" not in done.out


def test_details_show_the_figures_behind_each_proof(exported: Exported, verify: Command) -> None:
    done = verify(exported(dynamic=True, half=True).path, "--details")
    assert done.code == 0, done.out
    for column in ("max |dp|", "mean |dp|", "divergence", "agreement", "layer", "limit"):
        assert column in done.out
    rows = [line.split("  ")[0] for line in done.out.splitlines()]
    assert "model.onnx, activations rounded" in rows
    for layer in ("conv1_1", "pool5", "fc8"):
        assert [row for row in rows if row.startswith(layer)]


def test_the_answers_are_compared_at_three_sizes_or_on_crops(exported: Exported, verify: Command) -> None:
    free, fixed = exported(name="free.onnx", dynamic=True).path, exported(name="fixed.onnx").path
    done = verify(free, fixed, "--json", "-")
    views = {
        name: proof(done, 3, name)["figures"]["comparisons"][0]["parity"]["views"]
        for name in ("free.onnx", "fixed.onnx")
    }
    assert views == {"free.onnx": 12, "fixed.onnx": 4}  # four pictures


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
    (comparison,) = proof(done, 3, "single.onnx")["figures"]["comparisons"]
    assert comparison["name"] == "single.onnx in bfloat16"
    assert comparison["precision"] == "float16"
    assert comparison["parity"]["max_dp"] > 1e-5  # float32 would be less
    assert proof(done, 2, "single.onnx")["verdict"] == "ok"
    assert done.code == 0, done.out


@pytest.mark.usefixtures("bf16")
def test_an_onnx_reference_is_computed_in_its_own_precision(exported: Exported, verify: Command) -> None:
    model = exported(name="single.onnx", dynamic=True).path
    done = verify(model, "--allow-bf16", "--runtime", "openvino", "--json", "-", reference=model)
    (comparison,) = proof(done, 3, "single.onnx")["figures"]["comparisons"]
    assert comparison["parity"]["max_dp"] > 1e-5


@pytest.mark.parametrize(
    ("layer", "half", "runtime"),
    [
        ("conv1_1", False, "onnxruntime"),
        ("conv3_2", True, "openvino"),
        ("fc6", True, "onnxruntime"),
        ("fc8", False, "ncnn"),
    ],
)
def test_a_file_with_a_perturbed_weight_fails_and_its_tensor_is_named(
    layer: str, half: bool, runtime: str, exported: Exported, verify: Command
) -> None:
    path = exported(dynamic=True, half=half).path
    alter(path, f"{layer}.weight", lambda weight: weight * 1.5)
    done = verify(path, "--runtime", runtime)
    assert done.code == 1
    # The runtime computes what the file says, but that is no longer the network.
    assert proofs_of(done) == {1: "FAILED", 2: "ok", 3: "FAILED", 4: "not shown"}
    assert f"{layer}.weight" in done.out
    assert "max_dp" in done.out


def test_a_change_that_no_answer_shows_fails_nevertheless(exported: Exported, verify: Command) -> None:
    path = exported(dynamic=True, half=True).path

    def one_bit(weight: np.ndarray) -> np.ndarray:
        weight.view(np.uint16).flat[7] ^= 1
        return weight

    alter(path, "conv4_1.weight", one_bit)
    done = verify(path)
    assert done.code == 1
    assert proofs_of(done) == {1: "FAILED", 2: "ok", 3: "ok", 4: "not shown"}
    assert "conv4_1.weight" in done.out


@pytest.mark.parametrize("layer", ["conv1_1", "fc8"])
def test_nan_fails_every_proof_that_sees_it(layer: str, exported: Exported, verify: Command) -> None:
    path = exported(dynamic=True, score_map=True).path

    def with_nan(weight: np.ndarray) -> np.ndarray:
        weight.flat[0] = np.nan
        return weight

    alter(path, f"{layer}.weight", with_nan)
    done = verify(path, "--runtime", "onnxruntime", "--details")
    assert done.code == 1
    assert proofs_of(done)[1] == proofs_of(done)[3] == "FAILED"
    assert "max_dp is nan" in done.out
    assert "divergence is nan" in done.out
    assert "top-1 agreement nan%" in done.out


def test_a_runtime_that_would_lose_nan_names_the_weight(exported: Exported, verify: Command) -> None:
    pytest.importorskip("ncnn")
    path = exported(dynamic=True).path
    alter(path, "conv4_1.weight", lambda weight: weight * np.nan)
    done = verify(path, "--runtime", "ncnn")
    assert done.code == 1
    assert proofs_of(done) == {1: "FAILED", 2: "FAILED", 3: "FAILED", 4: "not shown"}
    assert "conv4_1.weight has values that are not finite: the weights are damaged" in " ".join(done.out.split())


def test_a_checkpoint_with_another_normalization_than_the_file_states_is_caught(
    exported: Exported, verify: Command, narrow_checkpoint: Callable[..., Path]
) -> None:
    path = exported(dynamic=True, checkpoint={"manifest": {"normalization": TORCHVISION_NORMALIZATION}}).path
    done = verify(path, reference=narrow_checkpoint("A", manifest={"normalization": PAPER_NORMALIZATION}))
    assert done.code == 1, done.err
    assert proofs_of(done)[1] == proofs_of(done)[3] == "FAILED"
    assert "normalization" in done.out


def test_flipped_images_are_named_with_their_margins(
    exported: Exported, verify: Command, pictures: Path, tmp_path: Path
) -> None:
    path = exported(dynamic=True).path
    alter(path, "fc8.bias", lambda bias: bias + np.array([0, 0, 0, 50, 0]))
    done = verify(path, "--details", "--json", str(tmp_path / "report.json"))
    report = json.loads((tmp_path / "report.json").read_text())
    (answers,) = (item for item in report["artifacts"][1]["proofs"] if item["number"] == 3)
    flips = answers["figures"]["comparisons"][0]["parity"]["flips"]
    assert flips
    for flip in flips:
        assert flip["candidate"]["label"] == "3"
        assert 0 <= flip["margin"] <= 1
        assert any(flip["view"].startswith(image.name) for image in pictures.iterdir())
        (line,) = (line for line in done.out.splitlines() if flip["view"] in line and line.startswith("model.onnx "))
        assert line.split()[-3:] == [flip["reference"]["label"], "3", f"{flip['margin']:.2g}"]


def test_a_record_in_a_file_without_digests_says_that_plans_no_longer_know_the_file(
    exported: Exported, verify: Command
) -> None:
    path = exported(dynamic=True).path
    assert "digests" not in verify(path, "--record").err
    without_digests(path)
    assert f"{path}: it has no digests, as files of older versions" in verify(path, "--record").err


def test_a_record_has_no_place_in_a_foreign_file_and_that_is_said_before_anything_runs(
    exported: Exported, verify: Command, tmp_path: Path
) -> None:
    path, labels = exported(dynamic=True).path, tmp_path / "labels.txt"
    labels.write_text("".join(f"{name}\n" for name in ("ant", "bee", "cow", "doe", "eel")))
    model = onnx.load(path)
    del model.metadata_props[:]
    model.producer_name = "another"
    onnx.save(model, path)
    done = verify(path, "--record", "--labels", labels)
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith("has no vgg_deploy manifest, so a verdict has no place in it; leave out --record\n")


def test_files_of_the_same_name_are_refused_since_the_report_would_mix_them(
    exported: Exported, verify: Command, tmp_path: Path
) -> None:
    path = exported().path
    (tmp_path / "other").mkdir()
    other = Path(shutil.copy(path, tmp_path / "other"))
    done = verify(path, other)
    assert (done.code, done.out) == (2, "")
    assert f"{path} and {other} have the same name" in done.err


def test_a_report_may_not_overwrite_what_is_verified(exported: Exported, verify: Command, pictures: Path) -> None:
    path = exported().path
    before = path.read_bytes()
    for written in (path, next(pictures.iterdir())):
        done = verify(path, "--json", written)
        assert (done.code, done.out) == (2, "")
        assert f"--json would overwrite the input {written}" in " ".join(done.err.split())
    assert path.read_bytes() == before


def test_a_data_folder_is_refused_and_val_is_named(
    exported: Exported, verify: Command, pictures: Path, tmp_path: Path
) -> None:
    for part in ("train", "val"):
        shutil.copytree(pictures, tmp_path / "data" / part / "ant")
    done = verify(exported().path, images=tmp_path / "data")
    assert (done.code, done.out) == (2, "")
    assert done.err.endswith(f": give {tmp_path / 'data' / 'val'}\n")


OVERFLOWING = [("conv3_1", 1e3), ("fc6", 1e5)]  # the output of fc6 has the size of units, not of pixels


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("layer", "factor"), OVERFLOWING)
def test_overflowing_fp16_fails_when_activations_are_rounded_although_cpus_compute_it_correctly(
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
    done = verify(path, "--runtime", runtime, "--json", "-", reference=reference)
    assert done.code == 1
    assert done.out, done.err
    answers = proof(done, 3, "half.onnx")
    plain, rounded = answers["figures"]["comparisons"]
    assert plain["failures"] == []
    assert rounded["name"] == "half.onnx, activations rounded"
    assert rounded["failures"]
    assert rounded["parity"]["max_dp"] is None  # NaN


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
    done = verify(good, bad, reference=reference)
    assert done.code == 1
    assert proofs_of(done, "good.onnx") == GOOD
    assert proofs_of(done, "bad.onnx") == {1: "FAILED", 2: "ok", 3: "FAILED", 4: "not shown"}
    assert "conv4_2.weight" in done.out


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
    assert not [line for line in done.stderr.splitlines() if not re.match(r"runtime |.* of \d+ after \d+ s$", line)]
    assert (f"{layer}.weight" in done.stdout) == bool(layer)


def test_a_fixed_file_is_compared_with_a_free_reference_on_crops_and_the_other_way_round(
    exported: Exported, verify: Command
) -> None:
    free, fixed = exported(name="free.onnx", dynamic=True).path, exported(name="fixed.onnx").path
    for model, reference in ((fixed, free), (free, fixed), (fixed, fixed)):
        done = verify(model, "--json", "-", reference=reference)
        assert done.code == 0, done.out
        answers = proof(done, 3, model.name)
        assert answers["against"] == reference.name
        assert answers["figures"]["comparisons"][0]["parity"]["views"] == 4


@pytest.mark.parametrize("fields", [{"classes": 7}, {"width_divisor": 32}, {"crop": 96}, {"configuration": "B"}])
def test_a_file_of_another_network_than_its_reference_is_refused(
    fields: dict[str, Any], manifest_for: Callable[..., Manifest], narrow_spec: Callable[..., NetworkSpec]
) -> None:
    reference = manifest_for(narrow_spec("A"))
    other = manifest_for(narrow_spec(**{"configuration": "A", **fields}))
    check_same_network(Path("a.onnx"), reference, reference)
    with pytest.raises(UsageError, match=r"^a\.onnx has .*, but the reference has .*: they are different networks"):
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


def test_the_report_as_json_has_every_figure(exported: Exported, verify: Command, tmp_path: Path) -> None:
    path = exported(dynamic=True, half=True).path
    done = verify(path, "--json", "-")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["report_version"] == 1
    assert report["passed"] is True
    assert [item["file"] for item in report["artifacts"]] == ["vgg11-0.safetensors", "model.onnx"]
    model = report["artifacts"][1]
    assert model["passed"] is True
    assert model["runtime"].startswith("ncnn ")
    assert [item["number"] for item in model["proofs"]] == [1, 2, 3, 4]
    for item in model["proofs"]:
        assert item["verdict"] == ("not shown" if item["number"] == 4 else "ok")
        assert item["failures"] == []
        assert item["seconds"] >= 0
    answers = proof(done, 3)["figures"]
    names = [comparison["name"] for comparison in answers["comparisons"]]
    assert names == ["model.onnx", "model.onnx, activations rounded"]
    for comparison in answers["comparisons"]:
        assert set(comparison["parity"]) >= {"views", "max_dp", "mean_dp", "divergence", "agreement", "flips"}
    exact = answers["exact_evaluation"]
    assert len(exact["views"]) == len(exact["differences"]) == len(exact["limits"]) == 2
    assert all(difference <= limit / 3 for difference, limit in zip(exact["differences"], exact["limits"], strict=True))
    done = verify(path, "--json", str(tmp_path / "reports" / "report.json"))
    written = json.loads((tmp_path / "reports" / "report.json").read_text())
    assert written["artifacts"][1]["proofs"][2]["figures"] == answers
    assert "model.onnx" in done.out


def test_records_of_the_same_file_reference_and_runtime_add_up_and_others_replace_them(
    exported: Exported,
    verify: Command,
    batch: Callable[..., np.ndarray],
    narrow_checkpoint: Callable[..., Path],
    tmp_path: Path,
) -> None:
    path, expected = exported(dynamic=True).path, tmp_path / "expected.npz"
    images = batch(20, 64, 64)
    with open_engine(path, runtime="onnxruntime") as engine:
        np.savez(expected, images=images, probabilities=engine.run(images).probabilities)
    both = f"against {narrow_checkpoint('A').name} and expected.npz: 1 2 3 4 ("
    done = verify(path, "--expected", expected, "--record", "--runtime", "onnxruntime")
    assert both in done.err, done.out
    done = verify(path, "--record", "--runtime", "onnxruntime")
    assert both in done.err
    assert "replaces" not in done.err
    done = verify(path, "--record", "--runtime", "openvino")
    assert "safetensors: 1 2 3 (openvino" in done.err
    (line,) = (line for line in done.err.splitlines() if "this replaces a record of other content" in line)
    assert both in line
    alter(path, "fc8.weight", lambda weight: weight * 2)
    done = verify(path, "--record", "--runtime", "openvino")
    assert done.code == 1
    assert "nothing is recorded, because a proof failed. Its older record stays: verified on " in done.err


def named_on_the_page(figures: dict[str, Any]) -> bool:
    page = (Path(__file__).parents[3] / "docs/verify.md").read_text(encoding="utf-8")
    return all(re.search(rf"[`.]{name}\b", page) for name in figures)


def test_the_page_names_every_figure_of_the_report(exported: Exported, verify: Command, tmp_path: Path) -> None:
    path, answers = exported(dynamic=True).path, tmp_path / "answers.npz"
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    np.savez(answers, images=images, probabilities=np.full((2, 5), 0.2, np.float32))
    done = verify(path, "--expected", answers, "--json", "-")
    for number in (1, 2, 3, 4):
        figures = proof(done, number)["figures"]
        assert figures
        assert named_on_the_page(figures)
    assert named_on_the_page(proof(done, 2)["figures"]["layers"][0])
    assert named_on_the_page(proof(done, 3)["figures"]["comparisons"][0])
    assert named_on_the_page(proof(done, 3)["figures"]["exact_evaluation"])


def test_the_report_of_nan_is_still_json(exported: Exported, verify: Command) -> None:
    path = exported(dynamic=True).path
    alter(path, "fc8.bias", lambda bias: bias + np.nan)
    done = verify(path, "--runtime", "onnxruntime", "--json", "-")
    assert done.code == 1

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    report = json.loads(done.out, parse_constant=refuse)
    assert report["passed"] is False
    (comparison,) = proof(done, 3)["figures"]["comparisons"]
    assert comparison["parity"]["max_dp"] is None
    assert "max_dp is nan" in comparison["failures"]


def test_a_sample_of_the_images_is_the_same_each_time(exported: Exported, verify: Command) -> None:
    path = exported(dynamic=True).path
    first, again = (proof(verify(path, "--limit", "2", "--json", "-"), 3)["figures"] for _ in range(2))
    assert first == again
    assert first["comparisons"][0]["parity"]["views"] == 6
    done = verify(path, "--limit", "0")
    assert done.code == 2
    assert "'--limit': 0" in done.err


def test_folders_that_name_classes_give_the_change_of_accuracy(
    exported: Exported, verify: Command, pictures: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "labelled"
    for name in ("0", "3"):
        (folder / name).mkdir(parents=True)
        for image in pictures.iterdir():
            (folder / name / image.name).write_bytes(image.read_bytes())
    path = exported(dynamic=True, half=True).path
    done = verify(path, "--json", "-", images=folder)
    drops = proof(done, 3)["figures"]["comparisons"][0]["drops"]
    assert drops == [{"k": k, "points": 0.0, "standard_error": 0.0} for k in (1, 5)]
    assert "top-1 +0.00 ± 0.00 points" in proof(done, 3)["summary"]
    (unlabelled,) = (verify(path, "--json", "-") for _ in range(1))
    assert proof(unlabelled, 3)["figures"]["comparisons"][0]["drops"] == []


def test_a_record_is_kept_in_the_manifest_of_a_file_that_passed(
    exported: Exported, verify: Command, vgg_deploy_command: Command
) -> None:
    good, bad = exported(name="good.onnx", dynamic=True).path, exported(name="bad.onnx", dynamic=True).path
    alter(bad, "fc8.bias", lambda bias: bias + 1)
    before = bad.read_bytes()
    done = verify(good, bad, "--record")
    assert done.code == 1
    assert "good.onnx: recorded, verified on " in done.err
    assert "bad.onnx: nothing is recorded, because a proof failed" in done.err
    assert bad.read_bytes() == before
    shown = vgg_deploy_command("inspect", str(good))
    assert shown.code == 0, shown.err
    assert re.search(r"verified on \d{4}-\d\d-\d\d against vgg11-0.safetensors: 1 2 3 \(ncnn", shown.out)
    assert verify(good).code == 0  # the record changes nothing that is proved


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
    assert proofs_of(done, "reference.onnx") == {1: "ok", 2: "ok", 3: "FAILED", 4: "not shown"}
    done = verify(path, *arguments, reference=reference, images=images)
    assert proofs_of(done) == {1: "not shown", 2: "not shown", 3: "FAILED", 4: "not shown"}


def test_options_about_weights_are_refused_with_an_onnx_reference(exported: Exported, verify: Command) -> None:
    path = exported(dynamic=True).path
    for arguments in (("--arch", "A"), ("--normalization", "paper"), ("--train-scale", "256")):
        done = verify(path, *arguments, reference=path)
        assert done.code == 2
        assert "its manifest states how the network was trained" in done.err


def test_a_file_that_cannot_be_read_fails_alone(exported: Exported, verify: Command, tmp_path: Path) -> None:
    good, bad = exported(dynamic=True).path, tmp_path / "bad.onnx"
    bad.write_bytes(good.read_bytes()[:1000])
    done = verify(bad, good)
    assert done.code == 1
    assert proofs_of(done, "bad.onnx") == {1: "FAILED"}
    assert proofs_of(done) == GOOD
    assert "bad.onnx is truncated or damaged" in " ".join(done.out.split())


def test_every_line_of_the_report_fits_in_80_columns(exported: Exported, verify: Command) -> None:
    path = exported(dynamic=True, half=True).path
    alter(path, "conv4_1.weight", lambda weight: -weight)
    alter(path, "mean_rgb", lambda mean: mean + 1 / 3)
    done = verify(path)
    assert done.code == 1
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_damaged_file_is_not_told_to_calibrate(exported: Exported, verify: Command) -> None:
    path = exported(dynamic=True, half=True).path
    advice = "keep layers in floating point"
    alter(path, "fc6.weight", lambda weight: weight * 1.5)
    done = verify(path)
    assert proofs_of(done)[3] == "FAILED"
    assert advice not in " ".join(done.out.split())


def test_an_fp16_reference_is_said_and_judged_by_its_precision(exported: Exported, verify: Command) -> None:
    half, single = exported(name="half.onnx", dynamic=True, half=True).path, exported(dynamic=True).path
    done = verify(single, reference=half)
    assert done.code == 0, done.out
    assert "half.onnx is float16: its own rounding counts" in done.err
    assert "against its manifest" not in done.out


def test_a_file_that_is_its_own_reference_is_said(exported: Exported, verify: Command) -> None:
    path = exported(dynamic=True).path
    done = verify(path, reference=path)
    assert done.code == 0
    assert "is its own reference: this shows only that its runtime repeats its answers" in done.err


def test_options_about_weights_need_a_reference(
    exported: Exported, vgg_deploy_command: Command, tmp_path: Path
) -> None:
    path, expected = exported(dynamic=True).path, tmp_path / "expected.npz"
    images = np.full((1, 64, 64, 3), 9, np.uint8)
    np.savez(expected, images=images, logits=np.zeros((1, 5), np.float32))
    done = vgg_deploy_command("verify", str(path), "--expected", str(expected), "--channels", "bgr")
    assert done.code == 2
    assert "describe a --reference" in done.err


@pytest.mark.parametrize(
    ("side", "arguments", "message"),
    [
        (64, ("--protocol", "dense"), "exact pixels that the network sees, so --protocol dense does not apply"),
        (32, (), "image 0 has 32 x 32 pixels, but"),
    ],
)
def test_answers_that_cannot_be_compared_are_refused_before_any_proof(
    side: int,
    arguments: tuple[str, ...],
    message: str,
    exported: Exported,
    vgg_deploy_command: Command,
    tmp_path: Path,
) -> None:
    path, expected = exported(dynamic=True).path, tmp_path / "expected.npz"
    np.savez(expected, images=np.full((1, side, side, 3), 9, np.uint8), logits=np.zeros((1, 5), np.float32))
    done = vgg_deploy_command("verify", str(path), "--expected", str(expected), *arguments)
    assert done.code == 2
    assert done.out == ""
    assert message in done.err


def test_a_witness_alone_makes_proofs_1_and_4(
    exported: Exported, vgg_deploy_command: Command, batch: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    path, expected = exported(dynamic=True).path, tmp_path / "expected.npz"
    images = batch(20, 64, 64)
    with open_engine(path, runtime="onnxruntime") as engine:
        probabilities = engine.run(images).probabilities
    np.savez(expected, images=images, probabilities=probabilities)
    done = vgg_deploy_command("verify", str(path), "--expected", str(expected), "--record")
    assert done.code == 0, done.out + done.err
    assert proofs_of(done) == {1: "ok", 2: "not shown", 3: "not shown", 4: "ok"}
    assert "against expected.npz: 1 4" in done.err
    np.savez(expected, images=images, probabilities=probabilities[::-1])
    done = vgg_deploy_command("verify", str(path), "--expected", str(expected))
    assert done.code == 1
    assert proofs_of(done)[4] == "FAILED"


def test_something_must_be_given_to_compare_with(exported: Exported, vgg_deploy_command: Command) -> None:
    path = str(exported(dynamic=True).path)
    done = vgg_deploy_command("verify", path)
    assert done.code == 2
    assert "give --reference CKPT (or an FP32 ONNX file), --expected FILE, or both" in done.err
    done = vgg_deploy_command("verify", path, "--reference", path)
    assert done.code == 2
    assert "--reference requires --images" in done.err
    done = vgg_deploy_command("verify", path, "--reference", path, "--images", path, "--protocol", "dense")
    assert done.code == 2
    assert "--protocol requires --expected" in done.err


def test_a_missing_reference_or_model_is_bad_use(exported: Exported, verify: Command, tmp_path: Path) -> None:
    path = exported(dynamic=True).path
    for missing in ("none.onnx", "none.safetensors", "none.pth"):
        done = verify(path, reference=tmp_path / missing)
        assert done.code == 2
        assert "no such" in done.err
    assert verify(tmp_path / "none.onnx").code == 2
