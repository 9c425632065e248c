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

from vgg_deploy.artifacts.kinds import PLAN, PLAN_SUFFIXES, kind_of
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
    "train": ("torch", "torchvision", "safetensors", "scikit-learn", "matplotlib"),
}


@click.command("doctor")
@click.argument("plan", required=False, type=click.Path(path_type=Path))
@click.option("--device", default="cuda", show_default=True, metavar="DEVICE", help="With a plan: cuda or cuda:N.")
@cuda_api_option("With a plan: the library that manages its GPU memory.")
def command(plan: Path | None, device: str, cuda_api: str) -> None:
    """Show what is installed, which engines can run on this machine, and why the others cannot.

    With a PLAN, check step by step whether it can run here. The exit code is 1 if it cannot.
    """
    if plan is None:
        _machine()
    elif not _can_run(plan, device, cuda_api):
        raise SystemExit(1)


def _can_run(plan: Path, device: str, cuda_api: str) -> bool:
    """Prints the result of each check of a plan; True if all pass."""
    from engines.trt.check import PlanChecks
    from vgg_deploy.artifacts.verdict_record import verdict_line

    if not re.fullmatch(r"cuda(:\d+)?", device, re.ASCII):
        raise UsageError(f"--device is {device!r}. Plans run on NVIDIA GPUs; expected cuda or cuda:N")
    if kind_of(plan) != PLAN:
        raise UsageError(
            f"{plan} is not a plan ({', '.join(PLAN_SUFFIXES)}). To check an ONNX file, use vgg-deploy verify"
        )
    runs, marks = True, {True: "ok", False: "no", None: "-"}
    checked = PlanChecks(plan, EngineOptions(device=device, cuda_api=cuda_api))
    for check in checked.checks():
        runs = runs and check.passed is not False
        click.echo(f"{marks[check.passed]:<2}  {check.name:<18}  {check.text}")
    if checked.plan is not None:
        mark = marks[None if checked.plan.verdict is None else True]
        click.echo(f"{mark:<2}  {'verdict':<18}  {verdict_line(plan)}")
    click.echo(f"{plan} {'can' if runs else 'cannot'} run here")
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
