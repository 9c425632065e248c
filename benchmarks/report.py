"""How a benchmark's figures are kept: JSON and a markdown table, with the machine and the versions they are of."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vgg_deploy.files import whole_file

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("vgg-deploy", "numpy", "Pillow", "onnx", "onnxruntime", "openvino", "torch")


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure.

    Attributes:
        name: what was measured.
        value: in words, with its unit.
        aim: what it should be, or "".
        samples: the single measurements.
    """

    name: str
    value: str
    aim: str
    samples: tuple[float, ...] = ()


def interleaved(repetitions: int, *contestants: Callable[[], float]) -> list[list[float]]:
    """Runs each contestant in turn, `repetitions` times over, so that a drift of the machine meets all of them alike."""
    samples: list[list[float]] = [[] for _ in contestants]
    for _ in range(repetitions):
        for index, contestant in enumerate(contestants):
            samples[index].append(contestant())
    return samples


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> tuple[float, float, float]:
    """Median, lowest and highest of the ratios of each pair."""
    ratios = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def machine() -> dict[str, str]:
    """The processor, its cores that may be used, and the versions of what computes."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "-"
    return {"cpu": cpu, "cores": str(os.cpu_count()), "python": platform.python_version(), **versions}


def write(name: str, title: str, setting: str, figures: Sequence[Figure]) -> str:
    """Writes results/NAME.json and results/NAME.md; gives the markdown."""
    host = machine()
    lines = [f"# {title}", "", setting, "", "| figure | measured | aim |", "| --- | --- | --- |"]
    lines += [f"| {figure.name} | {figure.value} | {figure.aim} |" for figure in figures]
    lines += ["", "Measured on " + ", ".join(f"{key} {value}" for key, value in host.items()) + ".", ""]
    text = "\n".join(lines)
    record = {
        "title": title,
        "setting": setting,
        "machine": host,
        "figures": [
            {"name": f.name, "value": f.value, "aim": f.aim, "samples": [round(s, 4) for s in f.samples]}
            for f in figures
        ],
    }
    for suffix, content in (("json", json.dumps(record, indent=2) + "\n"), ("md", text)):
        with whole_file(RESULTS / f"{name}.{suffix}") as temporary:
            temporary.write_text(content, encoding="utf-8")
    return text
