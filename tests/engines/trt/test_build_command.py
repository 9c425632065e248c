"""vgg-deploy build: its output, exit codes, Ctrl-C, a full disk, and the memory that large networks need."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vgg_deploy.artifacts.plan import read_plan
from vgg_deploy.cli.phases import phase_bars
from vgg_deploy.network.manifest import TrainScale

pytestmark = pytest.mark.usefixtures("rtx", "without_gpu")

Command = Callable[..., Any]
ROOT = Path(__file__).parents[3]
MAIN = "from vgg_deploy.cli import main; main()"


def test_the_plan_its_precision_and_its_profiles_are_printed(
    model: Callable[..., Path], vgg_deploy_command: Command, tmp_path: Path
) -> None:
    done = vgg_deploy_command("build", str(model(half=True)), "--scales", "64,96", "--max-batch", "4")
    assert done.code == 0, done.err
    first, *rest = done.out.splitlines()
    assert re.fullmatch(
        r".*model\.plan: tensorrt-rtx [\d.]+ for compute capability 8\.0 and later, except 9\.0, "
        r"\d+\.\d MB, built in \d+\.\d s",
        first,
    )
    assert rest == [
        "8/8 convolutions FP16, fc6-fc8 FP16, as the parsed network declares",
        "takes Q=64: 1..4 x 64..128 x 64..128 x 3",
        "takes Q=96: 1..4 x 96..192 x 96..192 x 3",
    ]
    assert done.err == ""


def test_options_reach_the_plan(model: Callable[..., Path], vgg_deploy_command: Command, tmp_path: Path) -> None:
    arguments = [
        "--scales",
        "64,96",
        "--max-batch",
        "3",
        "--max-aspect",
        "1.5",
        "--one-profile",
        "--workspace",
        "512MiB",
    ]
    plan = tmp_path / "new" / "x.engine"
    done = vgg_deploy_command("build", str(model()), "-o", str(plan), *arguments, "--compute-capability", "8.9, 12.0")
    assert done.code == 0, done.err
    assert "for compute capability 8.9, 12.0, " in done.out
    made = read_plan(plan)
    assert made.compute_capabilities == ("8.9", "12.0")
    (profile,) = made.profiles
    assert profile.maximum == (3, 144, 144)
    for word in arguments:
        assert word in made.command.split()


def test_notices_go_to_stderr(model: Callable[..., Path], vgg_deploy_command: Command) -> None:
    done = vgg_deploy_command("build", str(model(int8=True, manifest={"train_scale": TrainScale(72, 72)})))
    assert done.code == 0, done.err
    assert done.err.count("\n") == 2
    assert "the default Q=63 is below the network's crop of 64; Q=64,72,81 are averaged instead" in done.err
    assert "may not be faster than FP16" in done.err
    assert "8/8 convolutions INT8, fc6-fc8 INT8" in done.out


def test_verbose_shows_tensorrt_s_log_on_stderr(model: Callable[..., Path], vgg_deploy_command: Command) -> None:
    path = str(model())
    quiet, loud = (vgg_deploy_command("build", path, "--scales", "64", *word) for word in ((), ("--verbose",)))
    assert quiet.err == ""
    assert loud.err.count("[verbose] ") > 50
    assert loud.out.splitlines()[1:] == quiet.out.splitlines()[1:]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--scales", "32"), 2, "scale 32 is below the network's crop of 64"),
        (("--labels", "absent.txt"), 2, "cannot read the labels file absent.txt"),
        (("--workspace", "1KiB"), 1, "failed to build"),
        (("-o", "model.onnx"), 2, "would overwrite a model or its manifest"),
    ],
)
def test_a_failed_build_is_one_line_and_leaves_no_file(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    model: Callable[..., Path],
    vgg_deploy_command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = model()
    monkeypatch.chdir(tmp_path)
    done = vgg_deploy_command("build", path.name, *arguments)
    assert (done.code, done.out) == (code, "")
    error = done.err.splitlines()[-1]
    assert error.startswith("Error: ")
    assert message in error
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


def test_one_finding_is_one_line_and_several_are_listed_above_it(
    foreign: Any, vgg_deploy_command: Command, tmp_path: Path
) -> None:
    arguments = ("--scales", "32", "--labels", str(tmp_path / "labels.txt"))
    foreign.insert("Identity", "raw", before="cast")
    path = str(foreign.save(tmp_path))
    done = vgg_deploy_command("build", path, *arguments)
    assert done.code == 1
    assert done.err == (
        f"Error: {path} cannot become a plan: uint8 used directly at raw; TensorRT accepts only Cast on it: "
        "cast it to float first\n"
    )
    foreign.insert("Det", "determinant", before="scores")
    done = vgg_deploy_command("build", str(foreign.save(tmp_path)), *arguments)
    assert done.code == 1
    findings = done.err.splitlines()
    assert findings[-1] == f"Error: {path} cannot become a plan, for the 2 reasons above"
    assert [finding[:13] for finding in findings[:-1]] == ["uint8 used di", "operator Det "]


def test_a_full_disk_is_one_line_and_leaves_nothing(
    model: Callable[..., Path], vgg_deploy_command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = model()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    done = vgg_deploy_command("build", str(path), "--scales", "64")
    assert (done.code, done.err) == (1, f"Error: cannot write {tmp_path / 'model.plan'}: the disk is full\n")
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are other ones there")
@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_ctrl_c_ends_the_command_cleanly(delay: float, model: Callable[..., Path], tmp_path: Path) -> None:
    path = model("E", spec={"width_divisor": 4, "fc_width": 512})
    command = [sys.executable, "-c", MAIN, "build", str(path), "--scales", "64,96,128,160", "--verbose"]
    with subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        lines = iter(running.stderr.readline, "")
        assert any("Cloning network graph" in line or "Original" in line for line in lines)  # the build has begun
        time.sleep(delay)
        running.send_signal(signal.SIGINT)
        rest = running.stderr.read()
        code = running.wait(timeout=60)
    assert code == 130, rest
    assert rest.endswith("Interrupted.\n")
    assert "Traceback" not in rest
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


def test_bars_are_shown_for_phases_within_phases(capsys: pytest.CaptureFixture[str]) -> None:
    with phase_bars(shown=True) as phases:
        phases.begin("outer", None, 2)
        phases.begin("inner", "outer", 3)
        phases.step("inner")
        phases.end("inner")
        phases.step("outer")
        phases.step("never begun")
        phases.end("never begun")
        phases.end("outer")
    written = capsys.readouterr()
    assert written.out == ""
    with phase_bars(shown=False) as phases:
        assert phases is None


MEASURED_BUILD = """
import re, sys, time
from pathlib import Path
began = time.perf_counter()
from engines.trt.build import build
made = build(sys.argv[1])
# Not ru_maxrss, which starts with the value of the parent process.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
print(time.perf_counter() - began, peak, made.path.stat().st_size)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured by Linux's /proc")
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("half", [False, True])
def test_vgg16_in_full_width_builds_within_the_memory_of_a_small_machine(
    half: bool, int8: bool, model: Callable[..., Path]
) -> None:
    full = {"width_divisor": 1, "crop": 224, "fc_width": 4096, "classes": 1000}
    path = model("D", half=half, int8=int8, spec=full)
    command = [sys.executable, "-c", MEASURED_BUILD, str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=600)
    seconds, peak, size = map(float, done.stdout.split())
    print(f"VGG-16, half={half}, int8={int8}: {seconds:.1f} s, peak {peak / 1e6:,.0f} MB, plan {size / 1e6:,.0f} MB")
    assert peak < 2.5e9
    plan = read_plan(path.with_suffix(".plan"))
    assert set(plan.layers.values()) == {"int8" if int8 else "float16" if half else "float32"}
