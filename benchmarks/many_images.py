"""Time and memory of `vgg-deploy infer` by the number of images, a part of `benchmarks.growth`."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.agreement import COLUMNS, ReferenceAnswers, cells
from benchmarks.report import Table
from benchmarks.subject import random_checkpoint
from vgg_deploy.bench.own_process import in_own_process
from vgg_deploy.evaluation.parity import compare
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Floats
from vgg_deploy.views.protocols import Protocol, choose_protocol

MEMORY_AIM = 0.05


@dataclass(frozen=True, slots=True)
class Narrow:
    """A narrow network, for many images.

    Attributes:
        model: the ONNX file.
        classes: the classes of the network.
        expected: PyTorch's posteriors of the photos, [photos, classes].
    """

    model: Path
    classes: tuple[ClassName, ...]
    expected: Floats


def _narrow(folder: Path, photos: Sequence[Path]) -> Narrow:
    from export import export
    from train.network.checkpoint import read, save

    spec = NetworkSpec("D", width_divisor=8, crop=128, fc_width=512, classes=10)
    weights, checkpoint, model = random_checkpoint(spec), folder / "narrow.safetensors", folder / "narrow.onnx"
    save(checkpoint, weights.weights, weights.manifest)
    export(read(checkpoint), model, dynamic=True)
    protocol: Protocol = choose_protocol(weights.manifest, "dense", mirror=False, free_size=True).protocol
    return Narrow(model, weights.manifest.classes, ReferenceAnswers(checkpoint)(photos, protocol))


_MEASURING = (
    "import json, resource, subprocess, sys, time; began = time.perf_counter();"
    "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL);"
    "print(json.dumps([time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))"
)


def _answers(written: Path, classes: Sequence[ClassName]) -> Floats:
    """Posteriors [images, classes] from a CSV file of `infer --top` of all classes, in its order of images."""
    column = {name.id: index for index, name in enumerate(classes)}
    with written.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    rows = np.full((len(lines), len(classes)), np.nan, np.float32)
    for row, line in zip(rows, lines, strict=True):
        for rank in range(1, len(classes) + 1):
            row[column[line[f"id_{rank}"]]] = float(line[f"probability_{rank}"])
    return rows


def images(folder: Path, photos: Sequence[Path], counts: Sequence[int], method: str) -> tuple[Table, Any]:
    """Time and peak memory of `vgg-deploy infer` in a process of its own, by the number of images."""
    narrow = in_own_process(_narrow, folder, photos)
    columns = ("images", "ms an image", "peak memory, MB", "growth", *COLUMNS)
    table = Table("Time and memory against the number of images", method, columns)
    samples: dict[str, Any] = {}
    for count in counts:
        many = folder / f"images-{count}"
        many.mkdir()
        for index in range(count):
            path = photos[index % len(photos)]
            (many / f"{index:05d}{path.suffix}").symlink_to(path.resolve())
        written = folder / f"{count}.csv"
        arguments = ["infer", str(many), "--engine", str(narrow.model), "--protocol", "dense", "--no-flip"]
        arguments += ["--csv", str(written), "--top", str(len(narrow.classes))]
        command = [sys.executable, "-c", _MEASURING, sys.executable, "-m", "vgg_deploy", *arguments]
        seconds, megabytes = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        samples[str(count)] = {"seconds": seconds, "peak_mb": megabytes}
        growth = megabytes / samples[str(counts[0])]["peak_mb"] - 1
        reached = "reached" if growth <= MEMORY_AIM else "missed"
        change = "-" if count == counts[0] else f"{growth:+.1%}; aim {MEMORY_AIM:.0%} {reached}"
        expected = narrow.expected[np.arange(count) % len(photos)]  # [count, classes]
        names = [str(index) for index in range(count)]
        agrees = cells(compare(expected, _answers(written, narrow.classes), names, narrow.classes))
        table.rows.append((f"{count:,}", f"{1000 * seconds / count:.1f}", f"{megabytes:.0f}", change, *agrees))
        click.echo(f"{count} images: {seconds:.1f} s, {megabytes:.0f} MB", err=True)
    return table, samples
