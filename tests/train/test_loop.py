from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from train.compute.execution import Execution
from train.data.digits import write_digits
from train.data.folder import read_folder
from train.loop import train
from train.network.checkpoint import read
from train.network.reference import Reference
from train.recipe import DIGITS, Recipe
from train.runs.metrics import Epoch
from train.runs.run import TrainingRun
from vgg_deploy.errors import ImageError, OutputError, TrainingError
from vgg_deploy.network.manifest import TrainScale
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.views.images import centre_box, decode, rescale

pytestmark = pytest.mark.usefixtures("one_torch_thread")

MakeFolder = Callable[..., Path]
RECIPE = Recipe(
    NetworkSpec("A", 8, crop=32, fc_width=16, classes=2),
    train_scale=TrainScale(36, 36),
    batch=8,
    epochs=2,
    learning_rate=1e-3,
)
LEARNS = replace(RECIPE, epochs=8, learning_rate=1e-2, dropout=0.0)


def run_training(recipe: Recipe, folder: Path, out: Path, workers: int = 0) -> tuple[Epoch, TrainingRun, str]:
    console = Console(file=StringIO(), width=300)
    with TrainingRun(out, {}) as run:
        best = train(recipe, read_folder(folder), run, Execution(workers=workers, console=console))
    assert isinstance(console.file, StringIO)
    return best, run, console.file.getvalue()


@pytest.fixture(scope="module")
def folder(data_folder: MakeFolder) -> Path:
    return data_folder(train=16)


@pytest.fixture(scope="module")
def trained(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, one_torch_thread: None
) -> tuple[Epoch, TrainingRun, str]:
    return run_training(LEARNS, folder, tmp_path_factory.mktemp("trained") / "run")


def test_a_network_learns_to_tell_dark_from_light(trained: tuple[Epoch, TrainingRun, str]):
    best, _run, _text = trained
    assert best.val.top1 == 1.0
    assert best.val.top5 == 1.0


def test_each_epoch_is_a_line_on_the_console_and_an_entry_of_the_history(trained: tuple[Epoch, TrainingRun, str]):
    best, run, text = trained
    history = json.loads((run.folder / "run.json").read_text())["history"]
    assert [entry["number"] for entry in history] == list(range(1, len(history) + 1))
    assert [entry["steps"] for entry in history] == [4 * entry["number"] for entry in history]
    assert asdict(best) in history
    assert max(entry["val"]["top1"] for entry in history) == best.val.top1
    for entry in history:
        assert f"epoch {entry['number']:2}  lr" in text
    assert "mean RGB" in text


def test_the_best_checkpoint_has_a_complete_manifest(trained: tuple[Epoch, TrainingRun, str]):
    best, run, _text = trained
    manifest = read(run.best).manifest
    assert [name.id for name in manifest.classes] == ["dark", "light"]
    assert manifest.spec == RECIPE.spec
    assert manifest.train_scale == RECIPE.train_scale
    assert manifest.mirror
    assert manifest.normalization.mean == pytest.approx((120, 120, 120), abs=3)
    assert manifest.normalization.std == (1, 1, 1)
    assert {"torch", "vgg_deploy"} <= manifest.tools.keys()
    assert manifest.training["recipe"]["batch"] == 8
    assert manifest.training["images"] == {"train": 32, "val": 8}
    assert manifest.training["epoch"] == asdict(best)


def test_the_best_checkpoint_reaches_its_recorded_accuracy(trained: tuple[Epoch, TrainingRun, str], folder: Path):
    best, run, _text = trained
    checkpoint = read(run.best)
    data = read_folder(folder)
    hits = 0
    with Reference(checkpoint, form="fc") as network:
        for index in range(len(data.val)):
            scaled = rescale(decode(data.val.path(index)), 36, checkpoint.manifest.rescaling)
            top, left = centre_box(*scaled.shape[:2], 32)
            crop = scaled[None, top : top + 32, left : left + 32]
            hits += int(network.run(crop).probabilities.argmax() == data.val.targets[index])
    assert hits / len(data.val) == best.val.top1


def test_the_last_checkpoint_is_of_the_last_epoch(trained: tuple[Epoch, TrainingRun, str]):
    _best, run, _text = trained
    training = read(run.last).manifest.training
    history = json.loads((run.folder / "run.json").read_text())["history"]
    assert training["epoch"] == history[-1]


def test_the_same_seed_gives_the_same_weights_for_any_number_of_workers(tmp_path: Path, data_folder: MakeFolder):
    folder = data_folder()
    first, second, other = (
        read(run_training(recipe, folder, tmp_path / f"run{number}", workers)[1].last).weights
        for number, (recipe, workers) in enumerate([(RECIPE, 0), (RECIPE, 2), (replace(RECIPE, seed=1), 0)])
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["fc8.weight"], other["fc8.weight"])


def test_a_mean_in_the_recipe_is_not_measured(tmp_path: Path, data_folder: MakeFolder):
    recipe = replace(RECIPE, epochs=1, mean=(1.0, 2.0, 3.0))
    _best, run, text = run_training(recipe, data_folder(), tmp_path / "run")
    normalization = read(run.best).manifest.normalization
    assert normalization.mean == (1, 2, 3)
    assert "mean RGB" not in text


def test_training_stops_when_validation_has_stopped_improving(tmp_path: Path, data_folder: MakeFolder):
    recipe = replace(RECIPE, epochs=50, learning_rate=1e-30, patience=1, learning_rate_drops=1)
    _best, run, _text = run_training(recipe, data_folder(), tmp_path / "run")
    history = json.loads((run.folder / "run.json").read_text())["history"]
    assert [entry["learning_rate"] for entry in history] == pytest.approx([1e-30, 1e-30, 1e-31], rel=1e-6)


def test_a_loss_that_is_not_finite_stops_training_with_step_and_learning_rate(tmp_path: Path, data_folder: MakeFolder):
    recipe = replace(RECIPE, learning_rate=1e30)
    with pytest.raises(
        TrainingError, match=r"the loss became (nan|inf) at step 2, at learning rate 1e\+30.*--lr"
    ) as caught:
        run_training(recipe, data_folder(), tmp_path / "run")
    assert "no checkpoint was written yet" in str(caught.value)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "failed"
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_weights_that_diverge_in_the_last_step_of_an_epoch_are_not_saved(tmp_path: Path, data_folder: MakeFolder):
    recipe = replace(RECIPE, learning_rate=1e30, batch=16)
    with pytest.raises(TrainingError, match="the validation loss became nan after step 1"):
        run_training(recipe, data_folder(), tmp_path / "run")
    assert not (tmp_path / "run" / "last.safetensors").exists()


class Rising(Recipe):
    """A usual learning rate for an epoch, and then one that is far too high."""

    def next_learning_rate(self, accuracies: Sequence[float]) -> float | None:
        return 1e30 if accuracies else self.learning_rate


def test_after_divergence_the_last_good_checkpoint_is_named_and_complete(tmp_path: Path, data_folder: MakeFolder):
    recipe = Rising(**{name: getattr(RECIPE, name) for name in RECIPE.__dataclass_fields__})
    with pytest.raises(TrainingError, match=r"the last good checkpoint is .*last.safetensors, the best .*epoch 1"):
        run_training(recipe, data_folder(), tmp_path / "run")
    assert all(
        np.isfinite(weight.numpy()).all() for weight in read(tmp_path / "run" / "last.safetensors").weights.values()
    )


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_broken_image_stops_training_before_it_starts(tmp_path: Path, data_folder: MakeFolder, split: str):
    folder = data_folder()
    (folder / split / "light" / "02.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=f"{split}/light/02.png: not an image"):
        run_training(RECIPE, folder, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["history"] == []


def test_a_full_disk_is_an_output_error(tmp_path: Path, data_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch):
    def full(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match=r"state.safetensors: the disk is full"):
        run_training(RECIPE, data_folder(), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["metrics.jsonl", "run.json"]


def test_if_memory_runs_out_the_error_says_what_to_change(
    tmp_path: Path, data_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
):
    def full(*_arguments: object) -> None:
        raise RuntimeError(
            "[enforce fail] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
        )

    monkeypatch.setattr("train.learner.normalize", full)
    with pytest.raises(TrainingError, match="out of memory when computing 8 images at once; use --micro-batch 4"):
        run_training(RECIPE, data_folder(), tmp_path / "run")


@pytest.mark.slow
def test_the_recipe_for_digits_passes_95_percent(tmp_path: Path):
    write_digits(tmp_path / "data")
    best, _run, _text = run_training(DIGITS, tmp_path / "data", tmp_path / "run", workers=1)
    assert best.val.top1 >= 0.95
