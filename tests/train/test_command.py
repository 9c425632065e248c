"""The command: fine-tuning, recipe files, and the files of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from train.network.checkpoint import read

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RunCommand = Callable[..., tuple[int, str, str]]
MakeFolder = Callable[..., Path]
NARROW = "--width-divisor 16 --fc-width 16 --crop 32 --batch 8 --epochs 1 --lr 0.001 --workers 0 --device cpu"


def recipe_of(folder: Path) -> dict[str, Any]:
    recipe: dict[str, Any] = json.loads((folder / "run.json").read_text())["recipe"]
    return recipe


def test_fine_tuning_to_other_classes_keeps_frozen_convolutions(run: RunCommand, data_folder: MakeFolder):
    assert run("--arch A --data", data_folder(), NARROW, "--out old --mean 100,110,120 --std 50")[0] == 0
    new = data_folder()
    for split in ("train", "val"):
        (new / split / "third").mkdir()
        for path in (new / split / "dark").iterdir():
            (new / split / "third" / path.name).write_bytes(path.read_bytes())
    options = "--epochs 1 --batch 8 --workers 0 --device cpu --weights old/best.safetensors --out new"
    code, _out, err = run("--data", new, options, "--freeze-features")
    assert code == 0, err
    assert "random: fc8" in err
    before, after = load_file("old/best.safetensors"), load_file("new/best.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("conv"))
    assert not torch.equal(before["fc6.weight"], after["fc6.weight"])
    manifest = read(Path("new/best.safetensors")).manifest
    assert [name.id for name in manifest.classes] == ["dark", "light", "third"]
    assert manifest.normalization == read(Path("old/best.safetensors")).manifest.normalization
    assert recipe_of(Path("new"))["learning_rate"] == 1e-3


def test_without_freezing_the_convolutions_learn_too(run: RunCommand, data_folder: MakeFolder):
    folder = data_folder()
    assert run("--arch A --data", folder, NARROW, "--out old")[0] == 0
    assert run("--data", folder, "--weights old/best.safetensors --epochs 1 --workers 0 --device cpu --out new")[0] == 0
    before, after = load_file("old/best.safetensors"), load_file("new/best.safetensors")
    assert not any(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--freeze-features", "freeze_features is True, which keeps the convolutions of trained weights"),
        ("--weights nowhere.pth", "nowhere.pth: no such checkpoint"),
        ("--weights a.pth --init b.pth", "--weights and --init both set the initial weights"),
        ("--init a:nowhere.pth", "nowhere.pth: no such checkpoint"),
        ("--schedule paper --train-scale 256", "leave out the training scale"),
        ("--schedule paper --out here", "leave out --out"),
        ("--recipe nowhere.toml", "cannot read the recipe nowhere.toml"),
        ("--micro-batch 0", "micro_batch is 0"),
    ],
)
def test_invalid_options_are_refused_in_one_line(run: RunCommand, data_folder: MakeFolder, options: str, message: str):
    code, out, err = run("--arch A --data", data_folder(), NARROW, options)
    assert (code, out) == (2, "")
    assert message in err


def test_the_command_line_replaces_values_of_a_recipe_file(run: RunCommand, data_folder: MakeFolder):
    Path("r.toml").write_text(
        'arch = "A"\nwidth_divisor = 16\nfc_width = 16\ncrop = 32\nbatch = 4\nepochs = 1\nlearning_rate = 0.5\n'
    )
    code, _out, err = run("--data", data_folder(), "--recipe r.toml --lr 0.001 --workers 0 --device cpu --out here")
    assert code == 0, err
    recipe = recipe_of(Path("here"))
    assert (recipe["learning_rate"], recipe["batch"], recipe["spec"]["crop"]) == (0.001, 4, 32)
    assert recipe["train_scale"] == {"minimum": 36, "maximum": 36}


def test_weights_and_normalization_replace_fields_of_a_recipe_file(run: RunCommand, data_folder: MakeFolder):
    folder = data_folder()
    assert run("--arch A --data", folder, NARROW, "--out old --mean 1,2,3 --std 4,5,6")[0] == 0
    again = (
        "--recipe old/recipe.toml --weights old/best.safetensors --normalization torchvision --workers 0 --device cpu"
    )
    code, _out, err = run("--data", folder, again)
    assert code == 2  # the normalization of the weights, not that of the recipe file
    assert "was trained with --mean 1,2,3 --std 4,5,6, but --mean 123.675,116.28,103.53" in err
    code, _out, err = run("--data", folder, again.replace("--normalization torchvision", ""), "--out new")
    assert code == 0, err
    assert recipe_of(Path("new"))["initialisation"] == "old/best.safetensors"
    assert recipe_of(Path("new"))["learning_rate"] == recipe_of(Path("old"))["learning_rate"]


def test_the_recipe_file_of_a_run_gives_the_same_run(run: RunCommand, data_folder: MakeFolder):
    folder = data_folder()
    assert run("--arch A --data", folder, NARROW, "--out first --rgb-shift 0.2 --seed 4")[0] == 0
    again = "--recipe first/recipe.toml --workers 0 --device cpu --out second"
    assert run("--data", folder, again)[0] == 0
    assert recipe_of(Path("first")) == recipe_of(Path("second"))
    first, second = load_file("first/last.safetensors"), load_file("second/last.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_says_in_one_line_what_the_class_folders_hold_besides(run: RunCommand, data_folder: MakeFolder):
    folder = data_folder()
    for split in ("train", "val"):
        for name in ("dark", "light"):
            (folder / split / name / "Thumbs.db").touch()
    status, _, messages = run("--arch A --data", folder, NARROW, "--out here")
    assert status == 0
    lines = [line for line in messages.splitlines() if "passed over" in line]
    assert lines == ["found 24 images; passed over 4 .db"]


def test_a_run_writes_its_recipe_metrics_and_curves(run: RunCommand, data_folder: MakeFolder):
    pytest.importorskip("matplotlib")
    assert run("--arch A --data", data_folder(), NARROW, "--out here")[0] == 0
    names = ["best.safetensors", "curves.png", "last.safetensors", "metrics.jsonl", "recipe.toml", "run.json"]
    assert sorted(path.name for path in Path("here").iterdir()) == names
    [line] = [json.loads(text) for text in Path("here/metrics.jsonl").read_text().splitlines()]
    assert (line["epoch"], line["step"]) == (1, 2)
