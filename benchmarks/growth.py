"""How time and memory grow with pixels, threads and the number of images.

python -m benchmarks.growth
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.agreement import AGREEMENT, COLUMNS
from benchmarks.arena import Arena
from benchmarks.many_images import images
from benchmarks.models import ExportedModels, prepare
from benchmarks.options import setup_options
from benchmarks.ours import CPU_RUNTIMES, our_calls
from benchmarks.report import OWN_PROCESSES, PEAK, SPREAD, Page, Table, canvas, counted, faster, spread
from benchmarks.subject import Setup, pictures
from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.bench.batches import ImageBatch
from vgg_deploy.bench.own_process import UnstartedContestant
from vgg_deploy.bench.peak import BFLOAT16
from vgg_deploy.cores import usable_cores
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.precision import FLOAT32, INT8
from vgg_deploy.views.images import decode, resize

SIZES = tuple(
    BatchShape(1, *size) for size in ((224, 224), (384, 512), (512, 512), (512, 768), (768, 768), (1024, 1024))
)
COUNTS = (100, 1_000, 10_000)
INT8_AIM, INT8_FROM = 0.85, 384 * 512  # share of the INT8 peak, for images of at least so many pixels
TURN_S = 0.25
THREADS_SIZE = BatchShape(1, 384, 512)


@dataclass(frozen=True, slots=True)
class Subject:
    """One photo and the network in several files, and how long each measurement takes."""

    models: ExportedModels
    photo: Path
    repetitions: int
    turn_s: float

    def batch(self, shape: BatchShape) -> ImageBatch:
        """The photo as a batch of one."""
        pixels = resize(decode(self.photo), shape.height, shape.width, self.models.manifest.rescaling)
        return ImageBatch(np.ascontiguousarray(pixels)[None], 1)

    def ours(self, name: str, precision: str, path: Path, queued: int = 1, **options: Any) -> UnstartedContestant:
        return UnstartedContestant(name, our_calls, (path, EngineOptions(**options), self.turn_s, queued), precision)


def pixels(subject: Subject, sizes: Sequence[BatchShape], method: str) -> tuple[Table, Any]:
    """Time and share of the peak of one image by its size."""
    models = subject.models
    int8 = models.int8["tensorrt"]
    contestants = [
        *(
            subject.ours(f"FP32 on {title}", FLOAT32, models.float32, runtime=runtime)
            for runtime, title in CPU_RUNTIMES.items()
        ),
        subject.ours("BF16 on OpenVINO", BFLOAT16, models.float32, runtime="openvino", allow_bf16=True),
        subject.ours("INT8 on OpenVINO", INT8, int8, runtime="openvino"),
        subject.ours("INT8 on OpenVINO, several in flight", INT8, int8, 2, runtime="openvino", requests=None),
    ]
    columns = ("image", "engine", "ms an image", "GFLOP/s", "share of the peak", *COLUMNS)
    table = Table("Time against pixels", method, columns)
    samples: dict[str, Any] = {}
    assert models.manifest.spec is not None
    with ExitStack() as stack:
        arena = Arena(stack, models, contestants)
        for shape in sizes:
            held, gflop = arena.hold([subject.batch(shape)], subject.repetitions), shape.gflop(models.manifest.spec)
            size = f"{shape.height}x{shape.width}"
            for name, agrees in held.agreement.items():
                ms, shares = held.image_ms(name), held.shares(name, gflop)
                aimed = name.startswith("INT8") and shape.height * shape.width >= INT8_FROM
                share = _share(shares, INT8_AIM if aimed else None)
                rate = f"{1000 * gflop / statistics.median(ms):,.0f}"
                table.rows.append((size, name, spread(ms, 1), rate, share, *agrees))
                samples.setdefault(name, {})[size] = {"ms": ms, "peak GFLOP/s": held.peaks(name), "share": shares}
    return replace(table, notes=held.notes), samples


def _share(shares: Sequence[float], aim: float | None) -> str:
    if not shares:
        return "-"
    if aim is None:
        return spread(shares)
    return f"{spread(shares)}; aim {aim:g} {'reached' if statistics.median(shares) >= aim else 'missed'}"


def threads(subject: Subject, method: str) -> tuple[Table, Any]:
    """Time of one image by the number of threads."""
    cores = usable_cores()
    counts = sorted({cores, *(2**power for power in range(cores.bit_length()) if 2**power <= cores)})
    columns = ("engine", "threads", "ms an image", "times one thread", *COLUMNS)
    table = Table("Time against threads", method, columns)
    models, batch, samples = subject.models, subject.batch(THREADS_SIZE), dict[str, Any]()
    engines = {f"FP32 on {title}": (models.float32, runtime) for runtime, title in CPU_RUNTIMES.items()}
    engines["INT8 on OpenVINO"] = (models.int8["tensorrt"], "openvino")
    for name, (path, runtime) in engines.items():
        with ExitStack() as stack:
            contestants = [subject.ours(str(count), "", path, runtime=runtime, threads=count) for count in counts]
            held = Arena(stack, models, contestants).hold([batch], subject.repetitions)
        if held.reasons:
            click.echo(f"{name} is not measured: {next(iter(held.reasons.values()))}", err=True)
            continue
        samples[name] = {count: held.image_ms(count) for count in held.agreement}
        for count, agrees in held.agreement.items():
            ratio = held.contest[count].ratio_to(held.contest.records[0])
            table.rows.append((name, count, spread(held.image_ms(count), 1), faster(ratio), *agrees))
    return table, samples


def draw(of_pixels: Any, of_images: Any, of_threads: Any) -> Any:
    """Panels: ms and share of the peak against pixels, memory against images, speed against threads."""
    with canvas(4, width=13, height=3) as (drawing, (times, shares, memory, speed)):
        for name, sizes in of_pixels.items():
            area = [int(size.split("x")[0]) * int(size.split("x")[1]) / 1e6 for size in sizes]
            times.plot(area, [statistics.median(each["ms"]) for each in sizes.values()], "o-", label=name)
            if all(each["share"] for each in sizes.values()):
                shares.plot(area, [statistics.median(each["share"]) for each in sizes.values()], "o-", label=name)
        times.set(title="ms an image", xlabel="Mpixel", xscale="log", yscale="log")
        times.legend(frameon=False, fontsize=7)
        shares.set(title="share of the peak", xlabel="Mpixel", xscale="log")
        shares.set_ylim(bottom=0)
        counts = [int(count) for count in of_images]
        memory.plot(counts, [each["peak_mb"] for each in of_images.values()], "o-")
        memory.set(title="peak memory of infer, MB", xlabel="images", xscale="log")
        memory.set_ylim(bottom=0)
        for name, rows in of_threads.items():
            medians = {int(count): statistics.median(row) for count, row in rows.items()}
            speed.plot(list(medians), [medians[1] / each for each in medians.values()], "o-", label=name)
        speed.set(title="times one thread", xlabel="threads")
        speed.set_ylim(bottom=0)
        speed.legend(frameon=False, fontsize=7)
        return drawing


def prose(network: str, image: str, photos: str, repetitions: int) -> tuple[dict[str, str], list[str]]:
    """The methods of the tables, and the details of the page."""
    size = f"{THREADS_SIZE.height}x{THREADS_SIZE.width}"
    methods = {
        "pixels": (
            f"{network} runs on {image}, rescaled to each size, in memory, on all cores. Contestants take turns in "
            f"{counted(repetitions, 'repetition')}. The share is relative to the machine's matrix-multiply peak in the "
            "same precision."
        ),
        "images": (
            f"`vgg-deploy infer` runs in its own process, start-up included, on {photos}, repeated until there are "
            "enough images. The network is D at an eighth of its width with random weights. It tests one scale, "
            "without mirrors."
        ),
        "threads": (
            f"{network} runs on {image} of {size} in memory. The thread counts take turns in "
            f"{counted(repetitions, 'repetition')}."
        ),
    }
    details = [
        f"{OWN_PROCESSES} {SPREAD}",
        f'{PEAK} "Several in flight" is an engine opened with `requests=None`, which computes several calls at once.',
        f"{AGREEMENT} For `infer`, each line of its CSV file is compared; its posteriors have seven digits.",
    ]
    return methods, details


@click.command()
@click.option("--repetitions", default=5, show_default=True, help="For the times against pixels and threads.")
@setup_options
def main(setup: Setup, repetitions: int) -> None:
    """Measure how time and memory grow, and write results/growth.{json,md,svg}."""
    repetitions, turn_s = (1, 0.0) if setup.quick else (repetitions, TURN_S)
    sizes, counts = (SIZES[:2], (10, 40)) if setup.quick else (SIZES, COUNTS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photos = pictures(setup, folder)
        drawn = photos.draw(1)
        models = prepare(folder, setup, drawn.calibration)
        subject = Subject(models, drawn.measured[0], repetitions, turn_s)
        methods, details = prose(models.name, drawn.name, photos.described(len(photos.paths)), repetitions)
        of_pixels, pixel_samples = pixels(subject, sizes, methods["pixels"])
        of_threads, thread_samples = threads(subject, methods["threads"])
        of_images, image_samples = images(folder, photos.paths, counts, methods["images"])
    page = Page(
        name="growth",
        title="Growth",
        tables=[of_pixels, of_images, of_threads],
        details=details,
        samples={"pixels": pixel_samples, "images": image_samples, "threads": thread_samples},
        drawing=draw(pixel_samples, image_samples, thread_samples),
    )
    click.echo(page.write(setup.out))


if __name__ == "__main__":
    main()
