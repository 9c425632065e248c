"""The options of a build, and the command that repeats it."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from engines.trt.backend import TENSORRT, TENSORRT_RTX
from vgg_deploy.artifacts.plan import BACKENDS
from vgg_deploy.errors import UsageError

HARDWARE = ("none", "ampere+", "same")
_UNITS = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10, "B": 1}


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build a plan. None stands for a default of the model or the backend.

    Attributes:
        backend: tensorrt or tensorrt-rtx. None: the installed one; if both are installed, TensorRT if it supports the
            GPU.
        scales: the test scales Q that the plan serves; None: the paper's, for the model's training S.
        max_batch: the largest batch; None: 8.
        max_aspect: the largest ratio of an image's long side to its short side; None: 2.
        one_profile: one profile for all scales instead of one for each.
        workspace: bytes of GPU memory that one layer may use; None: TensorRT's own limit.
        compute_capabilities: the GPUs for a TensorRT-RTX plan, such as "8.9"; empty: 8.0 and later, except 9.0.
        timing_cache: a file of TensorRT's measurements; read if it exists, and written after the build.
        hardware_compatibility: none, ampere+ (GPUs of 8.0 and later) or same (GPUs of one compute capability). TensorRT
            only.
        labels: a file with one class name a line, for a model without our manifest.
    """

    backend: str | None = None
    scales: tuple[int, ...] | None = None
    max_batch: int | None = None
    max_aspect: float | None = None
    one_profile: bool = False
    workspace: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    timing_cache: Path | None = None
    hardware_compatibility: str | None = None
    labels: Path | None = None

    def __post_init__(self) -> None:
        if self.backend is not None and self.backend not in BACKENDS:
            raise UsageError(f"--backend is {self.backend!r}; expected {' or '.join(BACKENDS)}")
        if self.max_batch is not None and self.max_batch < 1:
            raise UsageError(f"--max-batch is {self.max_batch}; expected 1 or more")
        if self.max_aspect is not None and not (math.isfinite(self.max_aspect) and self.max_aspect >= 1):
            raise UsageError(
                f"--max-aspect is {self.max_aspect:g}; expected the ratio of the long to the short side, 1 or more"
            )
        if self.workspace is not None and self.workspace < 1:
            raise UsageError(f"--workspace is {self.workspace} bytes; expected 1 or more")
        if self.hardware_compatibility is not None and self.hardware_compatibility not in HARDWARE:
            raise UsageError(
                f"--hardware-compatibility is {self.hardware_compatibility!r}; expected {', '.join(HARDWARE)}"
            )
        if len(set(self.compute_capabilities)) != len(self.compute_capabilities):
            raise UsageError(f"--compute-capability {','.join(self.compute_capabilities)} lists a value twice")
        if self.backend is not None:
            self.check_for(self.backend)

    def check_for(self, backend: str) -> None:
        """Raises UsageError for an option that the backend does not have."""
        if backend == TENSORRT and self.compute_capabilities:
            raise UsageError(
                "--compute-capability requires tensorrt-rtx: a tensorrt plan runs on the kind of GPU that built it. "
                "--hardware-compatibility ampere+ lets it run on others"
            )
        if backend == TENSORRT_RTX and self.timing_cache is not None:
            raise UsageError(
                "--timing-cache requires tensorrt: tensorrt-rtx measures nothing during a build; leave the option out"
            )
        if backend == TENSORRT_RTX and self.hardware_compatibility is not None:
            raise UsageError(
                "--hardware-compatibility requires tensorrt; for tensorrt-rtx, name the GPUs with --compute-capability"
            )

    def command(self, onnx: Path, plan: Path) -> str:
        """The command that builds a plan with these options."""
        values: list[tuple[str, object]] = [
            ("--backend", self.backend),
            ("--scales", self.scales and ",".join(map(str, self.scales))),
            ("--max-batch", self.max_batch),
            ("--max-aspect", None if self.max_aspect is None else f"{self.max_aspect:.12g}"),
            ("--workspace", None if self.workspace is None else written_size(self.workspace)),
            ("--compute-capability", ",".join(self.compute_capabilities) or None),
            ("--timing-cache", self.timing_cache),
            ("--hardware-compatibility", self.hardware_compatibility),
            ("--labels", self.labels),
        ]
        arguments = ["vgg-deploy", "build", str(onnx), "-o", str(plan)]
        for name, value in values:
            arguments += [] if value is None else [name, str(value)]
        return shlex.join(arguments + (["--one-profile"] if self.one_profile else []))


def parse_size(text: str) -> int:
    """Bytes from a size such as 4GiB, 512MiB or 1.5GiB.

    Raises:
        UsageError: another unit, or none.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(GiB|MiB|KiB|B)", text.strip(), re.ASCII | re.IGNORECASE)
    unit = next((unit for unit in _UNITS if match and unit.lower() == match[2].lower()), None)
    size = float(match[1]) * _UNITS[unit] if match and unit else 0.0
    if size < 1 or size != int(size):
        raise UsageError(f"{text!r}; expected a size with its unit, such as 4GiB or 512MiB")
    return int(size)


def written_size(size: int) -> str:
    """A size in bytes as text, in the largest unit that gives a whole number."""
    unit = next(unit for unit, factor in _UNITS.items() if size % factor == 0)
    return f"{size // _UNITS[unit]}{unit}"
