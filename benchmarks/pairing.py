"""INT8 files for either target in either runtime, beside FP32: why `export --target` matters.

    python -m benchmarks.pairing

On the VGG-16 and the photos of the data folder (benchmarks/data.py); without it on random weights and generated pictures, which
cost the same.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np

from benchmarks.agreement import COLUMNS, REFERENCE, cells, compared, reference
from benchmarks.contestant import HOW, Contestant
from benchmarks.models import prepare
from benchmarks.options import setup_options
from benchmarks.ours import CPU_RUNTIMES, Turn, call
from benchmarks.report import Table, faster, interleaved, spread, write
from benchmarks.subject import Setup, pictures
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.views.images import decode, rescale

SCALE = 256
INT8_RUNTIMES = ("onnxruntime", "openvino")


def _views(contestant: Contestant, views: list[Images]) -> tuple[float, Floats]:
    """The median ms of a view, and the posteriors of all."""
    turns = [contestant(view) for view in views]
    return statistics.median(times[0] for times, _posteriors in turns), np.concatenate([rows for _times, rows in turns])


@click.command()
@click.option("--repetitions", default=5, show_default=True)
@click.option("--count", default=6, show_default=True, help="Images a repetition.")
@setup_options
def main(setup: Setup, repetitions: int, count: int) -> None:
    """Time each pairing, interleaved, and write results/pairing.{json,md}."""
    repetitions, count = (1, 2) if setup.quick else (repetitions, count)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        drawn = pictures(setup, folder).draw(count)
        models = prepare(folder, setup, drawn.calibration)
        rescaling = models.manifest.rescaling
        views = [np.ascontiguousarray(rescale(decode(path), SCALE, rescaling))[None] for path in drawn.measured]
        pairs = {("FP32", runtime): models.float32 for runtime in CPU_RUNTIMES}
        pairs |= {
            (f"INT8 for {target}", runtime): path for target, path in models.int8.items() for runtime in INT8_RUNTIMES
        }
        with Contestant(Turn, reference, models.checkpoint) as judge:
            wanted = _views(judge, views)[1]
        running: dict[tuple[str, str], Contestant] = {}
        reasons: list[str] = []
        answers: dict[tuple[str, str], list[Floats]] = {}
        for pair, path in pairs.items():
            try:
                running[pair] = stack.enter_context(Contestant(Turn, call, path, pair[1]))
                # The first run of a shape costs more, and does not count.
                answers[pair] = [_views(running[pair], views)[1]]
            except Exception as error:  # noqa: BLE001 - a runtime that is not here raises what it likes
                running.pop(pair, None)
                reasons.append(f"{pair[0]} in {CPU_RUNTIMES[pair[1]]} was not measured: {str(error).splitlines()[0]}.")

        def turn(pair: tuple[str, str]) -> float:
            ms, rows = _views(running[pair], views)
            answers[pair].append(rows)
            return ms

        samples = interleaved(repetitions, *(lambda pair=pair: turn(pair) for pair in running))
    table = Table("", ("file", "runtime", "ms", "times the first line", *COLUMNS), notes=tuple(reasons))
    for pair, times in zip(running, samples, strict=True):
        parity = compared(wanted, answers[pair], models.manifest.classes)
        title = CPU_RUNTIMES[pair[1]]
        table.rows.append((pair[0], title, spread(times, 0), faster(samples[0], times), *cells(parity)))
    setting = (
        f"{models.words}, {drawn.words}, batch 1, whole images at Q={SCALE}; {repetitions} repetitions. {HOW} Agreement and max dp: with "
        f"{REFERENCE} on the same images, of the repetition that was furthest off."
    )
    record = {f"{what} in {runtime}": times for (what, runtime), times in zip(running, samples, strict=True)}
    click.echo(write("pairing", "INT8 targets and runtimes", setting, tables=[table], samples=record, out=setup.out))


if __name__ == "__main__":
    main()
