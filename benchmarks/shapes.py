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

from benchmarks.contestant import HOW, Contestant
from benchmarks.models import Models, prepare
from benchmarks.options import setup_options
from benchmarks.ours import Turn, call
from benchmarks.report import Table, faster, write
from benchmarks.straightforward import onnxruntime_session, openvino_model
from benchmarks.subject import Setup, pictures
from vgg_deploy.images import decode, resize
from vgg_deploy.parity import compare
from vgg_deploy.timing import BatchShape, Ratio

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


@click.command()
@click.option("--repetitions", default=5, show_default=True)
@setup_options
def main(setup: Setup, repetitions: int) -> None:
    """Time each pair at each shape, compare their answers, and write results/shapes.{json,md}."""
    repetitions, turn_s = (1, 0.0) if setup.quick else (repetitions, TURN_S)
    samples: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        photos = pictures(setup, folder)
        paths = photos.spread(2)
        models = prepare(folder, setup, photos.others(paths))
        running: dict[str, tuple[Contestant, Contestant]] = {}
        reasons = []
        for title, makes in pairs(models).items():
            try:
                theirs, ours = (stack.enter_context(Contestant(Turn, *make)) for make in makes)
                running[title] = theirs, ours
            except Exception as error:  # noqa: BLE001 - a runtime that is not here raises what it likes
                reasons.append(f"{title} was not measured: {str(error).splitlines()[0]}.")
        table = Table("", ("batch", *running), notes=tuple(reasons))
        ratios: dict[str, list[Ratio]] = {title: [] for title in running}
        differences = dict.fromkeys(running, 0.0)
        for shape in SHAPES:
            views = [resize(decode(path), shape.height, shape.width, models.manifest.rescaling) for path in paths]
            images = np.stack(views[: shape.images])
            cells = []
            for title, pair in running.items():
                wanted, got = (each(images)[1] for each in pair)  # the first of a shape costs more
                found = compare(wanted, got, [str(shape)] * shape.images, models.manifest.classes)
                differences[title] = max(differences[title], found.max_dp)
                times: tuple[list[float], list[float]] = ([], [])
                for _ in range(repetitions):
                    for each, row in zip(pair, times, strict=True):
                        row.append(statistics.median(each(images, turn_s)[0]))
                ratios[title].append(Ratio.of(*times))
                cells.append(faster(*times))
                samples.setdefault(title, {})[str(shape)] = {"bare_ms": times[0], "ours_ms": times[1]}
            table.rows.append((str(shape), *cells))
            click.echo(f"{shape}: {', '.join(cells)}", err=True)
    worst = {title: min(ratio.median for ratio in row) for title, row in ratios.items()}
    words = [f"{low:.3f}; aim {AIM:g} {'reached' if low >= AIM else 'missed'}" for low in worst.values()]
    table.rows.append(("**the worst**", *words))
    table.rows.append(("max dp between the two", *(f"{value:.1g}" for value in differences.values())))
    setting = (
        f"{models.words}; one call at a time on batches in memory, of {photos.words}, on all cores. Each figure is how many times as fast ours is as the bare "
        f"runtime with its defaults (precision pinned) on the same file; {repetitions} repetitions. {HOW}"
    )
    text = write("shapes", "Ours beside the bare runtime", setting, tables=[table], samples=samples, out=setup.out)
    click.echo(text)


if __name__ == "__main__":
    main()
