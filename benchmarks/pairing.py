"""INT8 files for either target in either runtime, beside FP32: why `export --target` matters.

    python -m benchmarks.pairing

On the VGG-16 and the photos of the folder that VGG_DEPLOY_TEST_DATA names; without it on random weights and generated pictures,
which cost the same.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np

from benchmarks.contestant import HOW, Contestant
from benchmarks.models import prepare
from benchmarks.options import setup_options
from benchmarks.ours import Turn, call
from benchmarks.report import Figure, spread, write
from benchmarks.straightforward import pytorch
from benchmarks.subject import Setup, pictures
from vgg_deploy.engine import Floats, Images
from vgg_deploy.images import decode, rescale
from vgg_deploy.parity import compare
from vgg_deploy.timing import Ratio, interleaved

SCALE = 256
RUNTIMES = ("onnxruntime", "openvino")


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
        photos = pictures(setup, folder)
        paths = photos.spread(count)
        models = prepare(folder, setup, photos.others(paths))
        rescaling = models.manifest.rescaling
        views = [np.ascontiguousarray(rescale(decode(path), SCALE, rescaling))[None] for path in paths]
        files = {"FP32": models.float32} | {f"INT8 for {target}": path for target, path in models.int8.items()}
        pairs = {
            (what, runtime): stack.enter_context(Contestant(Turn, call, path, runtime))
            for what, path in files.items()
            for runtime in RUNTIMES
        }
        names = [path.name for path in paths]
        with Contestant(Turn, pytorch, models.checkpoint) as eager:
            wanted = _views(eager, views)[1]
        # The first run of a shape costs more, and does not count.
        first = {pair: _views(contestant, views)[1] for pair, contestant in pairs.items()}
        samples = interleaved(
            repetitions, *(lambda contestant=each: _views(contestant, views)[0] for each in pairs.values())
        )
    figures = []
    for (pair, rows), times in zip(first.items(), samples, strict=True):
        parity = compare(wanted, rows, names, models.manifest.classes)
        agreeing = f"agrees {round(parity.agreement * parity.views)} of {parity.views}, max dp {parity.max_dp:.1g}"
        value = f"{spread(times, 0)} ms, {Ratio.of(samples[0], times).median:.2f}x; {agreeing}"
        figures.append(Figure(f"{pair[0]} in {pair[1]}", value, "", tuple(times)))
    setting = (
        f"{models.words}, {len(paths)} {photos.words}, batch 1, whole images at Q={SCALE}; {repetitions} repetitions; speed as a ratio "
        f"to the first line. {HOW} Agreement and max dp: with PyTorch eager."
    )
    click.echo(write("pairing", "INT8 targets and runtimes", setting, figures, out=setup.out))


if __name__ == "__main__":
    main()
