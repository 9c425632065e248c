"""The page of `benchmarks.multiscale`: its tables, picture and text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.agreement import AGREEMENT, COLUMNS, NOTHING
from benchmarks.programs import (
    AIMS,
    BARE,
    CHECKED,
    LARGE,
    PROTOCOL,
    PYTORCH,
    SAME,
    Paths,
    Program,
)
from benchmarks.report import OWN_PROCESSES, SPREAD, Table, canvas, counted, faster, spread
from vgg_deploy.bench.contest import Contest, ContestRecord
from vgg_deploy.bench.timing import Ratio


@dataclass(frozen=True, slots=True)
class ProtocolMeasurements:
    """What was measured under one protocol.

    Attributes:
        firsts: by program, seconds an image in first passes, each in a fresh process or on new shapes.
        contest: the warm passes.
        agreement: the cells for `COLUMNS`, by program.
        reasons: why the other programs were not measured, by name.
    """

    firsts: dict[str, list[float]]
    contest: Contest[Paths]
    agreement: dict[str, tuple[str, str]]
    reasons: dict[str, str]

    def warm(self, name: str) -> ContestRecord[Paths]:
        return self.contest[name]


def small_table(all_programs: Sequence[Program], measured: ProtocolMeasurements, method: str) -> Table:
    """First and warm passes of each program, against PyTorch eager, the straightforward program and the bare loop."""
    columns = (
        "program",
        *("first pass, images/s", "times PyTorch eager", "times the straightforward program"),
        *("warm, images/s", "times PyTorch eager", "times the straightforward program", "times the bare engine loop"),
        *COLUMNS,
    )
    result = Table("Photos at small Q's", method, columns)
    eager = measured.contest.records[0]
    for each in all_programs:
        if each.name not in measured.agreement:
            result.rows.append(_not_measured(each, measured, len(columns)))
            continue
        warm, first = measured.warm(each.name), measured.firsts[each.name]
        aim = AIMS[each.precision] if each.ours else None
        rival = each.straightforward if each.ours and each.straightforward in measured.agreement else None
        result.rows.append(
            (
                each.name,
                spread([1 / seconds for seconds in first]),
                faster(Ratio.of(measured.firsts[eager.name], first), aim),
                faster(Ratio.of(measured.firsts[rival], first), SAME) if rival else "-",
                spread([1 / seconds for seconds in warm.image_s]),
                faster(warm.ratio_to(eager), aim),
                faster(warm.ratio_to(measured.warm(rival)), SAME) if rival else "-",
                faster(warm.ratio_to(measured.warm(each.name + BARE)), SAME) if each.ours else "-",
                *measured.agreement[each.name],
            )
        )
    return result


def large_table(all_programs: Sequence[Program], measured: ProtocolMeasurements, method: str) -> Table:
    """Passes over photos of many sizes: speed, and how many cores were busy."""
    columns = (
        "program",
        *("first pass, images/s", "images/s", "times the straightforward program", "times the bare engine loop"),
        *("cores busy", *COLUMNS),
    )
    result = Table("Photos of many sizes at large Q's", method, columns)
    for each in all_programs:
        if each.name not in measured.agreement:
            if each.name != PYTORCH:
                result.rows.append(_not_measured(each, measured, len(columns)))
            continue
        warm = measured.warm(each.name)
        rival = each.straightforward if each.ours and each.straightforward in measured.agreement else None
        result.rows.append(
            (
                each.name,
                spread([1 / seconds for seconds in measured.firsts[each.name]]),
                spread([1 / seconds for seconds in warm.image_s]),
                faster(warm.ratio_to(measured.warm(rival)), SAME) if rival else "-",
                faster(warm.ratio_to(measured.warm(each.name + BARE)), SAME) if each.ours else "-",
                spread([turn.cores_busy for turn in warm.turns.values()]),
                *measured.agreement[each.name],
            )
        )
    return result


def _not_measured(each: Program, measured: ProtocolMeasurements, columns: int) -> tuple[str, ...]:
    return each.name, f"not measured: {measured.reasons.get(each.name, '')}", *("-",) * (columns - 4), *NOTHING


def draw(all_programs: Sequence[Program], measured: ProtocolMeasurements) -> Any:
    """Bars of warm images/s with PyTorch's multiple, and a mark at the speed of the first pass."""
    with canvas(height=3.8) as (drawing, (panel,)):
        shown = [each for each in reversed(all_programs) if each.name in measured.agreement]
        names = [each.name for each in shown]
        rates = [1 / statistics.median(measured.warm(name).image_s) for name in names]
        bars = panel.barh(names, rates, color=["tab:blue" if each.ours else "tab:gray" for each in shown])
        firsts = [1 / statistics.median(measured.firsts[name]) for name in names]
        panel.plot(firsts, names, "k|", ms=12, label="first pass")
        times = [measured.warm(name).ratio_to(measured.contest.records[0]).median for name in names]
        labels = [f"{rate:.2f} ({ratio:.1f}x)" for rate, ratio in zip(rates, times, strict=True)]
        panel.bar_label(bars, labels, padding=3)
        panel.margins(x=0.15)
        panel.legend(frameon=False)
        panel.set_title("multi-scale dense test, file to answer: images/s (times PyTorch eager)")
        return drawing


def samples(all_programs: Sequence[Program], measured: ProtocolMeasurements, count: int) -> dict[str, Any]:
    """Seconds of each pass, warm ones by repetition, and cores busy in them."""
    result: dict[str, Any] = {}
    for each in all_programs:
        if each.name not in measured.agreement:
            result[each.name] = {"reason": measured.reasons.get(each.name, "not part of this table")}
            continue
        warm = measured.warm(each.name)
        result[each.name] = {
            "first_s": [count * seconds for seconds in measured.firsts[each.name]],
            "warm_s": {number: turn.seconds[0] for number, turn in warm.turns.items()},
            "cores_busy": {number: turn.cores_busy for number, turn in warm.turns.items()},
        }
        if each.ours:
            bare = measured.warm(each.name + BARE)
            result[each.name]["bare_s"] = {number: turn.seconds[0] for number, turn in bare.turns.items()}
    return result


@dataclass(frozen=True, slots=True)
class Extent:
    """The amount of measuring: images and passes at small Q's (`repetitions` are warm passes), and at large Q's."""

    count: int
    repetitions: int
    first_passes: int
    large_count: int
    large_repetitions: int


def prose(network: str, images: tuple[str, str], extent: Extent, checked: int) -> tuple[tuple[str, str], list[str]]:
    """The methods of the two tables, and the details of the page.

    Args:
        images: what the tables are measured on, as text.
        checked: how many labelled images are compared too.
    """
    small = (
        f"{network} classifies {images[0]}, from file to averaged posteriors ({PROTOCOL}). A first pass runs in a "
        f"fresh process ({counted(extent.first_passes, 'process')}). Warm passes repeat the same images: "
        f"{counted(extent.repetitions, 'time')} in BF16 and INT8, half as often in FP32, and a quarter as often in "
        "PyTorch. The programs without vgg-deploy in their names are what a user would write "
        "(benchmarks/straightforward.py)."
    )
    large = (
        f"{network} classifies {images[1]} ({LARGE}). The photos differ in size where possible, so that few views "
        f"share a batch. A first pass is followed by {counted(extent.large_repetitions, 'more pass')}. Cores busy is "
        "the CPU time of all threads of the program's process, divided by the wall time of the pass."
    )
    more = f" and {checked} labelled images of the network's classes" if checked else ""
    details = [
        f"{OWN_PROCESSES} {SPREAD} On each runtime, the straightforward program, ours and the bare loop run directly "
        "after one another, in reverse order every other time.",
        "The straightforward programs take one image at a time, with a view and its mirror in each call. They use the "
        "runtime's defaults, except that the precision is set in OpenVINO. Ours is `predict` with "
        "`open_engine(requests=None)`. The bare loop runs the batches that `predict` made, already in memory and with "
        "as many in flight, and checks that the answers are the same. OpenVINO runs the INT8 file for TensorRT, and "
        "ONNX Runtime the one for ONNX Runtime.",
        f"{AGREEMENT} Compared are the timed images{more}; for the second table, the first {CHECKED}.",
        'The aims are for two cores with AVX-512 VNNI. "Within the noise" means closer to the aim than two standard '
        "errors.",
    ]
    return (small, large), details
