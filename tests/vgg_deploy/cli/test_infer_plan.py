"""`infer` and `doctor` with plans: on a GPU that Python imitates, and real plans without a GPU."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.trt import check
from engines.trt.build import build
from engines.trt.build_options import BuildOptions
from tests.engines.trt.fake_gpu import answer
from tests.engines.trt.fake_machine import Machine
from vgg_deploy.artifacts.plan import sidecar_of
from vgg_deploy.artifacts.verdict_record import write_verdict
from vgg_deploy.files import Source
from vgg_deploy.network.verdict import Verdict
from vgg_deploy.views.images import decode

TINY = Path(__file__).parents[2] / "data" / "tiny.onnx"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images whose short side is 40 and one that is far wider than a plan takes."""
    random, folder = np.random.default_rng(1), tmp_path / "photos"
    folder.mkdir()
    for name, size in {"a": (40, 40), "b": (40, 60), "c": (60, 40), "wide": (40, 100)}.items():
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def records(text: str) -> dict[str, dict[str, Any]]:
    return {Path(record["path"]).stem: record for record in map(json.loads, text.splitlines())}


# ---- on a GPU that Python imitates ----


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    (tmp_path / "plans").mkdir()
    made = Machine(tmp_path / "plans", monkeypatch)
    made.describe()
    return made


@pytest.fixture
def infer(vgg_deploy_command: Callable[..., Any], photos: Path, machine: Machine) -> Callable[..., Any]:
    def run(*arguments: str) -> Any:
        return vgg_deploy_command("infer", str(photos), "--engine", str(machine.path), "--json", "-", *arguments)

    return run


def test_a_plan_is_used_at_its_own_scales_and_an_image_that_does_not_fit_fails_alone(
    infer: Callable[..., Any], photos: Path
) -> None:
    finished = infer("--no-flip", "--top", "5")
    assert finished.code == 1
    results = records(finished.out)
    assert "multiscale: whole image at Q=32,64; tensorrt-rtx 1.7.1 on cuda:0, 1/1 convolutions INT8" in finished.err
    assert [name for name, record in results.items() if "error" in record] == ["wide"]
    (line,) = [line for line in finished.err.splitlines() if line.startswith("failed: ")]
    assert "a view of 80x32 pixels does not fit: a batch of 1 x 32 x 80 x 3 is in no profile of vgg11.plan" in line
    assert "vgg11.plan, which takes Q=32: " in line
    assert line.endswith("--scales 32,64 --max-batch 4 --backend tensorrt-rtx --max-aspect 2.5")
    assert "3 images classified, 1 failed" in finished.err


def test_answers_of_a_plan_are_those_of_its_network(infer: Callable[..., Any], photos: Path) -> None:
    finished = infer("--protocol", "dense", "--scales", "40", "--no-flip", "--top", "5")
    for name, record in records(finished.out).items():
        if name == "wide":
            continue
        (expected,), _ = answer(decode(photos / f"{name}.png")[None])
        probabilities = {top["label"]: top["probability"] for top in record["top"]}
        assert list(probabilities) == [("ant", "bee", "cat", "dog", "eel")[index] for index in np.argsort(-expected)]
        np.testing.assert_allclose(sorted(probabilities.values()), np.sort(expected), atol=1e-5)


def test_a_scale_that_no_profile_takes_is_refused_before_any_work(
    infer: Callable[..., Any], machine: Machine, tmp_path: Path
) -> None:
    finished = infer("--scales", "32,300", "--csv", str(tmp_path / "out.csv"))
    assert finished.code == 2
    assert "protocol multiscale: whole image at Q=32,300, with mirrors: a view of 300x300 pixels" in finished.err
    assert "--max-batch 4 --max-aspect 2 --backend tensorrt-rtx --scales 32,64,300" in finished.err
    assert not (tmp_path / "out.csv").exists()
    assert machine.cuda.live == set()  # type: ignore[union-attr]


def test_notices_about_a_plan_are_printed_once(infer: Callable[..., Any], machine: Machine) -> None:
    machine.path.with_name("vgg11.plan.cache").write_bytes(b"rubbish")
    machine.trt.validity = (machine.trt.EngineValidity.SUBOPTIMAL, 0)
    finished = infer()
    lines = finished.err.splitlines()
    assert len([line for line in lines if "vgg11.plan.cache is not used: it is damaged" in line]) == 1
    assert len([line for line in lines if "may run slower than possible" in line]) == 1


def test_results_are_not_written_over_the_plans_manifest(infer: Callable[..., Any], machine: Machine) -> None:
    before = sidecar_of(machine.path).read_bytes()
    finished = infer("--csv", str(sidecar_of(machine.path)))
    assert finished.code == 2
    assert "would overwrite the input" in finished.err
    assert sidecar_of(machine.path).read_bytes() == before


def test_the_options_reach_cuda(infer: Callable[..., Any], machine: Machine) -> None:
    infer("--device", "cuda:2", "--cuda-api", "pycuda", "--runtime", "tensorrt-rtx")
    assert machine.asked == [("pycuda", 2, "rtx")]


def test_a_plan_that_is_trusted_runs_with_labels(infer: Callable[..., Any], machine: Machine, tmp_path: Path) -> None:
    sidecar_of(machine.path).unlink()
    (tmp_path / "labels.txt").write_text("one\ntwo\nthree\nfour\nfive\n")
    trust = ("--trust", "--labels", str(tmp_path / "labels.txt"))
    finished = infer(*trust)
    assert finished.code == 2
    assert "the model has no manifest, so its training scale S is unknown: give --scales" in finished.err
    finished = infer(*trust, "--scales", "40")
    assert "trusted without a manifest" in finished.err
    labels = [top["label"] for record in records(finished.out).values() for top in record.get("top", ())]
    assert len(labels) == 15
    assert set(labels) == {"one", "two", "three", "four", "five"}


def test_doctor_says_that_a_plan_can_run(vgg_deploy_command: Callable[..., Any], machine: Machine) -> None:
    finished = vgg_deploy_command("doctor", str(machine.path), "--device", "cuda:1")
    assert finished.code == 0, finished.out
    lines = finished.out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [*["ok"] * 7, "-"]
    assert lines[-2].startswith(f"-   verdict             never verified: vgg-deploy verify {machine.path}")
    assert lines[-1] == f"{machine.path} can run here"
    assert machine.asked == [("cuda-python", 1, "rtx")]


def test_doctor_shows_a_recorded_verdict(vgg_deploy_command: Callable[..., Any], machine: Machine) -> None:
    verdict = Verdict("2026-11-25", Source("best.safetensors", "ab" * 32), (1, 3), "tensorrt-rtx 1.7")
    write_verdict(machine.path, verdict)
    finished = vgg_deploy_command("doctor", str(machine.path))
    assert finished.code == 0, finished.out
    assert f"ok  verdict             {verdict}" in finished.out.splitlines()


# ---- real plans, without a GPU ----


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed (extra rtx)")
    folder = tmp_path_factory.mktemp("plans")
    shutil.copy(TINY, folder)
    return build(folder / "tiny.onnx", options=BuildOptions("tensorrt-rtx", (32, 64), max_batch=2)).path


@pytest.fixture
def plan(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A real plan beside its ONNX file and manifest, on a machine that shows no GPU."""
    monkeypatch.setattr(check, "compute_capability", lambda: None)
    for path in built.parent.iterdir():
        shutil.copy(path, tmp_path)
    return tmp_path / built.name


NO_GPU = "needs an NVIDIA GPU, and CUDA shows none here (no GPU, or no driver for it)"


def test_without_a_gpu_infer_names_the_onnx_file_and_its_command_works(
    plan: Path, photos: Path, vgg_deploy_command: Callable[..., Any]
) -> None:
    finished = vgg_deploy_command("infer", str(photos), "--engine", str(plan))
    assert finished.code == 1
    assert finished.out == ""
    command = f"vgg-deploy infer IMAGES --engine {plan.with_suffix('.onnx')}"
    assert finished.err == f"Error: {plan} {NO_GPU}: run the ONNX file beside it: {command}\n"
    arguments = command.replace("IMAGES", str(photos)).split()[1:]
    assert vgg_deploy_command(*arguments).code == 0


def test_without_a_gpu_doctor_checks_the_rest(plan: Path, vgg_deploy_command: Callable[..., Any]) -> None:
    finished = vgg_deploy_command("doctor", str(plan))
    assert finished.code == 1
    lines = finished.out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["ok", "ok", "no", "ok", "ok", "-", "-", "-"]
    assert f"no  GPU                 {plan} {NO_GPU}" in lines[2]
    assert lines[-1] == f"{plan} cannot run here"


@pytest.mark.parametrize("length", [0, 1000])
def test_a_plan_that_is_cut_off_is_one_line_in_both_commands(
    length: int, plan: Path, photos: Path, vgg_deploy_command: Callable[..., Any]
) -> None:
    plan.write_bytes(plan.read_bytes()[:length])
    reason = "is empty (0 bytes)" if length == 0 else "its SHA-256 differs): it was truncated"
    finished = vgg_deploy_command("infer", str(photos), "--engine", str(plan))
    assert finished.code == (1 if length == 0 else 2)
    assert len(finished.err.splitlines()) == 1
    assert reason in finished.err
    finished = vgg_deploy_command("doctor", str(plan))
    assert finished.code == 1
    assert reason in finished.out
    assert finished.err == ""


def test_doctor_names_a_version_that_is_not_installed(plan: Path, vgg_deploy_command: Callable[..., Any]) -> None:
    sidecar = json.loads(sidecar_of(plan).read_text())
    sidecar["version"] = "1.0.0"
    sidecar_of(plan).write_text(json.dumps(sidecar))
    finished = vgg_deploy_command("doctor", str(plan))
    (line,) = [line for line in finished.out.splitlines() if line.startswith("no  version")]
    assert "was built by tensorrt-rtx 1.0.0, but" in line
    assert "or build it again: vgg-deploy build " in line


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("none.plan",), "none.plan: no such plan"),
        (("none.safetensors",), "is a checkpoint; doctor takes an ONNX file or a plan (.plan, .engine)"),
        (("none.plan", "--device", "cpu"), "--device is 'cpu'. Plans run on NVIDIA GPUs"),
        ((str(TINY), "--device", "cpu"), "--device applies to plans"),
        ((str(TINY), "--cuda-api", "pycuda"), "--cuda-api applies to plans"),
    ],
)
def test_doctor_refuses_what_it_cannot_examine(
    arguments: tuple[str, ...], reason: str, vgg_deploy_command: Callable[..., Any]
) -> None:
    finished = vgg_deploy_command("doctor", *arguments)
    assert finished.code == 2
    assert reason in finished.err


def test_a_trusted_plan_without_a_gpu_is_refused(
    plan: Path, photos: Path, tmp_path: Path, vgg_deploy_command: Callable[..., Any]
) -> None:
    sidecar_of(plan).unlink()
    (tmp_path / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    finished = vgg_deploy_command("infer", str(photos), "--engine", str(plan))
    assert finished.code == 2
    assert "--trust, and --labels FILE" in finished.err
    trust = ("--trust", "--labels", str(tmp_path / "labels.txt"))
    finished = vgg_deploy_command("infer", str(photos), "--engine", str(plan), *trust)
    assert finished.code == 1
    assert finished.err.endswith(": run the ONNX file from which it was built\n")
