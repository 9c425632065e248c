"""vgg-deploy doctor."""

from __future__ import annotations

import importlib.metadata
import platform

import click

from vgg_deploy.cli.tables import print_table

# What each extra is for, by its packages.
_PACKAGES = {
    "base": ("numpy", "Pillow", "click", "rich", "onnx"),
    "cpu": ("onnxruntime", "openvino"),
    "gpu": ("onnxruntime-gpu", "tensorrt", "cuda-python", "polygraphy"),
    "pycuda": ("pycuda",),
    "rtx": ("tensorrt-rtx",),
    "train": ("torch", "torchvision", "safetensors", "scikit-learn", "matplotlib"),
}


@click.command("doctor")
def command() -> None:
    """Show what is installed, and which engines can run here and why the others cannot."""
    import os

    import vgg_deploy

    click.echo(
        f"vgg_deploy {vgg_deploy.__version__}, Python {platform.python_version()}, {platform.platform()}, {os.cpu_count()} cores\n"
    )
    rows = [(package, _version(package) or "-", extra) for extra, packages in _PACKAGES.items() for package in packages]
    print_table(("package", "version", "extra"), rows, left=(0, 1, 2))
    click.echo()
    print_table(("engine", "device", "runs here", "why"), _engines(), left=(0, 1, 2, 3))
    if _version("onnxruntime") and _version("onnxruntime-gpu"):
        click.echo(
            "\nonnxruntime and onnxruntime-gpu are both installed and overwrite each other's files: "
            "pip uninstall onnxruntime onnxruntime-gpu, then install one extra, vgg-deploy[cpu] or vgg-deploy[gpu]"
        )


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _engines() -> list[tuple[str, str, str, str]]:
    """A row for each engine and device: whether it runs here, and why."""
    import importlib

    from engines import RUNTIMES
    from vgg_deploy.errors import VGGDeployError

    rows = []
    for name, runtime in RUNTIMES.items():
        for device in runtime.devices:
            if not runtime.installed:
                extra = "gpu" if device == "cuda" else runtime.extra
                rows.append((name, device, "no", f"not installed: pip install 'vgg-deploy[{extra}]'"))
                continue
            try:
                why = importlib.import_module(runtime.home).availability(device)
                rows.append((name, device, "yes", why))
            except (VGGDeployError, ImportError, OSError) as error:
                rows.append((name, device, "no", " ".join(str(error).split())))
    rows.append(_torch())
    rows.extend(_tensorrt())
    return rows


def _torch() -> tuple[str, str, str, str]:
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        return ("torch (reference)", "cpu", "no", "not installed: pip install 'vgg-deploy[train]'")
    return ("torch (reference)", "cpu", "yes", "trains, exports, and is what verify compares with")


def _tensorrt() -> list[tuple[str, str, str, str]]:
    """TensorRT is not run by this version; what is installed of it is shown."""
    rows = []
    for package, extra in (("tensorrt", "gpu"), ("tensorrt-rtx", "rtx")):
        installed = _version(package)
        why = (
            f"{package} {installed} is installed; this version does not build or run plans yet"
            if installed
            else f"not installed (extra {extra}); this version does not build or run plans yet"
        )
        rows.append((package, "cuda", "no", why))
    return rows
