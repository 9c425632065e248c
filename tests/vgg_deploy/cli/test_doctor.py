"""`vgg-deploy doctor`: what is installed, what can run here, and why the rest cannot."""

from __future__ import annotations

import importlib
import importlib.metadata
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

import engines
from engines.trt import availability
from engines.trt import backend as backends
from engines.trt.backend import Backend
from engines.trt.cuda import Gpu
from engines.trt.gpu import compute_capability
from vgg_deploy.artifacts.verdict_record import write_verdict
from vgg_deploy.errors import EngineError
from vgg_deploy.files import Source
from vgg_deploy.network.verdict import Verdict


def line_of(text: str, *words: str) -> list[str]:
    """The cells of the one line that begins with these words."""
    (line,) = [line for line in text.splitlines() if line.split()[: len(words)] == list(words)]
    return line.split()


@pytest.fixture
def doctor(vgg_deploy_command: Callable[..., Any]) -> Callable[[], str]:
    def run() -> str:
        finished = vgg_deploy_command("doctor")
        assert finished.code == 0, finished.err
        assert finished.err == ""
        text: str = finished.out
        return text

    return run


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`installed(name="1.0", other=None)`: versions of packages; None: not installed. Underscores are hyphens."""

    def pretend(**versions: str | None) -> None:
        wanted = {name.replace("_", "-"): version for name, version in versions.items()}
        real = importlib.metadata.version

        def version(package: str) -> str:
            if package not in wanted:
                return real(package)
            pretended = wanted[package]
            if pretended is None:
                raise importlib.metadata.PackageNotFoundError(package)
            return pretended

        monkeypatch.setattr(importlib.metadata, "version", version)

    return pretend


def test_packages_are_listed_with_their_versions_and_extras(
    doctor: Callable[[], str], installed: Callable[..., None]
) -> None:
    installed(openvino="2099.1", pycuda=None)
    text = doctor()
    assert line_of(text, "numpy") == ["numpy", importlib.metadata.version("numpy"), "base"]
    assert line_of(text, "openvino", "2099.1")[2] == "cpu"
    assert line_of(text, "pycuda") == ["pycuda", "-", "pycuda"]
    assert f"Python {sys.version_info.major}.{sys.version_info.minor}." in text


def test_a_runtime_that_can_run_says_so(doctor: Callable[[], str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    row = line_of(doctor(), "onnxruntime", "cpu")
    assert row[2] == "yes"
    assert row[-1] == onnxruntime.__version__


def test_a_runtime_that_is_not_installed_names_its_extra(
    doctor: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("onnxruntime", "openvino", "torch"):
        monkeypatch.setitem(sys.modules, module, None)
    text = doctor()
    for runtime, device, extra in (
        ("onnxruntime", "cpu", "cpu"),
        ("onnxruntime", "cuda", "gpu"),
        ("openvino", "cpu", "cpu"),
    ):
        row = " ".join(line_of(text, runtime, device))
        assert row == f"{runtime} {device} no not installed: pip install '.[{extra}]' in a clone of vgg_deploy"
    assert "no not installed: pip install '.[train]' in a clone of vgg_deploy" in " ".join(
        line_of(text, "torch", "(reference)")
    )


@pytest.mark.parametrize(
    "error", [ImportError("libopenvino.so:\n cannot open"), EngineError("libopenvino.so: cannot open")]
)
def test_a_runtime_that_does_not_load_says_why_on_its_line(
    doctor: Callable[[], str], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    real = importlib.import_module

    def broken(name: str, package: str | None = None) -> Any:
        if name == engines.RUNTIMES["openvino"].adapter:
            raise error
        return real(name, package)

    pytest.importorskip("openvino")
    monkeypatch.setattr(importlib, "import_module", broken)
    assert " ".join(line_of(doctor(), "openvino", "cpu")) == "openvino cpu no libopenvino.so: cannot open"


def test_cuda_on_a_machine_without_it_is_a_no_with_the_reason(doctor: Callable[[], str]) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime can use CUDA")
    row = " ".join(line_of(doctor(), "onnxruntime", "cuda"))
    assert row.startswith("onnxruntime cuda no this onnxruntime supports CPUs only")
    assert ".[gpu]" in row


BOTH = "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files"


def test_both_packages_of_onnxruntime_give_a_warning(doctor: Callable[[], str], installed: Callable[..., None]) -> None:
    installed(onnxruntime="1.20.0", onnxruntime_gpu="1.20.0")
    text = doctor()
    assert BOTH in text
    assert "pip uninstall onnxruntime onnxruntime-gpu" in text


@pytest.mark.parametrize("alone", ["onnxruntime", "onnxruntime_gpu"])
def test_one_package_of_onnxruntime_gives_no_warning(
    doctor: Callable[[], str], installed: Callable[..., None], alone: str
) -> None:
    installed(**{"onnxruntime": None, "onnxruntime_gpu": None, alone: "1.20.0"})
    assert BOTH not in doctor()


# ---- TensorRT ----

FAKE = SimpleNamespace(__version__="1.7.1")


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`tensorrt(backends, capability)` pretends that these are installed, beside a GPU of this capability, if any."""

    def pretend(installed: tuple[str, ...], capability: tuple[int, int] | None) -> None:
        monkeypatch.setattr(backends, "installed", lambda: installed)
        monkeypatch.setattr(backends, "load", lambda name: Backend(name, FAKE))
        monkeypatch.setattr(availability, "compute_capability", lambda: capability)
        gpu = SimpleNamespace(gpu=Gpu("NVIDIA Test", capability or (0, 0)))
        monkeypatch.setattr(availability, "open_cuda", lambda api, index, extra: gpu)

    return pretend


def test_tensorrt_that_is_not_installed_names_its_extra(
    doctor: Callable[[], str], tensorrt: Callable[..., None]
) -> None:
    tensorrt((), None)
    text = doctor()
    for name, extra in (("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")):
        row = " ".join(line_of(text, name, "cuda"))
        assert row == f"{name} cuda no not installed: pip install '.[{extra}]' in a clone of vgg_deploy"


def test_without_a_gpu_rtx_builds_and_tensorrt_does_not(
    doctor: Callable[[], str], tensorrt: Callable[..., None]
) -> None:
    tensorrt(("tensorrt", "tensorrt-rtx"), None)
    text, none = doctor(), "an NVIDIA GPU, and CUDA shows none (no GPU, or no driver for it)"
    row = " ".join(line_of(text, "tensorrt-rtx", "cuda"))
    assert row == f"tensorrt-rtx cuda no tensorrt-rtx 1.7.1 builds plans here; running them needs {none}"
    row = " ".join(line_of(text, "tensorrt", "cuda"))
    assert row == f"tensorrt cuda no tensorrt 1.7.1 is installed; building and running plans needs {none}"


@pytest.mark.parametrize(
    ("capability", "rtx", "tensorrt_row"),
    [
        ((8, 9), "yes tensorrt-rtx 1.7.1 builds and runs plans on NVIDIA Test", "yes tensorrt 1.7.1 builds and runs"),
        (
            (7, 5),
            "yes tensorrt-rtx 1.7.1 builds and runs plans on NVIDIA Test (compute capability 7.5), "
            "with build --compute-capability 7.5",
            "yes tensorrt 1.7.1 builds and runs",
        ),
        (
            (9, 0),
            "no tensorrt-rtx 1.7.1 builds plans here; it runs plans only on compute capability 8.0, 8.6, 8.9 and 12.x, "
            "and 7.5 if built for it, not on NVIDIA Test (compute capability 9.0): use tensorrt",
            "yes tensorrt 1.7.1 builds and runs",
        ),
        (
            (7, 0),
            "no tensorrt-rtx 1.7.1 builds plans here; it runs",
            "no tensorrt 1.7.1 is installed; it builds and runs plans only on",
        ),
    ],
)
def test_with_a_gpu_its_capability_decides(
    capability: tuple[int, int], rtx: str, tensorrt_row: str, doctor: Callable[[], str], tensorrt: Callable[..., None]
) -> None:
    tensorrt(("tensorrt", "tensorrt-rtx"), capability)
    text = doctor()
    assert " ".join(line_of(text, "tensorrt-rtx", "cuda")).startswith(f"tensorrt-rtx cuda {rtx}")
    assert " ".join(line_of(text, "tensorrt", "cuda")).startswith(f"tensorrt cuda {tensorrt_row}")


def test_a_backend_that_does_not_load_or_open_gives_the_reason(
    doctor: Callable[[], str], tensorrt: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(text: str) -> Callable[..., None]:
        def raising(*_arguments: object) -> None:
            raise EngineError(text)

        return raising

    tensorrt(("tensorrt-rtx",), (8, 9))
    monkeypatch.setattr(availability, "open_cuda", refuse("cudaSetDevice failed: no"))
    row = " ".join(line_of(doctor(), "tensorrt-rtx", "cuda"))
    assert row == "tensorrt-rtx cuda no tensorrt-rtx 1.7.1 builds plans here; running them: cudaSetDevice failed: no"
    monkeypatch.setattr(backends, "load", refuse("tensorrt-rtx is installed but cannot be loaded: libcudart.so.13"))
    row = " ".join(line_of(doctor(), "tensorrt-rtx", "cuda"))
    assert row == "tensorrt-rtx cuda no tensorrt-rtx is installed but cannot be loaded: libcudart.so.13"


def test_the_installed_tensorrt_rtx_is_listed(doctor: Callable[[], str]) -> None:
    module = pytest.importorskip("tensorrt_rtx")
    row = line_of(doctor(), "tensorrt-rtx", "cuda")
    assert f"tensorrt-rtx {module.__version__} builds" in " ".join(row)
    assert row[2] == "no" or compute_capability() is not None


# ---- a file ----

TINY = Path(__file__).parents[2] / "data" / "tiny.onnx"


@pytest.fixture
def checked(vgg_deploy_command: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """`checked(edit=None)` -> what doctor says of a small file of ours, after `edit(path)`."""

    def run(edit: Callable[[Path], object] | None = None) -> Any:
        path = Path(shutil.copy(TINY, tmp_path / "tiny.onnx"))
        if edit is not None:
            edit(path)
        return vgg_deploy_command("doctor", str(path))

    return run


def test_a_file_is_opened_in_each_runtime_and_the_choice_is_named(checked: Callable[..., Any]) -> None:
    pytest.importorskip("onnxruntime")
    done = checked()
    assert done.code == 0, done.err
    assert line_of(done.out, "ok", "onnxruntime", "cpu")[-1] == "float32"
    assert line_of(done.out, "-", "verdict")[2:4] == ["never", "verified:"]
    assert line_of(done.out, "-", "--runtime", "auto")[3] == "takes"
    assert done.out.endswith("tiny.onnx can run here\n")


def test_the_record_of_a_file_is_shown(checked: Callable[..., Any]) -> None:
    verdict = Verdict("2026-11-25", Source("best.safetensors", "ab" * 32), (1, 3), "openvino 2026.4")
    done = checked(lambda path: write_verdict(path, verdict))
    assert f"ok  verdict             {verdict}" in done.out.splitlines()


def test_a_file_that_no_runtime_opens_fails_with_the_reason_of_each(
    checked: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("onnxruntime", "openvino", "ncnn"):
        monkeypatch.setitem(sys.modules, module, None)
    done = checked()
    assert done.code == 1
    for name in ("onnxruntime", "openvino", "ncnn"):
        assert "not installed" in " ".join(line_of(done.out, "no", name, "cpu"))
    assert done.out.endswith("tiny.onnx cannot run here\n")
    assert "--runtime auto" not in done.out


def test_a_foreign_file_and_a_checkpoint_are_refused_with_advice(
    checked: Callable[..., Any], vgg_deploy_command: Callable[..., Any], tmp_path: Path
) -> None:
    def foreign(path: Path) -> None:
        model = onnx.load(path)
        del model.metadata_props[:]
        onnx.save(model, path)

    done = checked(foreign)
    assert (done.code, done.out) == (2, "")
    assert "has no vgg_deploy manifest" in done.err
    assert "--labels FILE" in done.err
    done = vgg_deploy_command("doctor", str(tmp_path / "best.safetensors"))
    assert done.code == 2
    assert "is a checkpoint" in done.err
