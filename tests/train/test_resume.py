"""A training that was interrupted ends with the same weights as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from train.compute.execution import Execution
from train.data.folder import DataFolder, read_folder
from train.learner import Learner
from train.loop import train
from train.network.checkpoint import read
from train.recipe import Recipe
from train.runs.run import TrainingRun
from vgg_deploy.errors import CheckpointError
from vgg_deploy.network.manifest import TrainScale
from vgg_deploy.network.spec import NetworkSpec

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ROOT = Path(__file__).resolve().parents[2]
RECIPE = Recipe(
    NetworkSpec("A", 8, crop=32, fc_width=16, classes=2),
    train_scale=TrainScale(36, 40),
    batch=8,
    epochs=3,
    learning_rate=1e-3,
)
STEPS = 12  # 3 epochs of 32 images
EACH_STEP = Execution(save_minutes=0)


class Killed(BaseException):
    """Like kill -9: no handler for Exception runs."""


@pytest.fixture(scope="module")
def data(data_folder: Callable[..., Path]) -> DataFolder:
    return read_folder(data_folder(train=16))


def go(
    folder: Path, data: DataFolder, recipe: Recipe = RECIPE, execution: Execution = EACH_STEP, resumed: bool = False
) -> TrainingRun:
    with TrainingRun(folder, {}, resumed=resumed) as run:
        train(recipe, data, run, replace(execution, console=Console(file=StringIO())))
    return run


def weights(run: TrainingRun) -> list[dict[str, torch.Tensor]]:
    return [read(path).weights for path in (run.best, run.last)]


def same(first: TrainingRun, second: TrainingRun) -> bool:
    return all(
        torch.equal(one[name], other[name])
        for one, other in zip(weights(first), weights(second), strict=True)
        for name in one
    )


def metrics(run: TrainingRun) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl and the history, without durations."""
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    lines += json.loads((run.folder / "run.json").read_text())["history"]
    return [{name: value for name, value in line.items() if name not in ("seconds", "images_per_s")} for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(data: DataFolder, tmp_path_factory: pytest.TempPathFactory, one_torch_thread: None) -> TrainingRun:
    return go(tmp_path_factory.mktemp("whole") / "run", data)


def killed_in_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Kills the process in its step `number`, counted from now."""
    step, steps = Learner.step, iter(range(1, number))

    def until_then(self: Learner, *arguments: Any) -> torch.Tensor:
        if next(steps, None) is None:
            raise Killed
        return step(self, *arguments)

    monkeypatch.setattr(Learner, "step", until_then)


def killed_before(monkeypatch: pytest.MonkeyPatch, function: str, number: int) -> None:
    """Kills the process before its call `number` of a function."""
    calls = iter(range(1, number))
    module, _, name = function.rpartition(".")
    real = getattr(sys.modules[module], name)

    def until_then(*arguments: Any, **options: Any) -> Any:
        if next(calls, None) is None:
            raise Killed
        return real(*arguments, **options)

    monkeypatch.setattr(function, until_then)


def dies(folder: Path, data: DataFolder, resumed: bool = False) -> None:
    with pytest.raises(Killed):
        go(folder, data, resumed=resumed)


@pytest.mark.parametrize("step", [1, 2, 4, 5, STEPS])
def test_killed_in_any_step_it_ends_with_the_same_weights_and_metrics(
    tmp_path: Path, data: DataFolder, uninterrupted: TrainingRun, monkeypatch: pytest.MonkeyPatch, step: int
):
    with monkeypatch.context() as patch:
        killed_in_step(patch, step)
        dies(tmp_path, data)
    assert (tmp_path / "state.safetensors").exists() is (step > 1)
    run = go(tmp_path, data, resumed=True)
    assert same(run, uninterrupted)
    assert metrics(run) == metrics(uninterrupted)
    assert not (tmp_path / "state.safetensors").exists()  # a finished run needs no state


@pytest.mark.parametrize(
    ("function", "number"),
    [
        ("train.runs.state.whole_file", 4),  # a state is half written
        ("train.loop.save", 1),  # the state of epoch 1 exists, but no checkpoint
        ("train.loop.save", 2),  # the best checkpoint exists, the last does not
        ("train.runs.run.whole_file", 2),  # both exist, but the record does not have the epoch
        ("train.loop.draw_curves", 1),  # the last epoch is done, but the run is not finished
    ],
)
def test_killed_between_two_files_it_ends_with_the_same_weights_and_metrics(
    tmp_path: Path,
    data: DataFolder,
    uninterrupted: TrainingRun,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    number: int,
):
    with monkeypatch.context() as patch:
        killed_before(patch, function, number)
        dies(tmp_path, data)
    run = go(tmp_path, data, resumed=True)
    assert same(run, uninterrupted)
    assert metrics(run) == metrics(uninterrupted)


def test_killed_several_times_it_ends_with_the_same_weights(
    tmp_path: Path, data: DataFolder, uninterrupted: TrainingRun, monkeypatch: pytest.MonkeyPatch
):
    for attempt in range(4):
        with monkeypatch.context() as patch:
            killed_in_step(patch, 3)
            dies(tmp_path, data, resumed=attempt > 0)
    assert same(go(tmp_path, data, resumed=True), uninterrupted)


def test_the_interval_of_saves_does_not_change_the_weights(
    tmp_path: Path, data: DataFolder, uninterrupted: TrainingRun
):
    assert same(go(tmp_path, data, execution=Execution()), uninterrupted)


def test_without_its_momentum_it_would_end_with_other_weights(
    tmp_path: Path, data: DataFolder, uninterrupted: TrainingRun, monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as patch:
        killed_in_step(patch, 7)
        dies(tmp_path, data)
    monkeypatch.setattr(Learner, "restore", lambda self, momentum: None)
    assert not same(go(tmp_path, data, resumed=True), uninterrupted)


def test_partial_files_of_a_killed_run_are_removed(tmp_path: Path, data: DataFolder):
    recipe = replace(RECIPE, epochs=1)
    (tmp_path / ".0123.partial").write_bytes(b"half")
    go(tmp_path, data, recipe, resumed=True)
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_state_is_named_with_what_to_do(tmp_path: Path, data: DataFolder):
    (tmp_path / "state.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"state\.safetensors cannot be read.*delete it to start this run again"):
        go(tmp_path, data, resumed=True)


@pytest.mark.slow
def test_killed_by_a_signal_the_same_command_reaches_the_same_weights(tmp_path: Path, data_folder: Callable[..., Path]):
    arguments = (
        f"-m train --data {data_folder(train=16)} --arch A --width-divisor 8 --fc-width 16 --crop 32 --batch 8 "
        "--epochs 8 --patience 8 --lr 0.001 --workers 1 --device cpu --save-minutes 0"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *arguments.split()]
    for name, kills in (("whole", 0), ("killed", 2)):
        (tmp_path / name).mkdir()
        for attempt in range(kills + 1):
            process = subprocess.Popen(
                command, cwd=tmp_path / name, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            if attempt < kills:
                deadline, before = time.monotonic() + 60, epochs_in(tmp_path / name)
                while (
                    epochs_in(tmp_path / name) < before + 2 and process.poll() is None and time.monotonic() < deadline
                ):
                    time.sleep(0.01)
                process.send_signal(signal.SIGKILL)
            _out, err = process.communicate(timeout=120)
            assert process.returncode == (-signal.SIGKILL if attempt < kills else 0), err
            assert ("resumes the unfinished run in runs/" in err) is (attempt > 0)
    [whole], [killed] = (list((tmp_path / name).glob("runs/vgg11-*")) for name in ("whole", "killed"))
    for name in ("best.safetensors", "last.safetensors"):
        first, second = read(whole / name).weights, read(killed / name).weights
        assert all(torch.equal(first[layer], second[layer]) for layer in first)


def epochs_in(folder: Path) -> int:
    return sum(path.read_text().count('"val"') for path in folder.glob("runs/vgg11-*/metrics.jsonl"))
