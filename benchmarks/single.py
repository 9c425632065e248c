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

from benchmarks.agreement import COLUMNS, NOTHING, REFERENCE, cells, compared, reference
from benchmarks.contestant import HOW, Contestant
from benchmarks.models import Models, prepare
from benchmarks.options import setup_options
from benchmarks.ours import CPU_RUNTIMES, Peak, Turn, call
from benchmarks.report import Table, canvas, faster, spread, write
from benchmarks.straightforward import onnxruntime_session, openvino_model, pytorch, torchvision_vgg16
from benchmarks.subject import Setup, pictures, verification
from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.bench.peak import BFLOAT16
from vgg_deploy.evaluation.parity import Parity
from vgg_deploy.network.precision import FLOAT32, INT8
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.views.images import decode, resize

# Shapes, and labelled images on which answers are compared beside those of the batch that is timed.
SHAPES = {
    BatchShape(1, 224, 224): 16,
    BatchShape(8, 224, 224): 16,
    BatchShape(1, 384, 512): 8,
    BatchShape(8, 384, 512): 0,
}
QUICK = (BatchShape(2, 224, 224), BatchShape(1, 384, 512))
TURN_S = 0.25  # a batch is run again until this has passed: of each turn the median counts
PYTORCH = "PyTorch eager"


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
        parity: of the turn whose answers were furthest off, by shape.
    """

    name: str
    precision: str
    make: tuple[Any, ...]
    crop_only: bool = False
    contestant: Contestant | None = None
    reason: str = ""
    times: dict[BatchShape, list[float]] = field(default_factory=dict)
    parity: dict[BatchShape, Parity] = field(default_factory=dict)

    def takes(self, height: int, width: int) -> bool:
        return self.contestant is not None and not (self.crop_only and (height, width) != (224, 224))


def lines(models: Models) -> list[Line]:
    """The contestants; the first is what the others are compared with."""
    network, int8 = models.float32, models.int8["tensorrt"]
    return [
        Line(PYTORCH, FLOAT32, (pytorch, models.checkpoint)),
        Line("torch.compile", FLOAT32, (pytorch, models.checkpoint, True)),
        Line("torchvision's vgg16, FC form", FLOAT32, (torchvision_vgg16, models.checkpoint), crop_only=True),
        Line("ONNX Runtime", FLOAT32, (onnxruntime_session, network)),
        Line("OpenVINO, pinned to f32", FLOAT32, (openvino_model, network, "f32")),
        Line("OpenVINO, nothing asked", BFLOAT16, (openvino_model, network, None)),
        *(
            Line(f"vgg-deploy FP32 on {title}", FLOAT32, (call, network, runtime))
            for runtime, title in CPU_RUNTIMES.items()
        ),
        Line("vgg-deploy BF16 on OpenVINO", BFLOAT16, (call, network, "openvino", True)),
        Line("vgg-deploy INT8 on OpenVINO", INT8, (call, int8, "openvino")),
    ]


@dataclass(frozen=True, slots=True)
class Batches:
    """Of one shape.

    Attributes:
        timed: what is run again and again.
        distinct: how many of its images there are; the others repeat them, and are not compared.
        more: on which answers are compared too.
        wanted: what is right of `timed` and of `more`, posteriors [images, classes].
    """

    timed: Images
    distinct: int
    more: list[Images]
    wanted: Floats


def batches(shape: BatchShape, timed: list[Path], more: list[Path], judge: Contestant, models: Models) -> Batches:
    """Images cut to a shape, and what is right of them."""

    def cut(paths: list[Path]) -> list[Images]:
        return [resize(decode(path), shape.height, shape.width, models.manifest.rescaling) for path in paths]

    views = cut(timed[: shape.images])
    batch = np.stack([views[index % len(views)] for index in range(shape.images)])
    others = cut(more)
    full = range(0, len(others) - shape.images + 1, shape.images)
    checked = [np.stack(others[start : start + shape.images]) for start in full]
    rows = [judge(batch)[1][: len(views)], *(judge(each)[1] for each in checked)]
    return Batches(batch, len(views), checked, np.concatenate(rows))


def check(line: Line, found: Batches, shape: BatchShape) -> list[Floats]:
    """A contestant's answers before it is timed: to the batch that will be, and to the others. It also compiles what is compiled for a
    shape. Empty where it cannot, with the reason in the line."""
    assert line.contestant is not None
    try:
        return [line.contestant(images)[1] for images in (found.timed, *found.more)]
    except Exception as error:  # torch.compile's compiler raises many kinds
        if line.name == PYTORCH:
            raise
        line.reason, line.contestant = _reason(error), None
        return []


def _reason(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text[:160].replace("|", "/")


def measure(
    shape: BatchShape,
    all_lines: list[Line],
    peaks: dict[str, Contestant],
    found: Batches,
    models: Models,
    repetitions: int,
    turn_s: float,
) -> dict[str, list[float]]:
    """Fills in the lines' times and parity at one shape; gives the peaks, GFLOP/s, one of each repetition, by precision."""
    before = {
        line.name: rows
        for line in all_lines
        if line.takes(shape.height, shape.width) and (rows := check(line, found, shape))
    }
    taking = [line for line in all_lines if line.name in before]
    answers: dict[str, list[Floats]] = {name: [rows[0]] for name, rows in before.items()}
    for line in taking:
        line.times[shape] = []
    reached: dict[str, list[float]] = {precision: [] for precision in peaks}
    for _ in range(repetitions if shape.images == 1 else min(repetitions, 3)):
        for precision, peak in peaks.items():
            rate = peak()
            if rate is not None:
                reached[precision].append(rate)
        for line in taking:
            assert line.contestant is not None
            times, posteriors = line.contestant(found.timed, turn_s)
            line.times[shape].append(statistics.median(times))
            answers[line.name].append(posteriors)
    for line in taking:
        rows = [np.concatenate([each[: found.distinct], *before[line.name][1:]]) for each in answers[line.name]]
        line.parity[shape] = compared(found.wanted, rows, models.manifest.classes)
    click.echo(f"{shape}: done", err=True)
    return reached


def table(shape: BatchShape, all_lines: list[Line], peaks: dict[str, list[float]], models: Models) -> Table:
    """One shape's figures."""
    columns = ("contestant", "ms", "images/s", f"times {PYTORCH}", "GFLOP/s", "share of the peak", *COLUMNS)
    result = Table(f"{shape.images} x {shape.height} x {shape.width}", columns)
    assert models.manifest.spec is not None
    gflop = shape.gflop(models.manifest.spec)
    reference = all_lines[0].times[shape]
    for line in all_lines:
        if shape not in line.times:
            why = line.reason or "takes images of 224x224 alone"
            result.rows.append((line.name, f"not measured: {why}", *("-",) * 4, *NOTHING))
            continue
        times = line.times[shape]
        top = peaks[line.precision]
        shares = [100 * 1000 * gflop / ms / peak for ms, peak in zip(times, top, strict=True)] if top else []
        result.rows.append(
            (
                line.name,
                spread(times, 1),
                f"{1000 * shape.images / statistics.median(times):.1f}",
                faster(reference, times),
                f"{1000 * gflop / statistics.median(times):,.0f}",
                spread(shares, 0, " %") if shares else "-",
                *cells(line.parity[shape]),
            )
        )
    return result


def draw(all_lines: list[Line], shapes: list[BatchShape]) -> Any:
    """Bars of images/s of one image, a panel for each size."""
    shapes = [shape for shape in shapes if shape.images == 1]
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
    repetitions, turn_s = (1, 0.0) if setup.quick else (repetitions, TURN_S)
    shapes = list(QUICK if setup.quick else SHAPES)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        more = verification(setup, 2 if setup.quick else max(SHAPES.values()))
        drawn = pictures(setup, folder).draw(max(shape.images for shape in shapes), more)
        models = prepare(folder, setup, drawn.calibration)
        peaks = {precision: stack.enter_context(Contestant(Peak, precision)) for precision in (FLOAT32, BFLOAT16, INT8)}
        judge = stack.enter_context(Contestant(Turn, reference, models.checkpoint))
        all_lines = lines(models)
        for line in all_lines:
            try:
                line.contestant = stack.enter_context(Contestant(Turn, *line.make))
            except Exception as error:  # noqa: BLE001 - a runtime that is not here raises what it likes
                line.reason = _reason(error)
        reached = {}
        for shape in shapes:
            found = batches(shape, drawn.measured, more[: SHAPES.get(shape, 2)], judge, models)
            reached[shape] = measure(shape, all_lines, peaks, found, models, repetitions, turn_s)
    tables = [table(shape, all_lines, reached[shape], models) for shape in shapes]
    beside = (
        f", and at {', '.join(f'{shape} on {count}' for shape, count in SHAPES.items() if count)} labelled images of the network's classes"
        if more and not setup.quick
        else ""
    )
    setting = (
        f"{models.words}; batches already in memory, of {drawn.words}, one call at a time on all cores; {repetitions} repetitions (at most 3 for "
        f"batches of 8). {HOW} torchvision's vgg16 has our weights and widths. OpenVINO, when nothing is asked, computes FP32 files in "
        "BF16 on CPUs that have it, without a word. The peak is that of the best large 1x1 convolution in the same precision, "
        "measured in the same repetitions; convolutions by Winograd's algorithm, which need fewer products than are counted, can pass it. "
        f"Agreement and max dp: with {REFERENCE} in batches of the same shape, of the turn that was furthest off, on the batch that is timed{beside}."
    )
    samples = {
        "ms": {str(shape): {line.name: line.times.get(shape) for line in all_lines} for shape in shapes},
        "peak GFLOP/s": {str(shape): rates for shape, rates in reached.items()},
    }
    text = write(
        "single",
        "One batch at a time",
        setting,
        tables=tables,
        samples=samples,
        drawing=draw(all_lines, shapes),
        out=setup.out,
    )
    click.echo(text)


if __name__ == "__main__":
    main()
