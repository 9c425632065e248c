"""What figures were measured on: the processor, and the versions of what computes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from vgg_deploy.cores import usable_cores

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "openvino", "torch", "torchvision", "tensorrt", "tensorrt-rtx")
_PACKAGES = ("vgg-deploy", "numpy", "Pillow", "onnx", *_RUNTIMES)


def machine() -> dict[str, str | int]:
    """The processor, its cores and those of them that this process may use, and the system."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
        "usable_cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Python's, and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
