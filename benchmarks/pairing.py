"""INT8 files for either target in either runtime, beside FP32: why `export --target` matters.

    python -m benchmarks.pairing [--repetitions N]

On the VGG-16 and the photos of the folder that VGG_DEPLOY_TEST_DATA names; without it on random weights and generated pictures,
which cost the same.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import numpy as np

from benchmarks.report import Figure, interleaved, write
from benchmarks.subject import subject
from engines import open_engine
from export import export
from export.int8 import Variants, calibrate
from export.sample import draw
from vgg_deploy.engine import Engine, Images
from vgg_deploy.images import decode, rescale
from vgg_deploy.precision import TARGETS
from vgg_deploy.protocols import choose_protocol

SCALE = 256
CALIBRATION_IMAGES = 8
RUNTIMES = ("onnxruntime", "openvino")


@contextlib.contextmanager
def _silent(_what: str, _total: int) -> Iterator[Callable[[], None]]:
    yield lambda: None


def _median_ms(engine: Engine, views: list[Images]) -> float:
    times = []
    for view in views:
        began = time.perf_counter()
        engine.run(view)
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


@click.command()
@click.option("--repetitions", default=5, show_default=True)
@click.option("--count", default=6, show_default=True, help="Images a repetition.")
def main(repetitions: int, count: int) -> None:
    """Time each pairing, interleaved, and write results/pairing.{json,md}."""
    with tempfile.TemporaryDirectory() as folder:
        measured = subject(Path(folder))
        checkpoint, paths = measured.checkpoint(), measured.images
        manifest = checkpoint.manifest
        assert manifest.spec is not None
        protocol = choose_protocol(manifest, "dense", (SCALE,), False, free_size=True).protocol
        sample = draw(paths, CALIBRATION_IMAGES, protocol, manifest.rescaling, lambda path, reason: None)
        files = {"FP32": Path(folder) / "float32.onnx"}
        export(measured.checkpoint(), files["FP32"], dynamic=True)
        with Variants(checkpoint, open_engine) as variants:
            for target in TARGETS:
                calibration = calibrate(
                    variants, manifest.spec, sample, "minmax", target, largest=False, progress=_silent
                )
                path = files[f"INT8 for {target}"] = Path(folder) / f"{target}.onnx"
                quantization = calibration.quantization(calibration.candidates)
                export(measured.checkpoint(), path, dynamic=True, quantization=quantization)
        views = [np.ascontiguousarray(rescale(decode(path), SCALE, manifest.rescaling))[None] for path in paths[:count]]
        pairs = {
            (name, runtime): open_engine(path, runtime=runtime) for name, path in files.items() for runtime in RUNTIMES
        }
        for engine in pairs.values():  # the first run of a shape costs more
            _median_ms(engine, views)
        samples = interleaved(
            repetitions, *(lambda engine=engine: _median_ms(engine, views) for engine in pairs.values())
        )
    first = statistics.median(samples[0])
    figures = [
        Figure(
            f"{name} in {runtime}",
            f"{statistics.median(row):.0f} ms ({min(row):.0f} to {max(row):.0f}), {first / statistics.median(row):.2f}x",
            "",
            tuple(row),
        )
        for (name, runtime), row in zip(pairs, samples, strict=True)
    ]
    setting = (
        f"{measured.network}, {measured.pictures}, batch 1, whole images at Q={SCALE}; medians of {repetitions} interleaved repetitions of {count} images, with the "
        "lowest and the highest; speed as a ratio to the first line."
    )
    click.echo(write("pairing", "INT8 targets and runtimes", setting, figures))


if __name__ == "__main__":
    main()
