"""Trainings that build on each other, and resume after an interruption, through the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from train.data.digits import write_digits
from train.learner import Learner
from train.network.checkpoint import read
from train.runs.finished import newest_finished
from vgg_deploy.errors import TrainingError
from vgg_deploy.network.manifest import TrainScale

pytestmark = pytest.mark.usefixtures("one_torch_thread")

RunCommand = Callable[..., tuple[int, str, str]]
MakeFolder = Callable[..., Path]
NARROW = "--width-divisor 16 --fc-width 16 --crop 32 --batch 8 --epochs 1 --lr 0.001 --workers 0 --device cpu"


def folders(beginning: str = "vgg") -> list[Path]:
    return sorted(Path("runs").glob(f"{beginning}*"))


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return content


@pytest.fixture
def every_network_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """One epoch on a few images teaches nothing. This is for tests of what follows after a training that did."""
    for module in ("train.campaign", "train.trained_a"):
        monkeypatch.setattr(f"{module}.beats_chance", lambda *_arguments: True)


@pytest.fixture
def failing_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`failing_step(5)`: the fifth step from now on fails. `failing_step(0)`: no step fails."""
    step = Learner.step

    def make(number: int) -> None:
        steps = iter(range(1, number))

        def until_then(self: Learner, *arguments: Any) -> torch.Tensor:
            if number and next(steps, None) is None:
                raise TrainingError("the power failed")
            return step(self, *arguments)

        monkeypatch.setattr(Learner, "step", until_then)

    return make


FailingStep = Callable[[int], None]


# Starting from A


@pytest.mark.usefixtures("every_network_learns")
def test_a_deeper_network_trains_an_a_first_in_a_separate_run(run: RunCommand, data_folder: MakeFolder):
    code, out, err = run("--arch B --data", data_folder(), NARROW)
    assert code == 0, err
    [a], [b] = folders("vgg11-"), folders("vgg13-")
    assert "runs/ has no finished A to take for these images and sizes, so an A is trained first" in err
    assert out.startswith(f"{b}/best.safetensors")
    assert record(b)["recipe"]["initialisation"] == f"a:{a}/best.safetensors"
    assert "conv1_1, conv2_1, conv3_1, conv3_2, fc6, fc7, fc8 from best.safetensors; random: conv1_2" in err
    assert newest_finished(Path("runs")).checkpoint == b / "best.safetensors"


@pytest.mark.usefixtures("every_network_learns")
def test_a_finished_a_of_the_same_classes_and_sizes_is_used(run: RunCommand, data_folder: MakeFolder):
    folder = data_folder()
    assert run("--arch A --data", folder, NARROW, "--seed 5")[0] == 0
    [a] = folders("vgg11-")
    code, _out, err = run("--arch B --data", folder, NARROW)
    assert code == 0
    assert f"starts from {a}/best.safetensors: top-1 " in err
    assert "the only A trained from random weights on these images" in err
    assert folders("vgg11-") == [a]


@pytest.mark.usefixtures("every_network_learns")
@pytest.mark.parametrize("other", ["--fc-width 8", "--crop 64"])
def test_an_a_of_other_sizes_is_not_used(run: RunCommand, data_folder: MakeFolder, other: str):
    folder = data_folder()
    assert run("--arch A --data", folder, NARROW, other)[0] == 0
    assert run("--arch B --data", folder, NARROW)[0] == 0
    assert len(folders("vgg11-")) == 2


@pytest.mark.usefixtures("every_network_learns")
def test_an_a_of_other_classes_is_not_used(run: RunCommand, data_folder: MakeFolder):
    folder = data_folder()
    assert run("--arch A --data", folder, NARROW)[0] == 0
    for split in ("train", "val"):
        (folder / split / "light").rename(folder / split / "bright")
    assert run("--arch B --data", folder, NARROW)[0] == 0
    assert len(folders("vgg11-")) == 2


def set_accuracy(folder: Path, top1: float) -> None:
    """Changes the accuracy that the record of a run states."""
    content = record(folder)
    for epoch in content["history"]:
        epoch["val"]["top1"] = top1
    (folder / "run.json").write_text(json.dumps(content))


def test_the_best_a_is_taken_and_not_the_newest(run: RunCommand, data_folder: MakeFolder):
    folder = data_folder(val=20)
    for seed, top1 in ((1, 0.75), (2, 0.90), (3, 0.50), (4, 0.85)):  # of 40 images, half of which are one class
        assert run("--arch A --data", folder, NARROW, f"--seed {seed} --out runs/a{seed}")[0] == 0
        set_accuracy(Path(f"runs/a{seed}"), top1)
    code, _out, err = run("--arch B --data", folder, NARROW, "--out b")
    assert code == 0, err
    assert (
        "starts from runs/a2/best.safetensors: top-1 90.00%, the best of 3 A's trained from random weights on these "
        "images\n" in err
    )
    assert "passed over as A: runs/a3: top-1 50.00%, no better than guessing\n" in err
    assert record(Path("b"))["recipe"]["initialisation"] == "a:runs/a2/best.safetensors"


def test_an_a_that_was_fine_tuned_or_saw_other_images_is_passed_over(run: RunCommand, data_folder: MakeFolder):
    folder, others = data_folder(), data_folder(val=5)
    assert run("--arch A --data", folder, NARROW, "--out runs/scratch")[0] == 0
    fine_tuned = "--weights runs/scratch/best.safetensors --epochs 1 --batch 8 --workers 0 --device cpu"
    assert run("--data", folder, fine_tuned, "--out runs/tuned")[0] == 0
    assert run("--arch A --data", others, NARROW, "--out runs/others")[0] == 0
    assert run("--arch A --data", folder, NARROW, "--seed 2 --out runs/old")[0] == 0
    old = record(Path("runs/old"))
    del old["fingerprint"]
    Path("runs/old/run.json").write_text(json.dumps(old))
    set_accuracy(Path("runs/scratch"), 1.0)
    for name in ("tuned", "others"):
        set_accuracy(Path("runs") / name, 1.0)
    code, _out, err = run("--arch B --data", folder, NARROW, "--out b")
    assert code == 0, err
    assert "passed over as A: runs/tuned: fine-tuned, not trained from random weights\n" in err
    assert "passed over as A: runs/others: trained on other images\n" in err
    assert "passed over as A: runs/old: its run.json does not state its images\n" in err
    assert "starts from runs/scratch/best.safetensors: top-1 100.00%, the only A" in err


def test_an_a_that_learned_nothing_ends_the_training_before_the_deeper_network(
    run: RunCommand, data_folder: MakeFolder
):
    folder = data_folder()
    for _attempt in range(2):  # the second finds the A that the first trained
        code, out, err = run("--arch B --data", folder, NARROW, "--lr 1e-30")
        assert (code, out) == (1, "")
        assert "learned nothing, so configuration B does not start from it: top-1 50.00%" in err.splitlines()[-1]
        assert "--init glorot" in err.splitlines()[-1]
    assert folders("vgg13-") == []
    assert len(folders("vgg11-")) == 1


def test_a_stage_that_learned_nothing_ends_the_schedule(run: RunCommand, data_folder: MakeFolder):
    folder = data_folder(size=(80, 90))
    code, _out, err = run("--arch A --schedule paper --data", folder, NARROW, "--lr 1e-30")
    assert code == 1
    assert "learned nothing, so stage 2 does not start from it" in err.splitlines()[-1]


@pytest.mark.parametrize("how", ["gaussian", "glorot"])
def test_a_deeper_network_starts_from_random_weights_if_asked(run: RunCommand, data_folder: MakeFolder, how: str):
    assert run("--arch B --data", data_folder(), NARROW, f"--init {how}")[0] == 0
    assert folders("vgg11-") == []
    assert record(folders()[0])["recipe"]["initialisation"] == how


def test_an_a_that_the_user_names_is_used(run: RunCommand, data_folder: MakeFolder):
    folder = data_folder()
    assert run("--arch A --data", folder, NARROW, "--out here")[0] == 0
    assert run("--arch B --data", folder, NARROW, "--init a:here/best.safetensors")[0] == 0
    assert len(folders()) == 1


@pytest.mark.slow
def test_a_narrow_e_from_gaussian_stays_at_chance_and_from_a_trained_a_learns(run: RunCommand):
    """docs/train.md has the figures of whole trainings."""
    write_digits(Path("runs/digits-data"))
    assert run("--arch A --data digits --workers 1 --epochs 5")[0] == 0
    best = {}
    for name, options in {"gaussian": "--init gaussian --epochs 2", "from-a": "--epochs 3"}.items():
        code, _out, err = run("--arch E --data digits --workers 1", options, "--out", name)
        assert code == 0, err
        best[name] = max(epoch["val"]["top1"] for epoch in record(Path(name))["history"])
    assert best["gaussian"] < 0.15
    assert best["from-a"] > 0.4


# Resuming


def test_the_same_command_resumes_its_unfinished_run(
    run: RunCommand, data_folder: MakeFolder, failing_step: FailingStep
):
    folder = data_folder()
    failing_step(2)
    code, _out, err = run("--arch A --data", folder, NARROW, "--save-minutes 0")
    assert (code, err.splitlines()[-1]) == (1, "Error: the power failed")
    failing_step(0)
    code, out, err = run("--arch A --data", folder, NARROW)  # --save-minutes is not part of the recipe
    assert code == 0
    [only] = folders()
    assert f"resumes the unfinished run in {only}: after batch 1 of epoch 1" in err
    assert out.startswith(f"{only}/best.safetensors")
    assert record(only)["status"] == "finished"
    assert len(record(only)["resumed"]) == 1
    assert "reason" not in record(only)


def test_another_recipe_or_other_images_are_another_run(
    run: RunCommand, data_folder: MakeFolder, failing_step: FailingStep
):
    folder = data_folder()
    failing_step(1)
    assert run("--arch A --data", folder, NARROW)[0] == 1
    failing_step(0)
    assert run("--arch A --data", folder, NARROW, "--lr 0.002")[0] == 0
    assert len(folders()) == 2
    (folder / "train" / "dark" / "00.png").unlink()
    assert run("--arch A --data", folder, NARROW)[0] == 0
    assert len(folders()) == 3


def test_the_folder_of_an_unfinished_run_needs_the_same_recipe(
    run: RunCommand, data_folder: MakeFolder, failing_step: FailingStep
):
    folder = data_folder()
    failing_step(2)
    assert run("--arch A --data", folder, NARROW, "--out here --save-minutes 0")[0] == 1
    failing_step(0)
    code, _out, err = run("--arch A --data", folder, NARROW, "--out here --lr 0.002 --seed 3")
    assert code == 2
    assert "another recipe or data (learning_rate is 0.001 there and 0.002 here; seed is 0 there and 3 here)" in err
    code, _out, err = run("--arch A --data", folder, NARROW, "--out here")
    assert code == 0
    assert "resumes the unfinished run in here" in err


def test_a_run_that_another_process_trains_is_refused(
    run: RunCommand, data_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
):
    def taken(_folder: Path) -> None:
        raise BlockingIOError

    monkeypatch.setattr("train.runs.run.Lock", taken)
    code, _out, err = run("--arch A --data", data_folder(), NARROW, "--out here")
    assert code == 2
    assert "another process is training in here" in err


# The schedule


@pytest.mark.usefixtures("every_network_learns")
def test_the_schedule_is_an_a_and_three_stages_each_from_the_one_before(run: RunCommand, data_folder: MakeFolder):
    code, out, err = run("--arch B --schedule paper --data", data_folder(size=(80, 90)), NARROW)
    assert code == 0, err
    first, second, third = (folders(f"vgg13-s{scale}-2")[0] for scale in ("36", "54", "36-73"))  # 256 for a crop of 224
    [a] = folders("vgg11-")
    starts = [record(folder)["recipe"]["initialisation"] for folder in (first, second, third)]
    assert starts == [f"a:{a}/best.safetensors", f"{first}/best.safetensors", f"{second}/best.safetensors"]
    rates = [record(folder)["recipe"]["learning_rate"] for folder in (a, first, second, third)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4])
    scales = [read(folder / "best.safetensors").manifest.train_scale for folder in (a, first, second, third)]
    assert scales == [TrainScale(36, 36), TrainScale(36, 36), TrainScale(54, 54), TrainScale(36, 73)]
    means = {read(folder / "best.safetensors").manifest.normalization for folder in (a, first, second, third)}
    assert len(means) == 1
    assert out.startswith(f"{third}/best.safetensors")
    assert newest_finished(Path("runs")).checkpoint == third / "best.safetensors"
    assert "stage 3 of 3: S = [36, 73]" in err


@pytest.mark.usefixtures("every_network_learns")
@pytest.mark.parametrize("step", [2, 4, 8])
def test_the_schedule_resumes_in_the_stage_where_it_stopped(
    run: RunCommand, data_folder: MakeFolder, failing_step: FailingStep, step: int
):
    arguments = ("--arch B --schedule paper --data", data_folder(size=(80, 90)), NARROW, "--save-minutes 0")
    failing_step(step)  # two steps an epoch: in A, and in each of the stages
    assert run(*arguments)[0] == 1
    failing_step(0)
    code, _out, err = run(*arguments)
    assert code == 0, err
    assert len(folders()) == 4
    assert [len(record(folder).get("resumed", [])) for folder in folders()].count(1) == 1
    code, out, err = run(*arguments)
    assert code == 0
    assert len(folders()) == 4
    assert "is already finished: top-1" in err
    assert "vgg13-s36-73" in out
