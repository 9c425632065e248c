"""vgg-deploy doctor."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
from pathlib import Path

import click
from click.core import ParameterSource

from vgg_deploy.artifacts.kinds import ONNX, PLAN, PLAN_SUFFIXES, kind_of
from vgg_deploy.artifacts.plan import BACKENDS
from vgg_deploy.cli.parameters import cuda_api_option
from vgg_deploy.cli.tables import print_table
from vgg_deploy.errors import UsageError, VGGDeployError
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.install import install_command
from vgg_deploy.version import __version__

# The packages of each extra.
_PACKAGES = {
    "base": ("numpy", "Pillow", "click", "rich", "onnx"),
    "cpu": ("onnxruntime", "openvino", "ncnn"),
    "gpu": ("onnxruntime-gpu", "tensorrt", "polygraphy"),
    "rtx": ("tensorrt-rtx",),
    "gpu, rtx": ("cuda-python",),
    "pycuda": ("pycuda",),
    "heic": ("pillow-heif",),
    "jxl": ("pillow-jxl-plugin",),
    "train": ("torch", "torchvision", "safetensors", "scikit-learn", "matplotlib"),
}


@click.command("doctor")
@click.argument("file", required=False, type=click.Path(path_type=Path), metavar="[FILE.onnx|FILE.plan]")
@click.option("--device", default="cuda", show_default=True, metavar="DEVICE", help="With a plan: cuda or cuda:N.")
@cuda_api_option("With a plan: the library that manages its GPU memory.")
def command(file: Path | None, device: str, cuda_api: str) -> None:
    """Show what is installed, which engines can run on this machine, and why the others cannot.

    With a file, show whether it can run here and when it was verified: of a plan step by step, of an ONNX file in each
    runtime. The exit code is 1 if it cannot run here.
    """
    if file is None:
        _machine()
        return
    if kind_of(file) == ONNX:
        _refuse_plan_options(file)
    runs = _onnx_runs(file) if kind_of(file) == ONNX else _plan_runs(file, device, cuda_api)
    click.echo(f"{file} {'can' if runs else 'cannot'} run here")
    if not runs:
        raise SystemExit(1)


def _refuse_plan_options(file: Path) -> None:
    context = click.get_current_context()
    for name, option in (("device", "--device"), ("cuda_api", "--cuda-api")):
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise click.UsageError(f"{option} applies to plans; {file} is tried on every device: leave it out")


def _onnx_runs(path: Path) -> bool:
    """Prints the verdict of an ONNX file of ours, and which runtimes can open it here; True if one can."""
    from engines import RUNTIMES
    from engines.choice import choose_runtime
    from vgg_deploy.artifacts.onnx_file import OnnxFile
    from vgg_deploy.artifacts.verdict_record import verdict_line

    file = OnnxFile(path)
    if file.manifest_json is None:
        raise UsageError(
            f"{path} has no vgg_deploy manifest, so it has no verdict; doctor takes files of vgg-deploy export. To try "
            f"whether it runs: vgg-deploy infer IMAGE --engine {path} --labels FILE"
        )
    manifest = file.effective_manifest()
    verdict = verdict_line(path)
    if verdict is not None:
        _line(verdict.holds, "verdict", verdict.text)
    on_cpu: dict[str, str | None] = {}  # runtime -> why it cannot run the file on the CPU
    any_runs = False
    for name, runtime in RUNTIMES.items():
        for device in runtime.devices:
            what, problem = _opened(path, name, device)
            _line(problem is None, f"{name} {device}", what if problem is None else problem)
            any_runs = any_runs or problem is None
            if device == "cpu":
                on_cpu[name] = problem
    unusable = {name: problem for name, problem in on_cpu.items() if problem is not None}
    if len(unusable) < len(on_cpu):
        choice = choose_runtime(EngineOptions(), manifest, unusable)
        _line(None, "--runtime auto", f"takes {choice.runtime}: {choice.reason}")
    return any_runs


def _opened(path: Path, runtime: str, device: str) -> tuple[str, str | None]:
    """How a runtime computes a file, and None; or why it cannot open it."""
    from engines import open_engine

    try:
        with open_engine(path, runtime=runtime, device=device) as engine:
            return f"{engine.info.runtime}: {engine.info.precision}", None
    except VGGDeployError as error:
        return "", " ".join(str(error).split())


def _line(passed: bool | None, name: str, text: str) -> None:
    """Prints one check; None: it was not possible, or there is nothing to check."""
    click.echo(f"{ {True: 'ok', False: 'no', None: '-'}[passed]:<2}  {name:<18}  {text}")


def _plan_runs(plan: Path, device: str, cuda_api: str) -> bool:
    """Prints the result of each check of a plan; True if all pass."""
    from engines.trt.check import PlanChecks
    from vgg_deploy.artifacts.verdict_record import verdict_line

    if not re.fullmatch(r"cuda(:\d+)?", device, re.ASCII):
        raise UsageError(f"--device is {device!r}. Plans run on NVIDIA GPUs; expected cuda or cuda:N")
    if kind_of(plan) != PLAN:
        raise UsageError(f"{plan} is a checkpoint; doctor takes an ONNX file or a plan ({', '.join(PLAN_SUFFIXES)})")
    runs = True
    checked = PlanChecks(plan, EngineOptions(device=device, cuda_api=cuda_api))
    for check in checked.checks():
        runs = runs and check.passed is not False
        _line(check.passed, check.name, check.text)
    if checked.plan is not None:
        verdict = verdict_line(plan)
        if verdict is not None:
            _line(verdict.holds, "verdict", verdict.text)
    return runs


def _machine() -> None:
    click.echo(
        f"vgg_deploy {__version__}, Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores\n"
    )
    rows = [(package, _version(package) or "-", extra) for extra, packages in _PACKAGES.items() for package in packages]
    print_table(("package", "version", "extra"), rows, left=(0, 1, 2))
    click.echo()
    print_table(("engine", "device", "runs here", "why"), _engines(), left=(0, 1, 2, 3))
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        click.echo(
            "\nonnxruntime and onnxruntime-gpu are both installed and overwrite each other's files. Run\n"
            f"pip uninstall onnxruntime onnxruntime-gpu, then {install_command('cpu')} or {install_command('gpu')}"
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _engines() -> list[tuple[str, str, str, str]]:
    """A row for each engine and device: whether it runs here, and the reason."""
    from engines import RUNTIMES

    rows = []
    for name, runtime in RUNTIMES.items():
        for device in runtime.devices:
            if not runtime.installed:
                extra = "gpu" if device == "cuda" else runtime.extra
                rows.append((name, device, "no", f"not installed: {install_command(extra)}"))
                continue
            try:
                why = importlib.import_module(runtime.adapter).availability(device)
                rows.append((name, device, "yes", why))
            except (VGGDeployError, ImportError, OSError) as error:
                rows.append((name, device, "no", " ".join(str(error).split())))
    rows.append(_torch())
    rows.extend(_tensorrt())
    return rows


def _torch() -> tuple[str, str, str, str]:
    if importlib.util.find_spec("torch") is None:
        return ("torch (reference)", "cpu", "no", f"not installed: {install_command('train')}")
    return ("torch (reference)", "cpu", "yes", "trains and exports, and is the reference of verify")


def _tensorrt() -> list[tuple[str, str, str, str]]:
    from engines.trt.availability import availability

    rows = []
    for name in BACKENDS:
        runs, why = availability(name)
        rows.append((name, "cuda", "yes" if runs else "no", why))
    return rows
