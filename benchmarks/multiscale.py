"""The paper's multi-scale dense test (section 3.2), from image files to answers: the programs that a user would write, and ours.

python -m benchmarks.multiscale
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.contestant import HOW, Contestant
from benchmarks.models import Models, prepare
from benchmarks.options import setup_options
from benchmarks.ours import Stream
from benchmarks.report import Table, canvas, faster, spread, write
from benchmarks.straightforward import onnxruntime_session, openvino_model, program, pytorch
from benchmarks.subject import Setup, pictures, verification
from vgg_deploy.engine import Floats
from vgg_deploy.parity import Parity, compare
from vgg_deploy.protocols import Protocol
from vgg_deploy.timing import paired_ratio

PROTOCOL = Protocol("multiscale", (224, 256, 288), None, True)
REFERENCE = "PyTorch eager FP32"
# Against PyTorch eager, on two cores with AVX-512 VNNI; and against the straightforward program or the bare loop on the same engine.
AIMS = {"FP32": 2.2, "BF16": 4.0, "INT8": 8.0}
SAME = 0.97
CHECKED = 12  # images on which every program's answers are compared with PyTorch's


@dataclass(slots=True)
class Line:
    """A program and what was measured of it.

    Attributes:
        name: in the table.
        precision: FP32, BF16 or INT8.
        make: what its `Contestant` is given.
        rival: for one of ours, the straightforward program of the same runtime and precision.
        reason: why it has no figures.
        seconds: from the first file to the last answer, one of each repetition.
        first: seconds of the first pass, in which runtimes meet each shape for the first time.
        bare: seconds of the bare engine loop on the same batches, one of each repetition.
        parity: against PyTorch.
    """

    name: str
    precision: str
    make: tuple[Any, ...]
    rival: str = ""
    contestant: Contestant | None = None
    reason: str = ""
    seconds: list[float] = field(default_factory=list)
    first: float = 0.0
    bare: list[float] = field(default_factory=list)
    parity: Parity | None = None

    @property
    def ours(self) -> bool:
        return self.make[0] is Stream


def lines(models: Models) -> list[Line]:
    """The programs; the first is what the others are compared with."""
    network, tensorrt, onnxruntime = models.float32, models.int8["tensorrt"], models.int8["onnxruntime"]

    def theirs(runtime: str, precision: str, make: Any, *arguments: Any) -> Line:
        return Line(f"{runtime} {precision}", precision, (program, make, arguments, PROTOCOL.scales))

    def own(runtime: str, precision: str, path: Path, **options: Any) -> Line:
        options["runtime"] = runtime.lower().replace(" ", "")
        name = f"vgg-deploy {precision} on {runtime}"
        return Line(name, precision, (Stream, path, options, PROTOCOL), rival=f"{runtime} {precision}")

    ort, ov = "ONNX Runtime", "OpenVINO"
    return [
        theirs("PyTorch eager", "FP32", pytorch, models.checkpoint),
        theirs(ort, "FP32", onnxruntime_session, network),
        theirs(ov, "FP32", openvino_model, network, "f32"),
        theirs(ov, "BF16", openvino_model, network, "bf16"),
        theirs(ort, "INT8", onnxruntime_session, onnxruntime),
        theirs(ov, "INT8", openvino_model, tensorrt, "f32"),
        own(ort, "FP32", network),
        own(ov, "FP32", network),
        own(ov, "BF16", network, allow_bf16=True),
        own(ort, "INT8", onnxruntime),
        own(ov, "INT8", tensorrt),
    ]


def measure(all_lines: list[Line], paths: list[Path], checked: list[Path], models: Models, repetitions: int) -> None:
    """Fills the lines in. The first pass of each meets the shapes; it does not count among the others.

    Args:
        paths: images that are timed.
        checked: those that answers are compared on.
    """
    reference: Floats | None = None
    running = [line for line in all_lines if line.contestant is not None]
    for line in running:
        assert line.contestant is not None
        line.first = line.contestant(paths)[0]
        click.echo(f"{line.name}: {len(paths) / line.first:.2f} images/s in the first pass", err=True)
    for _ in range(repetitions):
        for line in running:
            assert line.contestant is not None
            line.seconds.append(line.contestant(paths)[0])
            if line.ours:
                line.bare.append(line.contestant(paths, True)[0])
    for line in running:
        assert line.contestant is not None
        answers = line.contestant(checked)[1]
        reference = answers if reference is None else reference
        line.parity = compare(reference, answers, [path.name for path in checked], models.manifest.classes)


def table(all_lines: list[Line], count: int) -> Table:
    """A row for each program."""
    columns = (
        "program",
        "images/s",
        f"times {REFERENCE}",
        "times the straightforward program",
        "times the bare engine loop",
        "top-1 agreement",
        "max dp",
    )
    result = Table("", columns)
    by_name = {line.name: line for line in all_lines}
    for line in all_lines:
        if not line.seconds or line.parity is None:
            result.rows.append((line.name, f"not measured: {line.reason}", *("-",) * 5))
            continue
        rival = by_name.get(line.rival)
        rates = [count / seconds for seconds in line.seconds]
        result.rows.append(
            (
                line.name,
                spread(rates),
                faster(by_name[REFERENCE].seconds, line.seconds, AIMS[line.precision] if line.ours else None),
                faster(rival.seconds, line.seconds, SAME) if rival and rival.seconds else "-",
                faster(line.bare, line.seconds, SAME) if line.bare else "-",
                f"{round(line.parity.agreement * line.parity.views)} of {line.parity.views}",
                f"{line.parity.max_dp:.1g}",
            )
        )
    return result


def draw(all_lines: list[Line], count: int) -> Any:
    """Bars of images/s with PyTorch's multiple."""
    with canvas(height=3.6) as (drawing, (panel,)):
        shown = [line for line in reversed(all_lines) if line.seconds]
        rates = [count / statistics.median(line.seconds) for line in shown]
        bars = panel.barh(
            [line.name for line in shown], rates, color=["tab:blue" if line.ours else "tab:gray" for line in shown]
        )
        times = [paired_ratio(shown[-1].seconds, line.seconds)[0] for line in shown]
        labels = [f"{rate:.2f} ({ratio:.1f}x)" for rate, ratio in zip(rates, times, strict=True)]
        panel.bar_label(bars, labels, padding=3)
        panel.margins(x=0.15)
        panel.set_title("multi-scale dense test, file to answer: images/s (times PyTorch eager)")
        return drawing


@click.command()
@click.option("--count", default=5, show_default=True, help="Images a repetition.")
@click.option("--repetitions", default=3, show_default=True)
@setup_options
def main(setup: Setup, count: int, repetitions: int) -> None:
    """Time the multi-scale test in each program, compare the answers, and write results/multiscale.{json,md,svg}."""
    count, repetitions = (2, 1) if setup.quick else (count, repetitions)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        photos = pictures(setup, folder)
        paths = photos.spread(count)
        models = prepare(folder, setup, photos.others(paths))
        sure = verification(setup, photos)
        all_lines = lines(models)
        for line in all_lines:
            try:
                line.contestant = stack.enter_context(Contestant(*line.make))
            except Exception as error:  # noqa: BLE001 - a runtime that is not here raises what it likes
                line.reason = str(error).splitlines()[0]
        measure(all_lines, paths, sure.spread(2 if setup.quick else CHECKED), models, repetitions)
    setting = (
        f"{models.words}; {PROTOCOL}; {len(paths)} {photos.words}, from files to averaged posteriors; {repetitions} repetitions after a "
        f"first pass that does not count. {HOW} The other programs are those that a user would write (benchmarks/straightforward.py): "
        "one image after the other, a view and its mirror in a call, the runtime's defaults, but for the precision, which OpenVINO is "
        f"told. Ours is `predict` over `open_engine(requests=None)`; the bare loop runs the batches that it made, already in memory, with "
        f"as many in flight. INT8: the file for TensorRT in OpenVINO, the one for ONNX Runtime in it. Agreement and max dp are against "
        f"{REFERENCE}, on {sure.words}, by the same test. The aims are for two cores with AVX-512 VNNI."
    )
    samples = {
        line.name: {"first_s": line.first, "seconds": line.seconds, "bare_s": line.bare, "reason": line.reason}
        for line in all_lines
    }
    drawing = draw(all_lines, len(paths))
    tables = [table(all_lines, len(paths))]
    text = write(
        "multiscale",
        "The multi-scale dense test, file to answer",
        setting,
        tables=tables,
        samples=samples,
        drawing=drawing,
        out=setup.out,
    )
    click.echo(text)


if __name__ == "__main__":
    main()
