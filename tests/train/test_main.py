from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from train.network.checkpoint import read
from train.runs.finished import newest_finished
from vgg_deploy.network.manifest import TrainScale

pytestmark = pytest.mark.usefixtures("one_torch_thread")

ROOT = Path(__file__).resolve().parents[2]
SMALL = "--arch A --width-divisor 8 --fc-width 16 --crop 32 --batch 8 --epochs 1 --lr 0.001 --workers 0 --device cpu"


RunCommand = Callable[..., tuple[int, str, str]]
MakeFolder = Callable[..., Path]


def test_without_data_the_error_shows_a_data_folder(run: RunCommand):
    code, out, err = run("--arch", "A")
    assert code == 2
    assert out == ""
    assert "DIR/train/cat/001.jpg" in err
    assert "--data digits" in err


def test_training_writes_a_checkpoint_and_prints_its_path_and_accuracy(run: RunCommand, data_folder: MakeFolder):
    code, out, _err = run("--data", data_folder(), SMALL)
    assert code == 0
    best = newest_finished(Path("runs")).checkpoint
    assert re.fullmatch(
        rf"{best}: epoch 1, top-1 accuracy [\d.]+% \(error [\d.]+%\), top-5 accuracy 100.00% \(error 0.00%\)\n", out
    )
    assert re.fullmatch(r"vgg11-\d{8}-\d{6}", best.parent.name)


def test_options_replace_values_of_the_recipe(run: RunCommand, data_folder: MakeFolder):
    flags = "--train-scale 40,50 --no-mirror --init gaussian --mean 1,2,3 --seed 7 --patience 4"
    code, _out, _err = run("--data", data_folder(), SMALL, flags, "--out", "here")
    assert code == 0
    manifest = read(Path("here/best.safetensors")).manifest
    assert manifest.spec.fc_width == 16
    assert manifest.train_scale == TrainScale(40, 50)
    assert not manifest.mirror
    assert manifest.normalization.mean == (1, 2, 3)
    recipe = json.loads(Path("here/run.json").read_text())["recipe"]
    assert (recipe["initialisation"], recipe["seed"], recipe["patience"]) == ("gaussian", 7, 4)
    assert (recipe["momentum"], recipe["weight_decay"], recipe["dropout"]) == (0.9, 5e-4, 0.5)


def test_s_is_in_proportion_to_the_crop_by_default(run: RunCommand, data_folder: MakeFolder):
    assert run("--data", data_folder(), SMALL, "--out", "here")[0] == 0
    assert read(Path("here/best.safetensors")).manifest.train_scale == TrainScale(36, 36)


def test_the_digits_are_written_once_and_have_their_own_recipe(run: RunCommand):
    small = "--crop 32 --width-divisor 64 --fc-width 4 --batch 256 --epochs 1 --workers 0 --device cpu"
    code, out, _err = run("--data", "digits", small)
    assert code == 0
    assert "vgg11-digits-" in out
    image = next(Path("runs/digits-data/val").glob("*/*.png"))
    written = image.stat().st_mtime_ns
    assert run("--data", "digits", small)[0] == 0
    assert image.stat().st_mtime_ns == written
    best = newest_finished(Path("runs")).checkpoint
    assert not read(best).manifest.mirror


def test_a_folder_named_digits_is_mentioned_when_the_built_in_digits_are_used(run: RunCommand):
    Path("digits").mkdir()
    Path("runs/digits-data").mkdir(parents=True)
    _code, _out, err = run("--data", "digits")
    assert "to use the folder of that name, give --data ./digits" in err


def test_a_network_that_learned_nothing_gets_a_warning(run: RunCommand, data_folder: MakeFolder):
    code, _out, err = run("--data", data_folder(), SMALL, "--lr", "1e-30", "--out", "here")
    assert code == 0
    assert "this network learned nothing" in err
    assert "50.00%" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--batch 0", "batch is 0"),
        ("--crop 100", "crop is 100"),
        ("--width-divisor 0", "width_divisor is 0"),
        ("--train-scale 300,256", "S is [300, 256]"),
        ("--mean 1,2", "R,G,B"),
    ],
)
def test_a_value_out_of_range_is_refused_before_anything_is_written(
    run: RunCommand, data_folder: MakeFolder, flags: str, message: str
):
    code, out, err = run("--data", data_folder(), flags)
    assert code == 2
    assert out == ""
    assert message in err
    assert not Path("runs").exists()


def test_a_missing_folder_is_refused_before_weights_are_downloaded(run: RunCommand, monkeypatch: pytest.MonkeyPatch):
    def download(_configuration: str) -> Path:
        raise AssertionError("the weights were asked for first")

    monkeypatch.setattr("train.network.pretrained.cached", download)
    code, _out, err = run("--data nowhere --weights imagenet")
    assert code == 2
    assert err.startswith("Error: nowhere: no such folder")


def test_a_missing_folder_is_refused_in_one_line(run: RunCommand):
    code, _out, err = run("--data", "nowhere", "--arch", "A")
    assert code == 2
    assert err.startswith("Error: nowhere: no such folder")
    assert err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_broken_image_is_named_and_the_exit_code_is_1(run: RunCommand, data_folder: MakeFolder):
    folder = data_folder()
    (folder / "train" / "dark" / "03.png").write_bytes(b"")
    code, out, err = run("--data", folder, SMALL)
    assert (code, out) == (1, "")
    assert f"Error: {folder}/train/dark/03.png: the file is empty" in err


@pytest.mark.slow
def test_ctrl_c_ends_training_and_leaves_complete_files(tmp_path: Path, data_folder: MakeFolder):
    options = f"--data {data_folder()} {SMALL} --epochs 100000 --patience 100000 --workers 2 --out here"
    process = subprocess.Popen(
        [sys.executable, "-m", "train", *options.split()],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    last = tmp_path / "here" / "last.safetensors"
    deadline = time.monotonic() + 60
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers too
    _out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "give the same command again to continue the run in here" in err
    assert err.endswith("Interrupted.\n")
    assert "Traceback" not in err
    assert json.loads((tmp_path / "here" / "run.json").read_text())["status"] == "interrupted"
    read(last)
    names = ["best.safetensors", "last.safetensors", "metrics.jsonl", "recipe.toml", "run.json", "state.safetensors"]
    assert sorted(path.name for path in last.parent.iterdir()) == names
