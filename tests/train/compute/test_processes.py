"""Several processes train as one: torchrun with two CPU processes (gloo)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not distributed.is_available() or sys.platform != "linux", reason="torchrun is tested on Linux"),
]

ROOT = Path(__file__).resolve().parents[3]
# 20 images in batches of 7, so that the last batch of an epoch has 6. Dropout and colour shifts are on.
RECIPE = (
    "--arch A --width-divisor 8 --fc-width 32 --crop 32 --train-scale 36,44 --batch 7 --lr 0.001 --workers 0 "
    "--device cpu"
)
# Float32 sums in another order differ by 1e-6 of a tensor's norm in a step. ReLUs near zero and momentum increase that.
# Another dropout mask or crop makes a difference a hundred times as large.
TOLERANCE = 1e-4

Torchrun = Callable[..., subprocess.Popen[str]]
Machines = Callable[..., tuple[subprocess.Popen[str], subprocess.Popen[str]]]


@pytest.fixture
def start(tmp_path: Path) -> Torchrun:
    """start(processes, *arguments) -> python -m train in an empty folder, by torchrun for several processes."""

    def start(processes: int, *arguments: object) -> subprocess.Popen[str]:
        split_arguments = [part for each in arguments for part in str(each).split()]
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *(torchrun if processes > 1 else []), "-m", "train", *split_arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return start


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    """machines(*arguments) -> python -m train on two machines with one process each, played by two empty folders."""

    def start(*arguments: object) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"--master-addr 127.0.0.1 --master-port {free.getsockname()[1]}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        started = []
        for rank, name in enumerate(("first", "second")):
            (tmp_path / name).mkdir(exist_ok=True)
            torchrun = f"-m torch.distributed.run --nnodes 2 --node-rank {rank} --nproc-per-node 1 {address} -m train"
            split_arguments = [part for each in (torchrun, *arguments) for part in str(each).split()]
            started.append(
                subprocess.Popen(
                    [sys.executable, *split_arguments],
                    cwd=tmp_path / name,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return started[0], started[1]

    return start


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=180)
    return process.returncode, out, err


def error_lines(err: str) -> list[str]:
    """Our lines about a failure. torchrun prints a report of its own after them."""
    return [line for line in err.splitlines() if line.startswith("Error: ")]


def difference(first: Path, second: Path) -> float:
    """The largest difference of a tensor's weights, as a fraction of the tensor's norm."""
    one, other = load_file(first / "last.safetensors"), load_file(second / "last.safetensors")
    return max(((one[name] - other[name]).norm() / one[name].norm()).item() for name in one)


def test_two_processes_give_the_same_weights_as_one(start: Torchrun, data_folder: Callable[..., Path], tmp_path: Path):
    folder = data_folder(train=10, val=3)
    epochs = "--epochs 2"
    runs = {
        "one": finished(start(1, "--data", folder, RECIPE, epochs, "--out one")),
        "two": finished(start(2, "--data", folder, RECIPE, epochs, "--out two --micro-batch 2")),
        "other": finished(start(1, "--data", folder, RECIPE, epochs, "--out other --seed 1")),
    }
    for code, _out, err in runs.values():
        assert code == 0, err
    assert difference(tmp_path / "one", tmp_path / "two") < TOLERANCE
    assert difference(tmp_path / "one", tmp_path / "other") > 100 * TOLERANCE
    histories = [json.loads((tmp_path / name / "run.json").read_text())["history"] for name in ("one", "two")]
    for alone, together in zip(*histories, strict=True):
        assert together["steps"] == alone["steps"]
        assert together["learning_rate"] == alone["learning_rate"]
        assert together["val"]["top1"] == pytest.approx(alone["val"]["top1"], abs=0.2)
        assert together["train"]["loss"] == pytest.approx(alone["train"]["loss"], rel=1e-4)
        assert together["val"]["loss"] == pytest.approx(alone["val"]["loss"], rel=1e-3)
    _code, out, err = runs["two"]
    assert out.count("top-1 accuracy") == 1  # only the first process prints it
    assert err.count("epoch  2  lr") == 1
    assert err.count("mean RGB") == 1
    assert "2 processes" in err


def test_a_failure_in_one_process_ends_all_with_one_line_that_names_its_rank(
    start: Torchrun, data_folder: Callable[..., Path], tmp_path: Path
):
    folder = data_folder(train=10, val=3)
    (folder / "val" / "light" / "00.png").write_bytes(b"no image")  # the fourth image: only the second process reads it
    code, out, err = finished(start(2, "--data", folder, RECIPE, "--out here"))
    assert code == 1
    assert out == ""
    [line] = error_lines(err)
    assert "val/light/00.png: not an image" in line
    assert line.endswith("(rank 1)")
    assert json.loads((tmp_path / "here" / "run.json").read_text())["status"] == "failed"


def test_if_all_processes_fail_the_first_reports_it(start: Torchrun, data_folder: Callable[..., Path]):
    folder = data_folder(train=10, val=3)
    code, _out, err = finished(start(2, "--data", folder, RECIPE.replace("0.001", "1e30"), "--out here"))
    assert code == 1
    [line] = error_lines(err)
    assert line.startswith("Error: training diverged: ")
    assert "at learning rate 1e+30" in line


def test_bad_use_is_reported_once(start: Torchrun):
    code, _out, err = finished(start(2, "--data nowhere --device cpu"))
    assert code != 0
    [line] = error_lines(err)
    assert line.startswith("Error: nowhere: no such folder")


def test_a_training_whose_torchrun_was_killed_resumes_from_its_last_step(
    start: Torchrun, data_folder: Callable[..., Path], tmp_path: Path
):
    folder = data_folder(train=10, val=3)
    arguments = ("--data", folder, RECIPE, "--epochs 40 --patience 40 --out here --save-minutes 0")
    process = start(2, *arguments)
    metrics, deadline = tmp_path / "here" / "metrics.jsonl", time.monotonic() + 90
    while (not metrics.exists() or metrics.read_text().count("val") < 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _code, _out, err = finished(process)  # returns after the processes that it left behind have ended too
    # The processes share stderr, so another process's text may follow in the same line.
    assert "Error: torchrun ended before its processes; the same command continues from the last checkpoint" in err
    code, out, err = finished(start(2, *arguments))
    assert code == 0, err
    assert "resumes the unfinished run in here: after" in err
    assert torch.isfinite(load_file(tmp_path / "here" / "last.safetensors")["fc8.weight"]).all()
    assert out.startswith("here/best.safetensors: epoch")


def test_two_machines_give_the_same_weights_as_one_and_only_the_first_writes(
    start: Torchrun, machines: Machines, data_folder: Callable[..., Path], tmp_path: Path
):
    arguments = ("--data", data_folder(train=10, val=3), RECIPE, "--epochs 2 --out here")
    (code, out, err), (their_code, their_out, _err) = (finished(each) for each in machines(*arguments))
    assert (code, their_code) == (0, 0), err
    assert "top-1 accuracy" in out
    assert their_out == ""
    assert list((tmp_path / "second").iterdir()) == []
    assert finished(start(1, *arguments))[0] == 0
    assert difference(tmp_path / "here", tmp_path / "first" / "here") < TOLERANCE


def test_each_machine_reports_why_training_ended(machines: Machines, data_folder: Callable[..., Path], tmp_path: Path):
    folder = data_folder(train=10, val=3)
    arguments = ("--data", folder, RECIPE, "--epochs 40 --patience 40 --out here")
    first, second = machines(*arguments)
    metrics, deadline = tmp_path / "first" / "here" / "metrics.jsonl", time.monotonic() + 90
    while (not metrics.exists() or metrics.read_text().count("val") < 2) and time.monotonic() < deadline:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    assert "Error: torchrun ended before its processes; the same command continues" in finished(first)[2]
    [line] = error_lines(finished(second)[2])
    assert line.startswith("Error: the first machine's torchrun ended before its processes; the same command continues")
    (folder / "val" / "light" / "00.png").write_bytes(b"no image")  # the fourth image: only the second process reads it
    for process in machines("--data", folder, RECIPE, "--out there"):
        [line] = error_lines(finished(process)[2])
        assert "val/light/00.png: not an image" in line
