"""The machine on which figures were measured: its processor and the versions of its software."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from vgg_deploy.cores import usable_cores

_RUNTIMES = (
    *("onnxruntime", "onnxruntime-gpu", "openvino", "ncnn"),
    *("torch", "torchvision", "tensorrt", "tensorrt-rtx"),
)
_INSTRUCTIONS = {"avx2": "AVX2", "avx512f": "AVX-512", "avx512_vnni": "VNNI", "avx512_bf16": "BF16", "amx_int8": "AMX"}
_PACKAGES = ("vgg-deploy", "numpy", "Pillow", "onnx", *_RUNTIMES)


def machine() -> dict[str, str | int]:
    """The processor with its relevant instruction sets, its cores, the usable cores, and the system."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        # Each processor repeats the lines; the first processor's are kept.
        fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in reversed(lines))}
        flags = fields.get("flags", "").split()
        known = [name for flag, name in _INSTRUCTIONS.items() if flag in flags]
        cpu = fields.get("model name", cpu) + (f" ({' '.join(known)})" if known else "")
    return {
        "cpu": cpu,
        "cores": os.cpu_count() or 1,
        "usable_cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that are installed."""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
