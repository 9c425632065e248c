"""Our engines against the bare runtime, shape by shape.

python -m benchmarks.shapes
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.agreement import COLUMNS, REFERENCE, cells, compared, reference
from benchmarks.contestant import HOW, Contestant
from benchmarks.models import Models, prepare
from benchmarks.options import setup_options
from benchmarks.ours import Turn, call
from benchmarks.report import Table, faster, spread, verdict, write
from benchmarks.straightforward import onnxruntime_session, openvino_model
from benchmarks.subject import Setup, pictures
from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.bench.timing import Ratio
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.views.images import decode, mirrored, resize

SHAPES = tuple(
    BatchShape(*shape)
    for shape in (
        (1, 224, 224),
        (2, 224, 298),
        (2, 256, 341),
        (2, 341, 256),
        (2, 288, 384),
        (1, 384, 512),
        (1, 512, 768),
    )
)
AIM = 0.97
TURN_S = 0.3


def pairs(models: Models) -> dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]]:
    """The bare runtime and ours, in the same precision on the same file."""
    network, tensorrt, onnxruntime = models.float32, models.int8["tensorrt"], models.int8["onnxruntime"]
    return {
        "ONNX Runtime FP32": ((onnxruntime_session, network), (call, network, "onnxruntime")),
        "OpenVINO FP32": ((openvino_model, network, "f32"), (call, network, "openvino")),
        "OpenVINO BF16": ((openvino_model, network, "bf16"), (call, network, "openvino", True)),
        "ONNX Runtime INT8": ((onnxruntime_session, onnxruntime), (call, onnxruntime, "onnxruntime")),
        "OpenVINO INT8": ((openvino_model, tensorrt, "f32"), (call, tensorrt, "openvino")),
    }


def _batch(photo: Images, shape: BatchShape, models: Models) -> Images:
    """One view, or a view and its mirror, as the dense test makes them."""
    view = resize(photo, shape.height, shape.width, models.manifest.rescaling)
    return np.stack([view, mirrored(view)][: shape.images])


@click.command()
@click.option("--repetitions", default=5, show_default=True)
@setup_options
def main(setup: Setup, repetitions: int) -> None:
    """Time each pair at each shape, compare their answers, and write results/shapes.{json,md}."""
    repetitions, turn_s = (1, 0.0) if setup.quick else (repetitions, TURN_S)
    samples: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        drawn = pictures(setup, folder).draw(1)
        models = prepare(folder, setup, drawn.calibration)
        photo = decode(drawn.measured[0])
        judge = stack.enter_context(Contestant(Turn, reference, models.checkpoint))
        running: dict[str, tuple[Contestant, Contestant]] = {}
        reasons = []
        for title, makes in pairs(models).items():
            try:
                theirs, ours = (stack.enter_context(Contestant(Turn, *make)) for make in makes)
                running[title] = theirs, ours
            except Exception as error:  # noqa: BLE001 - a runtime that is not here raises what it likes
                reasons.append(f"{title} was not measured: {str(error).splitlines()[0]}.")
        columns = ("batch", "runtime", "bare, ms", "ours, ms", "times the bare runtime")
        both = (f"{column}, bare" for column in COLUMNS), (f"{column}, ours" for column in COLUMNS)
        table = Table("Shape by shape", (*columns, *both[0], *both[1]), notes=tuple(reasons))
        ratios: dict[str, dict[BatchShape, Ratio]] = {title: {} for title in running}
        for shape in SHAPES:
            images = _batch(photo, shape, models)
            wanted = judge(images)[1]
            for title, pair in running.items():
                answers: tuple[list[Floats], list[Floats]] = ([], [])
                for each, rows in zip(pair, answers, strict=True):
                    rows.append(each(images)[1])  # the first of a shape costs more
                times: tuple[list[float], list[float]] = ([], [])
                for repetition in range(repetitions):
                    for place in (1, 0) if repetition % 2 else (0, 1):
                        turn, posteriors = pair[place](images, turn_s)
                        times[place].append(statistics.median(turn))
                        answers[place].append(posteriors)
                ratios[title][shape] = Ratio.of(*times)
                parities = [cells(compared(wanted, rows, models.manifest.classes)) for rows in answers]
                milliseconds = (spread(row, 1) for row in times)
                table.rows.append((str(shape), title, *milliseconds, faster(*times), *parities[0], *parities[1]))
                samples.setdefault(title, {})[str(shape)] = {"bare_ms": times[0], "ours_ms": times[1]}
            click.echo(f"{shape}: done", err=True)
    worst = Table("The worst shape", ("runtime", "batch", "times the bare runtime"))
    for title, row in ratios.items():
        shape, ratio = min(row.items(), key=lambda pair: pair[1].median)
        worst.rows.append((title, str(shape), f"{ratio.median:.3f}; {verdict(ratio, AIM)}"))
    setting = (
        f"{models.words}; one call at a time on batches in memory, of {drawn.words}, on all cores; a batch of 2 is a view and its mirror. "
        f"Each ratio is how many times as fast ours is as the bare runtime with its defaults (precision pinned) on the same file; "
        f"{repetitions} repetitions, every other one in reverse. {HOW} Agreement and max dp: with {REFERENCE} on the same batch, of the turn "
        "that was furthest off."
    )
    tables = [worst, table]
    click.echo(write("shapes", "Ours beside the bare runtime", setting, tables=tables, samples=samples, out=setup.out))


if __name__ == "__main__":
    main()
