"""INT8 files for either target in either runtime, compared with FP32: why `export --target` matters.

    python -m benchmarks.pairing

It uses the VGG-16 and the photos of the data folder (benchmarks/data.py). Without that folder it uses random weights,
which cost the same, and generated pictures.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np

from benchmarks.agreement import AGREEMENT, COLUMNS
from benchmarks.arena import Arena
from benchmarks.models import ExportedModels, prepare
from benchmarks.options import setup_options
from benchmarks.ours import CPU_RUNTIMES, our_calls
from benchmarks.report import OWN_PROCESSES, SPREAD, Page, Table, faster, spread
from benchmarks.subject import Setup, pictures
from vgg_deploy.bench.batches import ImageBatch
from vgg_deploy.bench.own_process import UnstartedContestant
from vgg_deploy.bench.timing import Ratio
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.views.images import decode, rescale

SCALE = 256
INT8_RUNTIMES = ("onnxruntime", "openvino")


def contestants(models: ExportedModels) -> list[UnstartedContestant]:
    """Each file in each runtime."""
    files = {("FP32", runtime): models.float32 for runtime in CPU_RUNTIMES}
    files |= {
        (f"INT8 for {target}", runtime): path for target, path in models.int8.items() for runtime in INT8_RUNTIMES
    }
    return [
        UnstartedContestant(f"{file} in {runtime}", our_calls, (path, EngineOptions(runtime=runtime), 0.0))
        for (file, runtime), path in files.items()
    ]


def prose(network: str, images: str, repetitions: int) -> tuple[str, list[str]]:
    """The method and the details of the page."""
    method = (
        f"{network} runs on {images}, whole at Q={SCALE}, one at a time. In each of {repetitions} repetitions, every "
        "contestant runs each image once; the time is the median over the images."
    )
    return method, [f"{OWN_PROCESSES} {SPREAD}", AGREEMENT]


@click.command()
@click.option("--repetitions", default=5, show_default=True)
@click.option("--count", default=6, show_default=True, help="Images in each repetition.")
@setup_options
def main(setup: Setup, repetitions: int, count: int) -> None:
    """Time each pairing of file and runtime, in turn, and write results/pairing.{json,md}."""
    repetitions, count = (1, 2) if setup.quick else (repetitions, count)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        drawn = pictures(setup, folder).draw(count)
        models = prepare(folder, setup, drawn.calibration)
        rescaling = models.manifest.rescaling
        views = [rescale(decode(path), SCALE, rescaling) for path in drawn.measured]
        batches = [ImageBatch(np.ascontiguousarray(view)[None], 1) for view in views]
        held = Arena(stack, models, contestants(models)).hold(batches, repetitions * len(batches))

    def milliseconds(name: str) -> list[float]:
        """The median over the images, in each repetition."""
        times = held.image_ms(name)
        return [statistics.median(times[start:][: len(batches)]) for start in range(0, len(times), len(batches))]

    method, details = prose(models.name, drawn.name, repetitions)
    columns = ("file", "runtime", "ms", "times the first row", *COLUMNS)
    table = Table("", method, columns, notes=held.notes)
    samples = {name: milliseconds(name) for name in held.agreement}
    first = next(iter(samples.values()))
    for name, ms in samples.items():
        file, runtime = name.split(" in ")
        ratio = faster(Ratio.of(first, ms))
        table.rows.append((file, CPU_RUNTIMES[runtime], spread(ms, 0), ratio, *held.agreement[name]))
    page = Page(name="pairing", title="INT8 targets and runtimes", tables=[table], details=details, samples=samples)
    click.echo(page.write(setup.out))


if __name__ == "__main__":
    main()
