"""vgg-deploy probe: what it recommends, what it prints, and what it refuses."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch
from PIL import Image

from tests.train.network.coloured import CLASSES, coloured_weights, write_images
from vgg_deploy.artifacts.onnx_file import read_manifest
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.manifest import NORMALIZATIONS, TORCHVISION_NORMALIZATION, Normalization

Command = Callable[..., Any]
ORDERS = (("rgb", "bgr"), ("bgr", "rgb"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "colours", 8)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A configuration D that takes BGR, normalized as torchvision does, in a file whose name needs quotes."""
    path = tmp_path / "my net.pth"
    torch.save(coloured_weights(TORCHVISION_NORMALIZATION, "bgr", "D"), path)
    return path


@pytest.fixture
def pooled_weights(tmp_path: Path) -> Path:
    """A configuration A behind a global average pooling."""
    path = tmp_path / "pooled.pth"
    torch.save(coloured_weights(TORCHVISION_NORMALIZATION, pooled=True), path)
    return path


@pytest.fixture
def probe(vgg_deploy_command: Command, images: Path, weights: Path) -> Command:
    """`probe(*options, weights=..., images=...)` runs the command."""

    def run(*options: str, weights: Path = weights, images: Path = images) -> Any:
        return vgg_deploy_command("probe", "--weights", str(weights), "--images", str(images), *options)

    return run


def test_it_recommends_a_reading_and_prints_the_command_that_exports_it(
    probe: Command, weights: Path, vgg_deploy_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = probe("--train-scale", "70,75")
    assert done.code == 0, done.out + done.err
    lines = done.out.splitlines()
    assert lines[0].split("  ")[0] == "reading"
    assert lines[2].startswith("torchvision bgr")
    assert len(lines) == 2 + 10 + 2
    assert all(len(line) <= 80 for line in lines[:-2])
    assert lines[-2].startswith("clear: torchvision bgr (top-1 ")
    *start, ending = shlex.split(lines[-1])
    assert start == [
        *("vgg-deploy", "export", "--weights", str(weights), "--normalization", "torchvision", "--channels", "bgr"),
        *("--train-scale", "70,75"),
    ]
    assert ending == "--dynamic"
    monkeypatch.chdir(tmp_path)
    assert vgg_deploy_command(*start[1:], ending).code == 0
    assert read_manifest(tmp_path / "vgg16.onnx").channels_reversed


def test_it_says_what_it_assumed(probe: Command) -> None:
    done = probe()
    assert f"classes are the {len(CLASSES)} folders in sorted order: blue, dark, green, ..." in done.err
    assert "--labels FILE gives another order" in done.err
    assert "numbered from 0" not in done.err
    assert "does not state its training scale S; 73 is assumed" in done.err
    assert "measuring on" not in done.err
    assert "measuring on 24 of 48 images, a seeded sample (--limit)" in probe("--limit", "24").err


def test_labels_give_the_order_and_are_part_of_the_command(probe: Command, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(CLASSES))
    done = probe("--labels", str(labels))
    assert done.code == 0, done.out
    assert "sorted order" not in done.err
    assert f"--labels {labels}" in done.out.splitlines()[-1]
    labels.write_text("\n".join(reversed(CLASSES)))
    done = probe("--labels", str(labels))
    assert done.code == 1
    assert "not clear: no reading is clearly better than chance" in done.out
    assert "Check the order of the classes (--labels)" in done.out
    assert "vgg-deploy export" not in done.out
    labels.write_text("\n".join([*CLASSES[:-1], "purple"]))
    done = probe("--labels", str(labels))
    assert done.code == 2
    assert "folder 'red' is not a class of this network" in done.err


def test_other_folders_than_classes_are_refused_and_labels_are_asked_for(probe: Command, tmp_path: Path) -> None:
    done = probe(images=write_images(tmp_path / "few", 1, ["red", "blue"]))
    assert done.code == 2
    assert "has 6 classes without names, and the images are in 2 folders: blue, red. Give --labels FILE" in done.err


def test_images_of_one_class_are_named_as_such(probe: Command, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(CLASSES))
    done = probe("--labels", str(labels), images=write_images(tmp_path / "one", 20, ["red"]))
    assert done.code == 1
    assert "not clear: all 20 images are of class red: probe needs at least two classes" in done.out
    assert "chance" not in done.out


def test_with_few_images_more_are_suggested(probe: Command, images: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(reversed(CLASSES)))
    verdict = probe("--limit", "20", "--labels", str(labels)).out
    assert "no reading is clearly better than chance" in verdict
    assert "more images (--limit 48)" in verdict


def test_a_network_with_a_pooled_head_is_named_and_gets_no_export_line(
    vgg_deploy_command: Command, pooled_weights: Path, tmp_path: Path
) -> None:
    images = write_images(tmp_path / "colours", 8)
    probe = ("probe", "--weights", str(pooled_weights), "--images", str(images), "--channels", "rgb", "--arch", "A")
    done = vgg_deploy_command(*probe, "--json", str(tmp_path / "report.json"))
    assert done.code == 1, done.out + done.err
    assert "clear: torchvision rgb pooled (top-1" in done.out
    assert "export would misread this network" in done.out
    assert "It cannot be exported yet" in done.out
    assert "vgg-deploy export" not in done.out
    assert json.loads((tmp_path / "report.json").read_text())["export"] is None
    output = ("--normalization", "torchvision", "-o", str(tmp_path / "m.onnx"))
    done = vgg_deploy_command("export", "--weights", str(pooled_weights), *output)
    text = "fc6 reads one position: taken as a crop of 32, not as an average over pool5; vgg-deploy probe shows which"
    assert text in done.err


def test_folders_may_be_the_numbers_of_the_classes(probe: Command, images: Path, tmp_path: Path) -> None:
    numbered = tmp_path / "numbered"
    numbered.mkdir()
    for index, name in enumerate(CLASSES):
        (numbered / str(index)).symlink_to(images / name)
    done = probe(images=numbered)
    assert done.code == 0, done.out + done.err
    assert "classes are the 6 folders in sorted order: 0, 1, 2, ..." in done.err
    (numbered / "2").rename(numbered / "10")
    done = probe(images=numbered)
    assert done.code == 2
    assert "class 2 may be the folder 3, or 10 if they were sorted as text" in done.err
    assert "Give --labels FILE with the folders' names" in done.err


def test_few_images_are_not_clear_and_it_says_what_would_help(probe: Command) -> None:
    done = probe("--limit", "6")
    assert done.code == 1
    assert "not clear: 6 images show too little; give at least 16, better 100" in done.out
    assert "vgg-deploy export" not in done.out


def test_readings_that_cannot_be_told_apart_are_named(probe: Command, tmp_path: Path) -> None:
    path, labels = tmp_path / "unit.pth", tmp_path / "labels.txt"
    torch.save(coloured_weights(NORMALIZATIONS["unit"], configuration="D"), path)
    labels.write_text("\n".join(CLASSES))
    grey = write_images(tmp_path / "grey", 24, ["dark", "light"])
    for file in grey.rglob("*.png"):
        with Image.open(file) as image:
            image.convert("L").save(file)
    done = probe("--limit", "24", "--labels", str(labels), weights=path, images=grey)
    assert done.code == 1
    verdict = done.out.splitlines()[-1]
    pairs = [f"not clear: unit {one} is first, but these are not clearly worse: unit {other}." for one, other in ORDERS]
    assert verdict.startswith(tuple(pairs))
    assert "What would help: more images (--limit 48) and images with strong colours" in verdict


def test_your_own_mean_is_ranked_and_exported_as_numbers(probe: Command, tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    torch.save(coloured_weights(Normalization((90.5, 0.0, 33.25), (255, 255, 127.0)), configuration="D"), path)
    done = probe("--mean", "90.5,0,33.25", "--std", "255,255,127", weights=path)
    assert done.code == 0, done.out
    assert done.out.splitlines()[2].startswith("own mean/std rgb")
    assert "--mean 90.5,0,33.25 --std 255,255,127 --channels rgb --dynamic" in done.out
    assert len(done.out.splitlines()) == 2 + 12 + 2


def test_channels_leave_out_the_other_order_and_a_named_normalization_is_ranked_with_the_others(
    probe: Command,
) -> None:
    done = probe("--channels", "bgr", "--normalization", "paper")
    assert done.code == 0, done.out
    assert " rgb " not in done.out
    assert len(done.out.splitlines()) == 2 + 5 + 2
    assert "--normalization names one of the readings; all of them are ranked" in done.err


def test_a_lrn_is_named_only_where_it_is_a_question(probe: Command, tmp_path: Path) -> None:
    path = tmp_path / "lrn.pth"
    torch.save(coloured_weights(NORMALIZATIONS["paper"], configuration="A-LRN"), path)
    done = probe("--channels", "rgb", weights=path, images=write_images(tmp_path / "more", 12))
    assert done.code == 0, done.out
    assert "clear: paper rgb A-LRN" in done.out
    assert "--channels rgb --arch A-LRN --dynamic" in done.out
    assert "A-LRN" not in probe().out


def test_our_own_checkpoint_states_its_reading_and_is_measured_alone(
    probe: Command, narrow_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    own = narrow_checkpoint(
        "A", classes=2, manifest={"classes": tuple(ClassName(name, name) for name in ("red", "blue"))}
    )
    images = write_images(tmp_path / "two", 10, ["red", "blue"])
    done = probe(weights=own, images=images)
    assert done.code == 1  # random weights
    assert f"{own} states how it takes its pixels, so only that reading is measured" in done.err
    assert "no reading is clearly better than chance (paper rgb: " in done.out
    refused = probe("--channels", "bgr", weights=own, images=images)
    assert refused.code == 2
    assert "takes RGB, as its manifest states" in refused.err


def test_the_json_has_the_figures(probe: Command, tmp_path: Path) -> None:
    done = probe("--json", "-")
    assert done.code == 0
    report = json.loads(done.out)
    assert report["clear"] is True
    assert report["images"] == 48
    assert report["chance"] == pytest.approx(1 / 6)
    assert report["export"][:2] == ["vgg-deploy", "export"]
    best, second = report["readings"][:2]
    assert (best["normalization"], best["channels"], best["configuration"]) == ("torchvision", "bgr", "D")
    assert best["cross_entropy_above_best"] == 0
    assert not best["clearly_worse"]
    assert second["clearly_worse"]
    assert second["cross_entropy_above_best"] > 3 * second["cross_entropy_standard_error"] > 0
    done = probe("--json", str(tmp_path / "report.json"), "--limit", "1")
    assert done.out
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["export"] is None
    assert report["readings"][1]["cross_entropy_standard_error"] is None


def test_bad_requests_exit_with_2_and_damaged_files_with_1(
    probe: Command, weights: Path, images: Path, tmp_path: Path
) -> None:
    done = probe(weights=tmp_path / "absent.pth")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "absent.pth: no such checkpoint" in done.err
    assert "no such file or folder" in probe(images=tmp_path / "nowhere").err
    assert "would overwrite the input" in probe("--json", str(weights)).err
    shutil.copytree(images, tmp_path / "data" / "train")
    shutil.copytree(images, tmp_path / "data" / "val")
    assert f"give {tmp_path / 'data' / 'val'}\n" in probe(images=tmp_path / "data").err
    empty = tmp_path / "broken"
    for name in CLASSES:
        (empty / name).mkdir(parents=True)
        (empty / name / "0.png").write_bytes(b"")
    done = probe(images=empty)
    assert done.code == 2
    assert "none of the 6 images can be read" in done.err
    weights.write_bytes(weights.read_bytes()[:3000])
    done = probe()
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "damaged, cut off" in done.err
