"""vgg-deploy export --int8 and vgg-deploy sensitivity: options, bad input, and the manifest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import export.sensitivity
from engines import open_engine
from vgg_deploy.artifacts.onnx_file import OnnxFile, read_manifest
from vgg_deploy.artifacts.onnx_layers import layer_types
from vgg_deploy.files import sha256_of
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.manifest import Manifest, Rescaling, TrainScale
from vgg_deploy.network.precision import METHODS, TARGETS, Quantization
from vgg_deploy.views.protocols import choose_protocol

Command = Callable[..., Any]
Checkpoints = Callable[..., Path]
CLASSES = tuple(ClassName(f"n0000000{index}", label) for index, label in enumerate(("ant", "bee", "cow", "doe", "eel")))
LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv3_2", "conv4_1", "conv4_2", "conv5_1", "conv5_2", "fc6", "fc7", "fc8")


def picture(number: int) -> Image.Image:
    """Patches of colour in one of four shapes."""
    chance = np.random.default_rng(number)
    height, width = ((90, 130), (150, 80), (100, 100), (66, 99))[number % 4]
    patches = Image.fromarray(chance.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return patches.resize((width, height), Image.Resampling.BILINEAR)


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 pictures in folders by class."""
    folder = tmp_path_factory.mktemp("album")
    for number in range(30):
        path = folder / CLASSES[number % 5].id / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        picture(number).save(path)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder. Temporary files have another folder beside it."""
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path / "here"


@pytest.fixture
def exports(
    narrow_checkpoint: Checkpoints, vgg_deploy_command: Command, album: Path, here: Path
) -> Callable[..., tuple[Any, Manifest]]:
    """`exports("--fp16", ...)` -> the finished command and the written manifest. Adds --dynamic --int8."""

    def run(
        *arguments: str, configuration: str = "A", calibration: Path = album, **fields: Any
    ) -> tuple[Any, Manifest]:
        weights = narrow_checkpoint(configuration, manifest={"classes": CLASSES, **fields})
        common = ("--weights", str(weights), "--int8", "--calibration", str(calibration), "-o", "made.onnx")
        done = vgg_deploy_command("export", *common, *arguments)
        assert done.code == 0, done.err
        assert sorted(path.name for path in here.iterdir()) == ["made.onnx"]
        assert not list((here.parent / "temporary").iterdir())
        return done, read_manifest(here / "made.onnx")

    return run


def quantization_of(manifest: Manifest) -> Quantization:
    return manifest.precision.quantization


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", METHODS)
def test_the_manifest_records_method_target_images_scales_and_every_range(
    method: str, target: str, exports: Command, album: Path, here: Path
) -> None:
    arguments = ("--dynamic", "--calibration-method", method, "--target", target, "--calibration-images", "6")
    done, manifest = exports(*arguments)
    quantization = quantization_of(manifest)
    assert (quantization.method, quantization.target) == (method, target)
    assert quantization.layers == (LAYERS if target == "tensorrt" else LAYERS[:-1])
    assert quantization.kept == (() if target == "tensorrt" else ("fc8",))
    assert list(quantization.ranges) == [*LAYERS[:-1], "spatial_mean", "fc8"]
    low, high = quantization.ranges["conv1_1"]
    assert low == pytest.approx(-123.68, abs=40)
    assert high == pytest.approx(151.06, abs=40)
    assert all(low == 0 and high > 1 for name, (low, high) in quantization.ranges.items() if name != "conv1_1")
    hashes = {sha256_of(path): path.name for path in album.rglob("*.png")}
    assert len(quantization.images) == 6
    assert all(hashes[source.sha256] == source.name for source in quantization.images)
    assert (quantization.scales, quantization.mirror) == ((64, 73, 82), True)
    assert quantization.budget is None
    assert done.err == f"INT8 ranges: {method} of 6 images, multiscale: whole image at Q=64,73,82, with mirrors\n"
    rest = "the rest" if target == "tensorrt" else "fc8"
    assert f", int8 ({rest} in float32), images 1.. x 64.. x 64.. x 3, " in done.out
    assert layer_types(OnnxFile(here / "made.onnx").header) == {name: manifest.precision.of(name) for name in LAYERS}


def test_minmax_for_tensorrt_on_all_images_is_the_default(exports: Command, here: Path) -> None:
    _done, manifest = exports("--dynamic")
    quantization = quantization_of(manifest)
    assert (quantization.method, quantization.target, len(quantization.images)) == ("minmax", "tensorrt", 30)
    default = (here / "made.onnx").read_bytes()
    arguments = ("--calibration-method", "minmax", "--target", "tensorrt", "--calibration-images", "128")
    exports("--dynamic", *arguments)
    assert (here / "made.onnx").read_bytes() == default


def test_the_sample_is_the_same_on_each_run_and_so_is_the_file(exports: Command, here: Path) -> None:
    files = []
    for count in ("5", "5", "6"):
        exports("--dynamic", "--calibration-images", count)
        files.append((here / "made.onnx").read_bytes())
    assert files[0] == files[1] != files[2]


def test_with_fp16_what_is_not_int8_is_fp16_and_its_range_is_measured(exports: Command) -> None:
    done, manifest = exports("--dynamic", "--fp16", "--calibration-images", "4", configuration="A-LRN")
    precision = manifest.precision
    assert (precision.arithmetic, precision.range, precision.lowest) == ("float16", "measured", "int8")
    assert list(precision.largest_activations) == list(LAYERS)
    assert all(value > 0 for value in precision.largest_activations.values())
    lines = done.err.splitlines()
    assert lines[0].startswith("INT8 ranges: minmax of 4 images")
    assert lines[1].startswith("largest activation ")
    assert len(lines) == 2
    assert "int8 (the rest in float16)" in done.out


def test_without_fp16_no_range_of_fp16_is_recorded(exports: Command) -> None:
    precision = exports("--dynamic", "--calibration-images", "2")[1].precision
    assert (precision.arithmetic, precision.range, precision.largest_activations) == ("float32", "not limited", None)


def test_an_int8_layer_whose_output_would_overflow_fp16_returns_fp32(
    enlarged_checkpoint: Checkpoints, vgg_deploy_command: Command, album: Path, here: Path
) -> None:
    weights = str(enlarged_checkpoint(1e6, "conv3_1"))
    arguments = ("--int8", "--fp16", "--calibration", str(album), "--calibration-images", "3", "-o", "made.onnx")
    done = vgg_deploy_command("export", "--weights", weights, *arguments)
    assert done.code == 0, done.err
    precision = read_manifest(here / "made.onnx").precision
    assert precision.float32_layers == ("conv3_1", "conv3_2")
    assert precision.of("conv3_1") == precision.of("conv3_2") == "int8"
    assert "in INT8, returning FP32: conv3_1, conv3_2 (outputs or inputs exceed 1/2 of FP16's range" in done.err
    assert "int8 (the rest in float16)" in done.out
    with open_engine(here / "made.onnx", runtime="onnxruntime", threads=1) as engine:
        scores = engine.run(np.asarray(picture(2).resize((64, 64)))[None])
    assert np.isfinite(scores.probabilities).all()


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_of_one_size_is_calibrated_on_central_crops(target: str, exports: Command, here: Path) -> None:
    done, manifest = exports("--target", target, "--calibration-images", "4")
    quantization = quantization_of(manifest)
    assert (quantization.scales, quantization.mirror) == ((73,), False)
    assert "center: central 64x64 crop at Q=73" in done.err
    assert str(manifest.shapes) == "1 x 64 x 64 x 3"


@pytest.mark.parametrize(
    ("fields", "scales", "mirror"),
    [
        ({"train_scale": TrainScale(96, 96)}, (87, 96, 105), True),
        ({"train_scale": TrainScale(70, 100), "mirror": False}, (70, 85, 100), False),
        ({"train_scale": TrainScale(73, 73), "rescaling": Rescaling("lanczos", "nearest")}, (64, 73, 82), True),
    ],
)
def test_calibration_uses_the_scales_that_inference_uses_for_this_network(
    fields: dict[str, Any], scales: tuple[int, ...], mirror: bool, exports: Command
) -> None:
    done, manifest = exports("--dynamic", "--calibration-images", "2", **fields)
    quantization = quantization_of(manifest)
    assert (quantization.scales, quantization.mirror) == (scales, mirror)
    inference = choose_protocol(manifest, free_size=True).protocol
    assert (inference.scales, inference.mirror) == (scales, mirror)
    assert done.err == f"INT8 ranges: minmax of 2 images, {inference}\n"


@pytest.mark.parametrize("target", TARGETS)
def test_further_outputs_are_present_and_right(
    target: str, exports: Command, here: Path, narrow_checkpoint: Checkpoints
) -> None:
    from train.network.checkpoint import read
    from train.network.reference import Reference

    _done, manifest = exports("--dynamic", "--score-map", "--features", "--target", target)
    assert manifest.outputs == ("probabilities", "score_map", "features")
    assert "spatial_mean" not in quantization_of(manifest).ranges
    images = np.asarray(picture(0))[None]
    with (
        open_engine(here / "made.onnx", runtime="onnxruntime", threads=1) as engine,
        Reference(read(narrow_checkpoint("A", manifest={"classes": CLASSES}))) as reference,
    ):
        received, expected = engine.run(images), reference.run(images)
    for name in ("score_map", "features"):
        a, b = getattr(received, name), getattr(expected, name)
        assert np.abs(a - b).max() < 0.15 * np.abs(b).max(), name


def table(text: str) -> list[list[str]]:
    """The rows of the printed table, without head and rule."""
    lines = text.splitlines()
    rule = next(index for index, line in enumerate(lines) if line.startswith("---"))
    return [line.split() for line in lines[rule + 1 :] if line and not line.startswith("made.onnx: ")]


def spy_on_held_out(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, ...]]:
    """Records which images are held out, without changing anything."""
    seen: list[tuple[Path, ...]] = []
    real = export.sensitivity.HeldOut.of

    def of(sample: Any, manifest: Any, *, labelled: bool) -> Any:
        seen.append(sample.paths)
        return real(sample, manifest, labelled=labelled)

    monkeypatch.setattr(export.sensitivity.HeldOut, "of", staticmethod(of))
    return seen


@pytest.mark.parametrize(
    ("target", "budget"),
    [
        ("tensorrt", ("--min-agreement", "100")),
        ("tensorrt", ("--max-drop", "0")),
        ("onnxruntime", ("--min-agreement", "100")),
        ("onnxruntime", ("--max-drop", "60")),
    ],
)
def test_a_budget_prints_the_reason_for_each_layer_and_the_manifest_records_the_result(
    target: str, budget: tuple[str, str], exports: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spy_on_held_out(monkeypatch)
    arguments = ("--dynamic", "--target", target, "--calibration-images", "10", "--held-out", "12", *budget)
    done, manifest = exports(*arguments)
    quantization = quantization_of(manifest)
    rows = table(done.out)
    assert sorted(row[0] for row in rows) == sorted(LAYERS if target == "tensorrt" else LAYERS[:-1])
    divergences = [float(row[3]) for row in rows]
    assert divergences == sorted(divergences, reverse=True)
    became = {row[0]: row[-1] for row in rows}
    assert {layer for layer, kind in became.items() if kind == "int8"} == set(quantization.layers)
    assert {kind for layer, kind in became.items() if layer in quantization.kept} <= {"float32"}
    candidates_kept = [layer for layer in quantization.kept if layer != "fc8" or target == "tensorrt"]
    assert set(candidates_kept) == {row[0] for row in rows[: len(candidates_kept)]}  # the worst, and no others
    assert quantization.budget.endswith(f"{float(budget[1]):g}) on 12 images")
    # No image that judges was used for calibration.
    (held_out,) = seen
    assert len(held_out) == 12
    assert {sha256_of(path) for path in held_out}.isdisjoint(source.sha256 for source in quantization.images)
    assert len(quantization.images) == 10


def test_a_loose_budget_keeps_nothing_and_kept_layers_are_fp16_with_fp16(exports: Command) -> None:
    few = ("--dynamic", "--calibration-images", "3", "--held-out", "6")
    loose = quantization_of(exports(*few, "--target", "onnxruntime", "--min-agreement", "1.5")[1])
    assert (loose.layers, loose.kept) == (LAYERS[:-1], LAYERS[-1:])
    assert "(at least 1.5) on 6 images" in loose.budget
    done, manifest = exports(*few, "--fp16", "--min-agreement", "100")
    types = {row[0]: row[-1] for row in table(done.out)}
    assert types == {layer: manifest.precision.of(layer) for layer in LAYERS}
    assert set(types.values()) <= {"int8", "float16"}


def test_too_few_images_for_both_are_shared_with_a_notice(exports: Command, album: Path) -> None:
    arguments = ("--target", "onnxruntime", "--min-agreement", "2")
    done, manifest = exports(*arguments)
    assert done.err.splitlines()[0] == f"{album} has 30 readable images: 15 for calibration, 15 held out"
    assert len(quantization_of(manifest).images) == 15
    done, manifest = exports(*arguments, "--calibration-images", "4")
    assert done.err.splitlines()[0] == f"{album} has 30 readable images: 4 for calibration, 26 held out"


def test_exactly_the_requested_number_of_images_is_enough(exports: Command) -> None:
    arguments = ("--target", "onnxruntime", "--min-agreement", "2", "--calibration-images", "25", "--held-out", "5")
    done, manifest = exports(*arguments)
    assert len(quantization_of(manifest).images) == 25
    assert quantization_of(manifest).budget.endswith("on 5 images")  # type: ignore[union-attr]
    assert "others judge" not in done.err  # no notice about sharing


@pytest.fixture
def folders(tmp_path: Path, album: Path) -> Callable[[str], Path]:
    """`folders(kind)` -> a folder that is empty, has one, two or three images, or only broken files."""

    def make(kind: str) -> Path:
        folder = tmp_path / "calibration" / kind
        folder.mkdir(parents=True)
        if kind == "empty":
            (folder / "notes.txt").write_text("no image")
        if kind == "broken":
            for number in range(3):
                (folder / f"{number}.jpg").write_bytes(b"no picture")
        for number in range({"one": 1, "two": 2, "three": 3}.get(kind, 0)):
            picture(number).save(folder / f"{number}.png")
        return folder

    return make


BUDGET = ("--min-agreement", "50")


@pytest.mark.parametrize(
    ("command", "kind", "arguments", "reason", "notices"),
    [
        ("export", "empty", (), "no image in this folder", 0),
        ("export", "one", (), "1 readable image. INT8 ranges need at least 2", 0),
        ("export", "broken", (), "none of the 3 images can be read", 3),
        ("export", "two", ("--calibration-images", "1"), "--calibration-images is 1. INT8 ranges need at least 2", 0),
        ("export", "three", BUDGET, "3 readable images. INT8 ranges need at least 2 images and as many held-out", 0),
        ("sensitivity", "one", (), "1 readable image. INT8 ranges need at least 2 images and as many held-out", 0),
        ("sensitivity", "broken", (), "none of the 3 images can be read", 3),
    ],
)
def test_bad_calibration_exits_with_2_says_why_in_a_line_and_leaves_nothing(
    command: str,
    kind: str,
    arguments: tuple[str, ...],
    reason: str,
    notices: int,
    folders: Callable[[str], Path],
    narrow_checkpoint: Checkpoints,
    vgg_deploy_command: Command,
    here: Path,
) -> None:
    common = ("--weights", str(narrow_checkpoint("A")), "--calibration", str(folders(kind)))
    if command == "export":
        common = (*common, "--int8", "--dynamic", "-o", "made.onnx")
    (here / "made.onnx").write_text("an older export")
    done = vgg_deploy_command(command, *common, *arguments)
    assert done.code == 2, done.out
    assert reason in done.err
    assert done.out == ""
    errors = [line for line in done.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert sum(line.startswith("skipped ") for line in done.err.splitlines()) == notices
    assert [path.name for path in here.iterdir()] == ["made.onnx"]
    assert (here / "made.onnx").read_text() == "an older export"
    assert not list((here.parent / "temporary").iterdir())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--int8",), "--int8 requires --calibration DIR, a folder of real images"),
        (("--target", "tensorrt"), "--target requires --int8"),
        (("--calibration-method", "minmax"), "--calibration-method requires --int8"),
        (("--max-drop", "0"), "--max-drop requires --int8"),
        (("--min-agreement", "99"), "--min-agreement requires --int8"),
        (("--held-out", "9"), "--held-out requires --int8"),
        (("--fp16", "--calibration", ".", "--target", "onnxruntime"), "--target requires --int8"),
        (("--calibration", "."), "--calibration requires --fp16 or --int8"),
        (("--int8", "--calibration", ".", "--fp16", "--target", "onnxruntime"), "CPU kernels have no FP16"),
        (("--int8", "--calibration", ".", "--held-out", "9"), "--held-out requires --max-drop or --min-agreement"),
        (
            ("--int8", "--calibration", ".", "--max-drop", "1", "--min-agreement", "99"),
            "exactly one of --max-drop and --min-agreement",
        ),
        (("--int8", "--calibration", ".", "--max-drop", "-1"), "--max-drop is -1"),
    ],
)
def test_options_that_contradict_each_other_exit_with_2_before_anything_is_read(
    arguments: tuple[str, ...], reason: str, vgg_deploy_command: Command, here: Path
) -> None:
    done = vgg_deploy_command("export", "--weights", "nowhere.safetensors", "--dynamic", *arguments)
    assert done.code == 2
    assert reason in done.err
    assert sum(line.startswith("Error: ") for line in done.err.splitlines()) == 1
    assert not list(here.iterdir())


def test_broken_images_among_others_are_skipped_and_named(folders: Callable[[str], Path], exports: Command) -> None:
    folder = folders("three")
    (folder / "bad.jpg").write_bytes(b"no picture")
    done, manifest = exports("--dynamic", calibration=folder)
    lines = done.err.splitlines()
    assert lines[0].startswith(f"skipped {folder / 'bad.jpg'}: ")
    assert lines[1].startswith("INT8 ranges: minmax of 3 images")
    assert {source.name for source in quantization_of(manifest).images} == {"0.png", "1.png", "2.png"}


def test_folders_must_name_classes_for_max_drop_and_need_not_for_min_agreement(
    folders: Callable[[str], Path],
    exports: Command,
    narrow_checkpoint: Checkpoints,
    vgg_deploy_command: Command,
    here: Path,
) -> None:
    folder = folders("three")
    for number in range(3, 8):
        picture(number).save(folder / f"{number}.png")
    weights = narrow_checkpoint("A", manifest={"classes": CLASSES})
    common = ("--weights", str(weights), "--int8", "--calibration", str(folder))
    for drop in ("5", "0"):
        done = vgg_deploy_command("export", *common, "--max-drop", drop, "-o", "made.onnx")
        assert done.code == 2
        assert "folder 'three' is not a class of this network" in done.err
        assert not list(here.iterdir())
    exports("--target", "onnxruntime", "--min-agreement", "5", calibration=folder)


def test_too_few_images_are_bad_use_and_the_error_says_what_would_be_enough(
    narrow_checkpoint: Checkpoints, vgg_deploy_command: Command, album: Path, here: Path
) -> None:
    arguments = ("--int8", "--calibration", str(album), "--calibration-images", "20", *BUDGET, "-o", "made.onnx")
    done = vgg_deploy_command("export", "--weights", str(narrow_checkpoint("A")), *arguments)
    assert done.code == 2
    assert "has 30 readable images, too few to calibrate on 20" in done.err
    assert "--calibration-images 15" in done.err
    assert not list(here.iterdir())


def test_a_budget_that_cannot_be_met_exits_with_1_and_writes_nothing(
    narrow_checkpoint: Checkpoints, vgg_deploy_command: Command, album: Path, here: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(export.sensitivity.Budget, "judge", lambda *_arguments: (False, "agreement 12.00 %"))
    arguments = ("--int8", "--target", "onnxruntime", "--calibration", str(album), "--calibration-images", "2", *BUDGET)
    done = vgg_deploy_command(
        "export", "--weights", str(narrow_checkpoint("A")), *arguments, "--held-out", "2", "-o", "made.onnx"
    )
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("Error: no layer can be INT8 within the budget: even with ")
    assert not list(here.iterdir())
    assert not list((here.parent / "temporary").iterdir())


def test_the_sensitivity_table_has_every_layer_the_worst_first(
    narrow_checkpoint: Checkpoints, vgg_deploy_command: Command, album: Path, here: Path
) -> None:
    common = ("--weights", str(narrow_checkpoint("A")), "--calibration", str(album), "--calibration-images", "4")
    done = vgg_deploy_command("sensitivity", *common)
    assert done.code == 0, done.err
    assert done.err == f"{album} has 30 readable images: 4 for calibration, 26 held out\n"
    head, rule, *rows = done.out.splitlines()
    assert head.split("  ")[0] == "layer"
    assert all(word in head for word in ("MACs", "largest input", "divergence alone", "top-1 agreement alone"))
    assert set(rule) == {"-", " "}
    assert sorted(row.split()[0] for row in rows) == sorted(LAYERS)
    divergences = [float(row.split()[3]) for row in rows]
    assert divergences == sorted(divergences, reverse=True)
    shares = [float(row.split()[1].rstrip("%")) for row in rows]
    assert sum(shares) == pytest.approx(100, abs=0.6)
    assert not list(here.iterdir())
    assert not list((here.parent / "temporary").iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_sensitivity_as_json_prints_only_json_in_the_networks_order(
    target: str, narrow_checkpoint: Checkpoints, vgg_deploy_command: Command, album: Path
) -> None:
    common = ("--weights", str(narrow_checkpoint("A")), "--calibration", str(album), "--calibration-images", "4")
    arguments = ("--held-out", "8", "--calibration-method", "percentile", "--target", target, "--json")
    done = vgg_deploy_command("sensitivity", *common, *arguments)
    assert done.code == 0, done.err
    assert done.err == ""
    report = json.loads(done.out)
    assert (report["method"], report["target"]) == ("percentile", target)
    expected = LAYERS if target == "tensorrt" else LAYERS[:-1]
    assert [row["layer"] for row in report["layers"]] == list(expected)
    for row in report["layers"]:
        assert set(row) == {"layer", "divergence", "agreement", "range"}
        assert row["divergence"] > 0
        assert 0 <= row["agreement"] <= 1
        assert row["range"][0] <= 0 < row["range"][1]
    again = vgg_deploy_command("sensitivity", *common, *arguments)
    assert again.out == done.out


def test_an_int8_file_is_smaller_than_an_fp16_file_and_that_is_smaller_than_an_fp32_file(
    narrow_checkpoint: Checkpoints, vgg_deploy_command: Command, album: Path, here: Path
) -> None:
    weights = str(narrow_checkpoint("A", width_divisor=4, fc_width=256))
    sizes = []
    for arguments in ((), ("--fp16",), ("--int8", "--calibration", str(album), "--calibration-images", "2")):
        assert vgg_deploy_command("export", "--weights", weights, *arguments, "-o", "made.onnx").code == 0
        sizes.append((here / "made.onnx").stat().st_size)
    assert sizes[1] < 0.55 * sizes[0]
    assert sizes[2] < 0.55 * sizes[1]


def test_verify_judges_an_int8_file_by_the_thresholds_of_int8(
    exports: Command, vgg_deploy_command: Command, narrow_checkpoint: Checkpoints, album: Path, here: Path
) -> None:
    exports("--dynamic", "--fp16", "--calibration-images", "8", configuration="C")
    weights = narrow_checkpoint("C", manifest={"classes": CLASSES})
    arguments = ("made.onnx", "--reference", str(weights), "--images", str(album), "--json", "report.json")
    done = vgg_deploy_command("verify", *arguments)
    report = json.loads((here / "report.json").read_text())
    (artifact,) = (artifact for artifact in report["artifacts"] if artifact["file"] == "made.onnx")
    (answers,) = (proof for proof in artifact["proofs"] if proof["name"] == "answers")
    comparisons = {comparison["name"]: comparison for comparison in answers["figures"]["comparisons"]}
    assert list(comparisons) == ["made.onnx", "made.onnx, activations rounded"]
    for comparison in comparisons.values():
        assert comparison["precision"] == "int8"
        assert 1e-4 < comparison["parity"]["max_dp"] < 0.2
        # In a random network near ties may flip; nothing else may fail.
        assert all("agreement" in failure for failure in comparison["failures"])
    assert done.code == int(not report["passed"])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for another process")
def test_ctrl_c_while_calibrating_leaves_nothing_behind(
    narrow_checkpoint: Checkpoints, tmp_path: Path, here: Path
) -> None:
    folder, temporary = tmp_path / "many" / CLASSES[0].id, tmp_path / "temporary"
    folder.mkdir(parents=True)
    for number in range(20):
        picture(number).resize((900, 700)).save(folder / f"{number}.jpg")
    weights = narrow_checkpoint("A", manifest={"classes": CLASSES, "train_scale": TrainScale(512, 512)})
    program = "from vgg_deploy.cli import main; main()"
    command = [sys.executable, "-c", program, "export", "--weights", str(weights), "--int8", "--dynamic"]
    process = subprocess.Popen(
        [*command, "--calibration", str(folder.parent), "--max-drop", "1", "-o", "made.onnx"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(Path(export.__file__).parent.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(temporary.glob("*/model.onnx")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "it ended before it could be interrupted"
    process.send_signal(signal.SIGINT)
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "Interrupted."
    assert "Traceback" not in err
    assert not list(temporary.iterdir())
    assert not list(here.iterdir())
