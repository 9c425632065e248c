"""One batch at a time, already in memory: what a call takes in each runtime, and how near the machine's peak that is.

python -m benchmarks.single
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.contestant import HOW, Contestant
from benchmarks.models import Models, prepare
from benchmarks.options import setup_options
from benchmarks.ours import Peak, Turn, call
from benchmarks.report import Table, canvas, faster, spread, write
from benchmarks.straightforward import onnxruntime_session, openvino_model, pytorch, torchvision_vgg16
from benchmarks.subject import Pictures, Setup, pictures, verification
from vgg_deploy.engine import Floats, Images
from vgg_deploy.images import decode, resize
from vgg_deploy.parity import Parity, compare
from vgg_deploy.peak import BFLOAT16
from vgg_deploy.precision import FLOAT32, INT8
from vgg_deploy.timing import BatchShape

SHAPES = tuple(BatchShape(batch, *size) for size in ((224, 224), (384, 512)) for batch in (1, 8))
VERIFIED = {224: 32, 384: 8}  # images that each contestant is compared with PyTorch on, by height
TURN_S = 0.25  # a batch is run again until this has passed: of each turn the median counts
REFERENCE = "PyTorch eager"


@dataclass(slots=True)
class Line:
    """A contestant and what was measured of it.

    Attributes:
        name: in the tables.
        precision: float32, bfloat16 or int8: in what it computes.
        make: what `Turn` is given.
        crop_only: whether it takes images of the crop alone.
        contestant: its process, while it runs.
        reason: why it has no figures.
        times: ms, one of each repetition, by shape.
        parity: against PyTorch, by height.
    """

    name: str
    precision: str
    make: tuple[Any, ...]
    crop_only: bool = False
    contestant: Contestant | None = None
    reason: str = ""
    times: dict[BatchShape, list[float]] = field(default_factory=dict)
    parity: dict[int, Parity] = field(default_factory=dict)

    def takes(self, height: int, width: int) -> bool:
        return self.contestant is not None and not (self.crop_only and (height, width) != (224, 224))


def lines(models: Models) -> list[Line]:
    """The contestants; the first is what the others are compared with."""
    network, int8 = models.float32, models.int8["tensorrt"]
    return [
        Line(REFERENCE, FLOAT32, (pytorch, models.checkpoint)),
        Line("torch.compile", FLOAT32, (pytorch, models.checkpoint, True)),
        Line("torchvision's vgg16, FC form", FLOAT32, (torchvision_vgg16, models.checkpoint), crop_only=True),
        Line("ONNX Runtime", FLOAT32, (onnxruntime_session, network)),
        Line("OpenVINO, pinned to f32", FLOAT32, (openvino_model, network, "f32")),
        Line("OpenVINO, nothing asked", BFLOAT16, (openvino_model, network, None)),
        Line("vgg-deploy FP32", FLOAT32, (call, network)),
        Line("vgg-deploy BF16", BFLOAT16, (call, network, "auto", True)),
        Line("vgg-deploy INT8", INT8, (call, int8)),
    ]


def verify(all_lines: list[Line], photos: Pictures, models: Models, quick: bool) -> None:
    """Every contestant on the same images; the first is the reference. It also compiles what is compiled for a shape."""
    for height, width in dict.fromkeys((shape.height, shape.width) for shape in SHAPES):
        chosen = photos.spread(1 if quick else VERIFIED[height])
        views = [resize(decode(path), height, width, models.manifest.rescaling)[None] for path in chosen]
        reference: Floats | None = None
        for line in all_lines:
            if not line.takes(height, width):
                continue
            try:
                assert line.contestant is not None
                rows = np.concatenate([line.contestant(np.ascontiguousarray(view))[1] for view in views])
            except Exception as error:  # torch.compile's compiler raises many kinds
                if line.name == REFERENCE:
                    raise
                line.reason, line.contestant = _reason(error), None
                continue
            reference = rows if reference is None else reference
            line.parity[height] = compare(reference, rows, [path.name for path in chosen], models.manifest.classes)


def _reason(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text[:160].replace("|", "/")


def measure(
    all_lines: list[Line],
    peaks: dict[str, Contestant],
    photos: Pictures,
    models: Models,
    repetitions: int,
    turn_s: float,
) -> dict[BatchShape, dict[str, list[float]]]:
    """Fills in the lines' times; gives the peaks, GFLOP/s, one of each repetition, by shape and precision."""
    reached: dict[BatchShape, dict[str, list[float]]] = {}
    for shape in SHAPES:
        paths = photos.spread(shape.images)
        views = [resize(decode(path), shape.height, shape.width, models.manifest.rescaling) for path in paths]
        images: Images = np.stack([views[index % len(views)] for index in range(shape.images)])
        taking = [line for line in all_lines if line.takes(shape.height, shape.width)]
        for line in taking:
            assert line.contestant is not None
            line.contestant(images)  # the first of a shape costs more
            line.times[shape] = []
        reached[shape] = {precision: [] for precision in peaks}
        for _ in range(repetitions if shape.images == 1 else min(repetitions, 3)):
            for precision, peak in peaks.items():
                rate = peak()
                if rate is not None:
                    reached[shape][precision].append(rate)
            for line in taking:
                assert line.contestant is not None
                line.times[shape].append(statistics.median(line.contestant(images, turn_s)[0]))
        click.echo(f"{shape}: done", err=True)
    return reached


def table(shape: BatchShape, all_lines: list[Line], peaks: dict[str, list[float]], models: Models) -> Table:
    """One shape's figures."""
    columns = ("contestant", "ms", "images/s", f"times {REFERENCE}", "share of the peak", "top-1 agreement", "max dp")
    result = Table(f"{shape.images} x {shape.height} x {shape.width}", columns)
    assert models.manifest.spec is not None
    gflop = shape.gflop(models.manifest.spec)
    reference = all_lines[0].times[shape]
    for line in all_lines:
        if shape not in line.times:
            why = line.reason or "takes images of 224x224 alone"
            result.rows.append((line.name, f"not measured: {why}", *("-",) * 5))
            continue
        times, parity = line.times[shape], line.parity[shape.height]
        top = peaks[line.precision]
        shares = [100 * 1000 * gflop / ms / peak for ms, peak in zip(times, top, strict=True)] if top else []
        result.rows.append(
            (
                line.name,
                spread(times, 1),
                f"{1000 * shape.images / statistics.median(times):.1f}",
                faster(reference, times),
                spread(shares, 0, " %") if shares else "-",
                f"{parity.agreement:.1%} of {parity.views}",
                f"{parity.max_dp:.1g}",
            )
        )
    return result


def draw(all_lines: list[Line]) -> Any:
    """Bars of images/s of one image, a panel for each size."""
    shapes = [shape for shape in SHAPES if shape.images == 1]
    with canvas(len(shapes), height=3.2) as (drawing, axes):
        for shape, panel in zip(shapes, axes, strict=True):
            shown = [line for line in reversed(all_lines) if shape in line.times]
            rates = [1000 / statistics.median(line.times[shape]) for line in shown]
            colours = ["tab:blue" if line.name.startswith("vgg-deploy") else "tab:gray" for line in shown]
            bars = panel.barh([line.name for line in shown], rates, color=colours)
            panel.bar_label(bars, fmt="%.1f", padding=3)
            panel.set_title(f"one image of {shape.height}x{shape.width}: images/s")
        return drawing


@click.command()
@click.option("--repetitions", default=5, show_default=True, help="Of single images; of batches of 8 at most 3.")
@setup_options
def main(setup: Setup, repetitions: int) -> None:
    """Time single calls of each runtime and of ours, compare their answers, and write results/single.{json,md,svg}."""
    repetitions = 1 if setup.quick else repetitions
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        photos = pictures(setup, folder)
        models = prepare(folder, setup, photos.others(photos.spread(max(VERIFIED.values()))))
        peaks = {precision: stack.enter_context(Contestant(Peak, precision)) for precision in (FLOAT32, BFLOAT16, INT8)}
        all_lines = lines(models)
        for line in all_lines:
            try:
                line.contestant = stack.enter_context(Contestant(Turn, *line.make))
            except Exception as error:  # noqa: BLE001 - a runtime that is not here raises what it likes
                line.reason = _reason(error)
        sure = verification(setup, photos)
        verify(all_lines, sure, models, setup.quick)
        reached = measure(all_lines, peaks, photos, models, repetitions, 0.0 if setup.quick else TURN_S)
    tables = [table(shape, all_lines, reached[shape], models) for shape in SHAPES]
    setting = (
        f"{models.words}; batches already in memory, one call at a time on all cores; {repetitions} repetitions (at most 3 for "
        f"batches of 8). {HOW} torchvision's vgg16 has our weights and widths. OpenVINO, when nothing is asked, computes FP32 files in "
        "BF16 on CPUs that have it, without a word. The peak is that of the best large 1x1 convolution in the same precision, "
        f"measured in the same repetitions. Agreement and max dp: against {REFERENCE}, on {sure.words}, resized to the same size."
    )
    samples = {
        "ms": {str(shape): {line.name: line.times.get(shape) for line in all_lines} for shape in SHAPES},
        "peak GFLOP/s": {str(shape): rates for shape, rates in reached.items()},
    }
    text = write(
        "single", "One batch at a time", setting, tables=tables, samples=samples, drawing=draw(all_lines), out=setup.out
    )
    click.echo(text)


if __name__ == "__main__":
    main()
