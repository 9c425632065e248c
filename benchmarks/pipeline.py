"""What the pipeline costs around its engine: throughput, memory, start-up.

    python -m benchmarks.pipeline [--weights CKPT] [--images DIR]

By default the VGG-16 and the photos of the folder that VGG_DEPLOY_TEST_DATA names; without it a VGG-16 of random weights
and generated pictures, which cost the same.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np

from benchmarks.report import Figure, interleaved, paired_ratio, write
from benchmarks.subject import random_checkpoint, subject
from engines import open_engine
from export import export
from train.reference import Reference
from vgg_deploy.classes import numbered_classes
from vgg_deploy.engine import Engine, EngineInfo, Images, Scores
from vgg_deploy.images import decode, mirrored, rescale
from vgg_deploy.manifest import PAPER_NORMALIZATION, Manifest, TrainScale
from vgg_deploy.predict import predict
from vgg_deploy.protocols import Protocol
from vgg_deploy.spec import NetworkSpec

PROTOCOL = Protocol("multiscale", (224, 256, 288), None, True)
START_UP_RUNS = 10
MEMORY_IMAGES = (90, 900)


class _Recording:
    """An engine that keeps the batches it is given, so that a bare loop can run the very same."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.batches = engine, list[Images]()

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def run(self, images: Images) -> Scores:
        self.batches.append(images.copy())
        return self._engine.run(images)


def _timed(work: Iterator[object] | Sequence[object]) -> float:
    begin = time.perf_counter()
    for _ in work:
        pass
    return time.perf_counter() - begin


def against_bare_loop(engine: Engine, images: Sequence[Path], repetitions: int) -> Figure:
    """`predict`, decode to answer, over the same engine on the same batches already in memory."""
    recording = _Recording(engine)
    _timed(predict(recording, images, PROTOCOL))  # type: ignore[arg-type] - it needs no closing
    bare, whole = interleaved(
        repetitions,
        lambda: _timed(engine.run(batch) for batch in recording.batches),
        lambda: _timed(predict(engine, images, PROTOCOL)),
    )
    ratio, low, high = paired_ratio(bare, whole)
    rate = len(images) / statistics.median(whole)
    return Figure(
        f"infer over the bare {engine.info.runtime} loop",
        f"{ratio:.3f} ({low:.3f} to {high:.3f}), {rate:.2f} images/s",
        "at least 0.95",
        tuple(whole),
    )


def against_pytorch(engine: Engine, reference: Reference, images: Sequence[Path], repetitions: int) -> Figure:
    """`predict` over the program that a user of PyTorch would write: decode, rescale, both mirrors in a batch, average."""
    rescaling = engine.info.manifest.rescaling

    def pytorch() -> Iterator[object]:
        for path in images:
            pixels = decode(path)
            views = [rescale(pixels, scale, rescaling) for scale in PROTOCOL.scales]
            scores = [reference.run(np.stack([view, mirrored(view)])).probabilities for view in views]
            yield np.concatenate(scores).mean(axis=0)

    theirs, ours = interleaved(
        repetitions, lambda: _timed(pytorch()), lambda: _timed(predict(engine, images, PROTOCOL))
    )
    ratio, low, high = paired_ratio(theirs, ours)
    return Figure("infer over PyTorch eager, images/s", f"{ratio:.2f} ({low:.2f} to {high:.2f})", "", tuple(theirs))


def memory(folder: Path, images: Sequence[Path]) -> Figure:
    """Peak memory of `vgg-deploy infer` on a narrow network for few and for many images."""
    spec = NetworkSpec("D", width_divisor=8, fc_width=512, classes=10)
    manifest = Manifest(numbered_classes(10), spec, PAPER_NORMALIZATION, TrainScale(256, 256))
    model = folder / "narrow.onnx"
    export(random_checkpoint(spec, manifest), model, dynamic=True)
    peaks = []
    for count in MEMORY_IMAGES:
        many = folder / str(count)
        many.mkdir()
        for index in range(count):
            path = images[index % len(images)]
            (many / f"{index:05d}{path.suffix}").symlink_to(path.resolve())
        peaks.append(_peak_of(["infer", str(many), "--engine", str(model), "--csv", str(folder / f"{count}.csv")]))
    growth = peaks[1] / peaks[0] - 1
    few, many_ = MEMORY_IMAGES
    return Figure(
        f"peak memory at {few} and at {many_} images",
        f"{peaks[0] / 1e6:.0f} and {peaks[1] / 1e6:.0f} MB ({growth:+.1%})",
        "within 5 %",
        tuple(peaks),
    )


def _peak_of(arguments: list[str]) -> float:
    """Peak resident memory in bytes of a vgg-deploy command of its own."""
    script = (
        "import resource, subprocess, sys;"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
    )
    command = [sys.executable, "-c", script, sys.executable, "-m", "vgg_deploy", *arguments]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def start_up() -> Figure:
    """Time of `vgg-deploy --help`, beside the bare interpreter."""

    def run(*arguments: str) -> float:
        begin = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begin

    run("-m", "vgg_deploy", "--help")
    ours, bare = interleaved(START_UP_RUNS, lambda: run("-m", "vgg_deploy", "--help"), lambda: run("-c", "pass"))
    median = statistics.median(ours)
    return Figure(
        "start-up, vgg-deploy --help",
        f"{median:.2f} s ({paired_ratio(ours, bare)[0]:.1f}x the bare interpreter)",
        "under 0.4 s",
        tuple(ours),
    )


@click.command()
@click.option("--weights", type=click.Path(path_type=Path), help="A VGG checkpoint.")
@click.option("--images", "images_folder", type=click.Path(path_type=Path), help="A folder of photographs.")
@click.option("--count", default=12, show_default=True, help="Photographs for the throughput figures.")
@click.option("--repetitions", default=3, show_default=True)
def main(weights: Path | None, images_folder: Path | None, count: int, repetitions: int) -> None:
    """Measure the pipeline and write benchmarks/results/pipeline.{json,md}."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        measured = subject(folder, weights, images_folder)
        images, checkpoint = measured.images, measured.checkpoint()
        reference = Reference(checkpoint)
        model = export(checkpoint, folder / "vgg16.onnx", dynamic=True).path
        chosen = images[:: max(1, len(images) // count)][:count]
        figures: list[Figure] = []

        def add(figure: Figure) -> None:
            click.echo(f"{figure.name}: {figure.value}", err=True)
            figures.append(figure)

        add(start_up())
        add(memory(folder, images))
        for runtime in ("onnxruntime", "openvino"):
            with open_engine(model, runtime=runtime) as engine:
                add(against_bare_loop(engine, chosen, repetitions))
        with open_engine(model) as engine, reference:
            add(against_pytorch(engine, reference, chosen[: max(1, count // 3)], repetitions))
    setting = (
        f"{measured.network}, FP32, {PROTOCOL}; {len(chosen)} {measured.pictures}; medians of {repetitions} interleaved repetitions, "
        "with the lowest and the highest ratio of a pair. Memory: D at an eighth of its width."
    )
    click.echo(write("pipeline", "The pipeline around the engine", setting, figures))


if __name__ == "__main__":
    main()
