"""The paper's multi-scale dense test (section 3.2), from image files to answers: the programs that a user would write, and ours.

python -m benchmarks.multiscale
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.agreement import COLUMNS, NOTHING, REFERENCE, Judge, cells, compared
from benchmarks.contestant import HOW, Contestant
from benchmarks.models import Models, prepare
from benchmarks.options import setup_options
from benchmarks.ours import CPU_RUNTIMES, Stream
from benchmarks.report import Table, canvas, faster, spread, write
from benchmarks.straightforward import onnxruntime_session, openvino_model, program, pytorch
from benchmarks.subject import Setup, pictures, verification
from vgg_deploy.bench.timing import Ratio
from vgg_deploy.evaluation.parity import Parity
from vgg_deploy.network.tensors import Floats
from vgg_deploy.views.protocols import Protocol

PROTOCOL = Protocol("multiscale", (224, 256, 288), None, True)
PYTORCH = "PyTorch eager FP32"
# Against PyTorch eager, on two cores with AVX-512 VNNI; and against the straightforward program or the bare loop on the same engine.
AIMS = {"FP32": 2.2, "BF16": 4.0, "INT8": 8.0}
SAME = 0.97
CHECKED = 4  # labelled images on which answers are compared too
# Every which repetition a group takes part in. Passes in FP32 take twice as long as others and PyTorch's three times; and PyTorch is
# not one of those that are a few per cent apart.
EVERY = {PYTORCH: 4, "FP32": 2}


@dataclass(slots=True)
class Line:
    """A program and what was measured of it.

    Attributes:
        runtime: what computes, as tables call it.
        precision: FP32, BF16 or INT8.
        make: what its `Contestant` is given.
        reason: why it has no figures.
        first: seconds of first passes, each in a fresh process, from the first file to the last answer.
        warm: seconds of later passes, by repetition.
        bare: seconds of the bare engine loop on the same batches, by repetition.
        strayed: by how much a posterior of the bare loop differed from the first pass's, at most.
        answers: posteriors of each pass, on the images that are timed.
        parity: of the pass that is furthest off, and of the checked images.
    """

    runtime: str
    precision: str
    make: tuple[Any, ...]
    contestant: Contestant | None = None
    reason: str = ""
    first: list[float] = field(default_factory=list)
    warm: dict[int, float] = field(default_factory=dict)
    bare: dict[int, float] = field(default_factory=dict)
    strayed: float = 0.0
    answers: list[Floats] = field(default_factory=list)
    parity: Parity | None = None

    @property
    def ours(self) -> bool:
        return self.make[0] is Stream

    @property
    def group(self) -> tuple[str, str]:
        """Those that are told apart by a few per cent: the straightforward program and ours on one runtime."""
        return self.runtime, self.precision

    @property
    def straightforward(self) -> str:
        return f"{self.runtime} {self.precision}"

    @property
    def name(self) -> str:
        return f"vgg-deploy {self.precision} on {self.runtime}" if self.ours else self.straightforward

    def play(self, paths: Sequence[Path], repetition: int, bare: bool) -> None:
        """One warm pass, or the bare loop."""
        assert self.contestant is not None
        if bare:
            self.bare[repetition], strayed = self.contestant(paths, True)
            self.strayed = max(self.strayed, strayed)
        else:
            self.warm[repetition], posteriors = self.contestant(paths)
            self.answers.append(posteriors)


def lines(models: Models) -> list[Line]:
    """The programs; the first is what the others are compared with."""
    network, tensorrt, onnxruntime = models.float32, models.int8["tensorrt"], models.int8["onnxruntime"]

    def theirs(runtime: str, precision: str, make: Any, *arguments: Any) -> Line:
        return Line(runtime, precision, (program, make, arguments, PROTOCOL.scales))

    def own(runtime: str, precision: str, path: Path, **options: Any) -> Line:
        return Line(CPU_RUNTIMES[runtime], precision, (Stream, path, {"runtime": runtime, **options}, PROTOCOL))

    ort, ov = CPU_RUNTIMES["onnxruntime"], CPU_RUNTIMES["openvino"]
    return [
        theirs("PyTorch eager", "FP32", pytorch, models.checkpoint),
        theirs(ort, "FP32", onnxruntime_session, network),
        theirs(ov, "FP32", openvino_model, network, "f32"),
        theirs(ov, "BF16", openvino_model, network, "bf16"),
        theirs(ort, "INT8", onnxruntime_session, onnxruntime),
        theirs(ov, "INT8", openvino_model, tensorrt, "f32"),
        *(own(runtime, "FP32", network) for runtime in CPU_RUNTIMES),
        own("openvino", "BF16", network, allow_bf16=True),
        own("onnxruntime", "INT8", onnxruntime),
        own("openvino", "INT8", tensorrt),
    ]


def groups(all_lines: list[Line]) -> Iterator[list[Line]]:
    """The lines that still take part, those that are told apart by little next to each other."""
    for group in dict.fromkeys(line.group for line in all_lines):
        members = [line for line in all_lines if line.group == group and not line.reason]
        if members:
            yield members


def cold_passes(all_lines: list[Line], paths: list[Path], count: int, stack: ExitStack) -> None:
    """What a user of a folder of photos pays: each image is met for the first time by its process. Those of the last turn stay open."""
    for turn in range(count):
        for group in groups(all_lines):
            for line in reversed(group) if turn % 2 else group:
                try:
                    contestant = stack.enter_context(Contestant(*line.make))
                    seconds, posteriors = contestant(paths)
                except Exception as error:  # noqa: BLE001 - a runtime that is not here raises what it likes
                    line.reason = str(error).splitlines()[0]
                    continue
                line.first.append(seconds)
                line.answers.append(posteriors)
                click.echo(f"{line.name}: {len(paths) / seconds:.2f} images/s in a first pass", err=True)
                if turn == count - 1:
                    line.contestant = contestant
                else:
                    contestant.close()


def warm_passes(all_lines: list[Line], paths: list[Path], repetitions: int) -> None:
    """Passes over the same images again. A group's turns follow each other, every other time in reverse, so that what the machine
    does meanwhile meets them alike."""
    for repetition in range(repetitions):
        for group in groups(all_lines):
            first = group[0]
            every = EVERY.get(first.name, EVERY.get(first.precision, 1))
            if repetition % every:
                continue
            turns = [(line, bare) for line in group for bare in ((False, True) if line.ours else (False,))]
            for line, bare in reversed(turns) if repetition // every % 2 else turns:
                line.play(paths, repetition, bare)
        click.echo(f"repetition {repetition + 1} of {repetitions}: done", err=True)


def check(all_lines: list[Line], paths: list[Path], checked: list[Path], models: Models) -> None:
    """Fills the lines' parity in: every pass that was timed, and once more on labelled images."""
    with Contestant(Judge, models.checkpoint) as judge:
        wanted = judge(paths, PROTOCOL)
        wanted_more = judge(checked, PROTOCOL) if checked else wanted[:0]
    for group in groups(all_lines):
        for line in group:
            assert line.contestant is not None
            more = line.contestant(checked)[1] if checked else wanted_more
            line.parity = compared(
                np.concatenate([wanted, wanted_more]),
                [np.concatenate([rows, more]) for rows in line.answers],
                models.manifest.classes,
            )


def _same(first: dict[int, float], other: dict[int, float]) -> tuple[list[float], list[float]]:
    """Times of the repetitions in which both took part."""
    common = sorted(first.keys() & other.keys())
    return [first[each] for each in common], [other[each] for each in common]


def table(all_lines: list[Line], count: int) -> Table:
    """A row for each program."""
    columns = (
        "program",
        *("first pass, images/s", "times PyTorch eager", "times the straightforward program"),
        *("warm, images/s", "times PyTorch eager", "times the straightforward program", "times the bare engine loop"),
        *COLUMNS,
    )
    result = Table("", columns)
    eager = all_lines[0]
    for line in all_lines:
        if line.reason or line.parity is None:
            result.rows.append((line.name, f"not measured: {line.reason}", *("-",) * 6, *NOTHING))
            continue
        aim = AIMS[line.precision] if line.ours else None
        rival = next((other for other in all_lines if other.name == line.straightforward), None) if line.ours else None
        beaten = rival is not None and not rival.reason
        result.rows.append(
            (
                line.name,
                spread([count / seconds for seconds in line.first]),
                faster(eager.first, line.first, aim),
                faster(rival.first, line.first, SAME) if rival and beaten else "-",
                spread([count / seconds for seconds in line.warm.values()]),
                faster(*_same(eager.warm, line.warm), aim),
                faster(*_same(rival.warm, line.warm), SAME) if rival and beaten else "-",
                faster(*_same(line.bare, line.warm), SAME) if line.ours else "-",
                *cells(line.parity),
            )
        )
    return result


def draw(all_lines: list[Line], count: int) -> Any:
    """Bars of warm images/s with PyTorch's multiple, and a mark where the first pass was."""
    with canvas(height=3.8) as (drawing, (panel,)):
        shown = [line for line in reversed(all_lines) if line.warm]
        names = [line.name for line in shown]
        rates = [count / statistics.median(line.warm.values()) for line in shown]
        bars = panel.barh(names, rates, color=["tab:blue" if line.ours else "tab:gray" for line in shown])
        panel.plot([count / statistics.median(line.first) for line in shown], names, "k|", ms=12, label="first pass")
        times = [Ratio.of(*_same(all_lines[0].warm, line.warm)).median for line in shown]
        labels = [f"{rate:.2f} ({ratio:.1f}x)" for rate, ratio in zip(rates, times, strict=True)]
        panel.bar_label(bars, labels, padding=3)
        panel.margins(x=0.15)
        panel.legend(frameon=False)
        panel.set_title("multi-scale dense test, file to answer: images/s (times PyTorch eager)")
        return drawing


@click.command()
@click.option("--count", type=click.IntRange(1), default=5, show_default=True, help="Images a pass.")
@click.option(
    "--repetitions",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Warm passes in BF16 and INT8; in FP32 half as many, of PyTorch a quarter.",
)
@click.option("--first-passes", type=click.IntRange(1), default=2, show_default=True, help="Each in a fresh process.")
@setup_options
def main(setup: Setup, count: int, repetitions: int, first_passes: int) -> None:
    """Time the multi-scale test in each program, compare the answers, and write results/multiscale.{json,md,svg}."""
    if setup.quick:
        count, repetitions, first_passes = 2, 1, 1
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        checked = verification(setup, 2 if setup.quick else CHECKED)
        drawn = pictures(setup, folder).draw(count, checked)
        models = prepare(folder, setup, drawn.calibration)
        all_lines = lines(models)
        cold_passes(all_lines, drawn.measured, first_passes, stack)
        warm_passes(all_lines, drawn.measured, repetitions)
        check(all_lines, drawn.measured, checked, models)
    count = len(drawn.measured)
    more = f", and on {len(checked)} labelled images of the network's classes" if checked else ""
    setting = (
        f"{models.words}; {PROTOCOL}; {drawn.words}, from files to averaged posteriors. First pass: each image is met for the first time by "
        f"its process, which is what a folder of photos costs; {first_passes}, each in a fresh process, opened before. Warm: the same images "
        f"again, in BF16 and INT8 {repetitions} times, in FP32 every second and in PyTorch every fourth of these repetitions. {HOW} The "
        "straightforward program, ours and the bare loop on one runtime follow each other directly, every other time in reverse. The other "
        "programs are those that a user would write (benchmarks/straightforward.py): one image after the other, a view and its mirror in a "
        "call, the runtime's defaults, but for the precision, which OpenVINO is told. Ours is `predict` over `open_engine(requests=None)`; the "
        "bare loop runs the batches that it made, already in memory, with as many in flight; its posteriors differ from the first pass's by "
        f"{max(line.strayed for line in all_lines):.1g} at most. INT8: the file for TensorRT in OpenVINO, the one for ONNX Runtime in it. "
        f"Agreement and max dp: with {REFERENCE}, of the pass that was furthest off, on the images that are timed{more}. The aims are for "
        "two cores with AVX-512 VNNI; one within two standard errors is reached or missed within the noise."
    )
    samples = {
        line.name: {
            "first_s": line.first,
            "warm_s": line.warm,
            "bare_s": line.bare,
            "bare_strayed": line.strayed,
            "reason": line.reason,
        }
        for line in all_lines
    }
    text = write(
        "multiscale",
        "The multi-scale dense test, file to answer",
        setting,
        tables=[table(all_lines, count)],
        samples=samples,
        drawing=draw(all_lines, count),
        out=setup.out,
    )
    click.echo(text)


if __name__ == "__main__":
    main()
