"""Networks whose weights came without class names: folders are not matched to positions, and labels are asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxruntime")

import torch

from tests.train.network.coloured import CLASSES, coloured_weights, write_images
from vgg_deploy.artifacts.onnx_file import read_manifest
from vgg_deploy.network.manifest import TORCHVISION_NORMALIZATION

Command = Callable[..., Any]
FOLDERS = sorted(["0", "1", "2", "3", "10", "20"])  # 0, 1, 10, 2, 20, 3: as torchvision's ImageFolder sorts them
NO_NAMES = "the network's 6 classes have no names, only numbers, so nothing shows which folder is which class: 0, 1, 10"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of the classes, in folders that are numbers."""
    folder = write_images(tmp_path / "val", 2)
    for name, number in zip(CLASSES, FOLDERS, strict=True):
        (folder / name).rename(folder / number)
    return folder


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "foreign.pth"
    torch.save(coloured_weights(TORCHVISION_NORMALIZATION, "rgb", "D"), path)
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(FOLDERS))
    return path


@pytest.fixture
def export(vgg_deploy_command: Command, weights: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(*options: str | Path) -> Path:
        path = tmp_path / "model.onnx"
        facts = ("--normalization", "torchvision", "--train-scale", "36", "--dynamic", "-o", str(path))
        done = vgg_deploy_command("export", "--weights", str(weights), *facts, *map(str, options))
        assert done.code == 0, done.err
        return path

    return run


@pytest.fixture
def top1_error(export: Callable[..., Path], vgg_deploy_command: Command, tmp_path: Path) -> float:
    """Of the same images in folders with the names of the classes."""
    (tmp_path / "colours.json").write_text(json.dumps({name: index for index, name in enumerate(CLASSES)}))
    model, folder = export("--labels", tmp_path / "colours.json"), write_images(tmp_path / "named", 2)
    done = vgg_deploy_command("eval", str(folder), "--engine", str(model), "--protocol", "center", "--json", "-")
    error: float = json.loads(done.out)[0]["top1_error"]
    assert error < 0.5
    return error


def test_eval_asks_for_labels_and_is_right_with_them(
    export: Callable[..., Path], vgg_deploy_command: Command, images: Path, labels: Path, top1_error: float
) -> None:
    model = export()
    assert read_manifest(model).unnamed
    evaluated = ("eval", str(images), "--engine", str(model), "--protocol", "center", "--json", "-")
    done = vgg_deploy_command(*evaluated)
    assert (done.code, done.out) == (2, "")
    assert NO_NAMES in done.err
    assert "Give --labels FILE" in done.err
    done = vgg_deploy_command(*evaluated, "--labels", str(labels))
    assert done.code == 0, done.err
    assert json.loads(done.out)[0]["top1_error"] == top1_error


def test_labels_of_the_export_are_enough(
    export: Callable[..., Path], vgg_deploy_command: Command, images: Path, labels: Path, top1_error: float
) -> None:
    model = export("--labels", labels)
    assert not read_manifest(model).unnamed
    done = vgg_deploy_command("eval", str(images), "--engine", str(model), "--protocol", "center", "--json", "-")
    assert done.code == 0, done.err
    assert json.loads(done.out)[0]["top1_error"] == top1_error


def test_check_folders_asks_for_labels_before_any_image_is_scored(
    export: Callable[..., Path], vgg_deploy_command: Command, images: Path, labels: Path
) -> None:
    checked = ("infer", str(images), "--engine", str(export()), "--check-folders", "--json", "-")
    done = vgg_deploy_command(*checked)
    assert (done.code, done.out) == (2, "")
    assert NO_NAMES in done.err
    done = vgg_deploy_command(*checked, "--labels", str(labels))
    assert done.code == 0
    assert "classes by folder name: top-1" in done.err


def test_a_budget_of_accuracy_asks_for_labels(
    vgg_deploy_command: Command, weights: Path, images: Path, tmp_path: Path
) -> None:
    facts = ("--weights", str(weights), "--normalization", "torchvision", "--train-scale", "36", "--dynamic")
    budget = ("--int8", "--calibration", str(images), "--calibration-images", "6", "--max-drop", "5")
    done = vgg_deploy_command("export", *facts, *budget, "-o", str(tmp_path / "int8.onnx"))
    assert done.code == 2, done.err
    assert NO_NAMES.split(":")[0] in done.err


def test_verify_says_that_it_measures_no_accuracy(
    export: Callable[..., Path], vgg_deploy_command: Command, weights: Path, images: Path, labels: Path
) -> None:
    facts = ("--reference", str(weights), "--images", str(images))
    done = vgg_deploy_command("verify", str(export()), *facts)
    assert done.code == 0, done.out + done.err
    assert "no accuracy is measured: the network's classes have no names" in done.err
    done = vgg_deploy_command("verify", str(export("--labels", labels)), *facts)
    assert done.code == 0, done.out + done.err
    assert "no accuracy" not in done.err
