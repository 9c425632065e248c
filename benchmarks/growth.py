"""How time and memory grow: time against pixels and against threads, time and peak memory against the number of images.

python -m benchmarks.growth
"""

from __future__ import annotations

import csv
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.agreement import COLUMNS, REFERENCE, Judge, cells, compared, reference
from benchmarks.contestant import HOW, Contestant, apart
from benchmarks.models import Models, prepare
from benchmarks.options import setup_options
from benchmarks.ours import CPU_RUNTIMES, InFlight, Peak, Turn, call
from benchmarks.report import Table, canvas, faster, spread, write
from benchmarks.subject import Setup, pictures, random_checkpoint
from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.bench.peak import BFLOAT16
from vgg_deploy.cores import usable_cores
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.precision import FLOAT32, INT8
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.views.images import decode, resize
from vgg_deploy.views.protocols import Protocol, choose_protocol

SIZES = tuple(
    BatchShape(1, *size) for size in ((224, 224), (384, 512), (512, 512), (512, 768), (768, 768), (1024, 1024))
)
COUNTS = (100, 1_000, 10_000)
INT8_AIM, INT8_FROM = 0.85, 384 * 512  # share of the INT8 peak, from so many pixels on
MEMORY_AIM = 0.05
TURN_S = 0.25
THREADS_SIZE = BatchShape(1, 384, 512)


def _image(path: Path, shape: BatchShape, models: Models) -> Images:
    pixels = decode(path)
    return np.ascontiguousarray(resize(pixels, shape.height, shape.width, models.manifest.rescaling))[None]


def _agreement(wanted: Floats, answers: Sequence[Floats], models: Models) -> tuple[str, str]:
    """Of one image's answers, of which some turns give several."""
    return cells(
        compared(
            np.repeat(wanted, len(answers[0]), axis=0),
            answers,
            models.manifest.classes,
        )
    )


def pixels(
    models: Models, photo: Path, repetitions: int, sizes: Sequence[BatchShape], turn_s: float
) -> tuple[Table, Any]:
    """ms and share of the peak of one image by its size; every turn's answers are compared with PyTorch's."""
    int8 = models.int8["tensorrt"]
    makes: dict[str, tuple[str, tuple[Any, ...]]] = {
        **{
            f"FP32 on {title}": (FLOAT32, (Turn, call, models.float32, runtime))
            for runtime, title in CPU_RUNTIMES.items()
        },
        "BF16 on OpenVINO": (BFLOAT16, (Turn, call, models.float32, "openvino", True)),
        "INT8 on OpenVINO": (INT8, (Turn, call, int8, "openvino")),
        "INT8 on OpenVINO, several in flight": (INT8, (InFlight, int8, "openvino")),
    }
    table = Table("Time against pixels", ("image", "engine", "ms an image", "GFLOP/s", "share of the peak", *COLUMNS))
    samples: dict[str, Any] = {}
    assert models.manifest.spec is not None
    with ExitStack() as stack:
        judge = stack.enter_context(Contestant(Turn, reference, models.checkpoint))
        running: dict[str, Contestant] = {}
        for name, (_precision, make) in makes.items():
            try:
                running[name] = stack.enter_context(Contestant(*make))
            except Exception as error:  # noqa: BLE001 - a runtime that is not here raises what it likes
                click.echo(f"{name} is not measured: {str(error).splitlines()[0]}", err=True)
        precisions = {makes[name][0] for name in running}
        probes = {each: stack.enter_context(Contestant(Peak, each)) for each in sorted(precisions)}
        for shape in sizes:
            image, gflop = _image(photo, shape, models), shape.gflop(models.manifest.spec)
            wanted = judge(image)[1]
            answers: dict[str, list[Floats]] = {name: [contestant(image)[1]] for name, contestant in running.items()}
            times: dict[str, list[float]] = {name: [] for name in running}
            peaks: dict[str, list[float]] = {each: [] for each in probes}
            for _ in range(repetitions):
                for each, probe in probes.items():
                    peaks[each].append(probe() or float("nan"))
                for name, contestant in running.items():
                    turn, posteriors = contestant(image, turn_s)
                    times[name].append(statistics.median(turn))
                    answers[name].append(posteriors)
            for name, row in times.items():
                rates = [1000 * gflop / ms for ms in row]
                shares = [rate / peak for rate, peak in zip(rates, peaks[makes[name][0]], strict=True)]
                judged = name.startswith("INT8") and shape.height * shape.width >= INT8_FROM
                reached = "reached" if statistics.median(shares) >= INT8_AIM else "missed"
                share = f"{spread(shares)}{f'; aim {INT8_AIM:g} {reached}' if judged else ''}"
                size = f"{shape.height}x{shape.width}"
                figures = (spread(row, 1), f"{statistics.median(rates):,.0f}", share)
                table.rows.append((size, name, *figures, *_agreement(wanted, answers[name], models)))
                samples.setdefault(name, {})[size] = {"ms": row, "peak GFLOP/s": peaks[makes[name][0]], "share": shares}
            click.echo(f"{shape}: done", err=True)
    return table, samples


@dataclass(frozen=True, slots=True)
class Narrow:
    """A narrow network, for many images.

    Attributes:
        model: as ONNX.
        protocol: by which images are scored.
        classes: of the network.
        wanted: what is right of the photos, posteriors [photos, classes].
    """

    model: Path
    protocol: Protocol
    classes: tuple[ClassName, ...]
    wanted: Floats


def _narrow(folder: Path, photos: Sequence[Path]) -> Narrow:
    from export import export
    from train.network.checkpoint import read, save

    spec = NetworkSpec("D", width_divisor=8, crop=128, fc_width=512, classes=10)
    found, checkpoint, model = random_checkpoint(spec), folder / "narrow.safetensors", folder / "narrow.onnx"
    save(checkpoint, found.weights, found.manifest)
    export(read(checkpoint), model, dynamic=True)
    protocol = choose_protocol(found.manifest, "dense", mirror=False, free_size=True).protocol
    return Narrow(model, protocol, found.manifest.classes, Judge(checkpoint)(photos, protocol))


_MEASURING = (
    "import json, resource, subprocess, sys, time; began = time.perf_counter();"
    "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL);"
    "print(json.dumps([time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))"
)


def _answers(written: Path, classes: Sequence[ClassName]) -> Floats:
    """The posteriors in a CSV file of `infer --top` of all classes, in its order of images."""
    place = {name.id: index for index, name in enumerate(classes)}
    with written.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    rows = np.full((len(lines), len(classes)), np.nan, np.float32)
    for row, line in zip(rows, lines, strict=True):
        for rank in range(1, len(classes) + 1):
            row[place[line[f"id_{rank}"]]] = float(line[f"probability_{rank}"])
    return rows


def images(folder: Path, photos: Sequence[Path], counts: Sequence[int]) -> tuple[Table, Any]:
    """Seconds and peak memory of `vgg-deploy infer` in a process of its own, on a narrow network; each answer is compared with PyTorch's."""
    narrow = apart(_narrow, folder, photos)
    columns = ("images", "ms an image", "peak memory, MB", "more", *COLUMNS)
    table = Table("Time and memory against the number of images", columns)
    samples: dict[str, Any] = {}
    for count in counts:
        many = folder / f"images-{count}"
        many.mkdir()
        for index in range(count):
            path = photos[index % len(photos)]
            (many / f"{index:05d}{path.suffix}").symlink_to(path.resolve())
        written = folder / f"{count}.csv"
        arguments = ["infer", str(many), "--engine", str(narrow.model), "--protocol", "dense", "--no-flip"]
        arguments += ["--csv", str(written), "--top", str(len(narrow.classes))]
        command = [sys.executable, "-c", _MEASURING, sys.executable, "-m", "vgg_deploy", *arguments]
        seconds, megabytes = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        samples[str(count)] = {"seconds": seconds, "peak_mb": megabytes}
        growth = megabytes / samples[str(counts[0])]["peak_mb"] - 1
        reached = "reached" if growth <= MEMORY_AIM else "missed"
        more = "-" if count == counts[0] else f"{growth:+.1%}; aim {MEMORY_AIM:.0%} {reached}"
        wanted = narrow.wanted[np.arange(count) % len(photos)]
        agrees = cells(compared(wanted, [_answers(written, narrow.classes)], narrow.classes))
        table.rows.append((f"{count:,}", f"{1000 * seconds / count:.1f}", f"{megabytes:.0f}", more, *agrees))
        click.echo(f"{count} images: {seconds:.1f} s, {megabytes:.0f} MB", err=True)
    return table, samples


def threads(models: Models, photo: Path, repetitions: int, turn_s: float) -> tuple[Table, Any]:
    """ms of one image by the number of threads; every turn's answers are compared with PyTorch's."""
    cores = usable_cores()
    counts = sorted({cores, *(2**power for power in range(cores.bit_length()) if 2**power <= cores)})
    columns = ("engine", "threads", "ms an image", "times one thread", *COLUMNS)
    table = Table(f"Time against threads, one image of {THREADS_SIZE.height}x{THREADS_SIZE.width}", columns)
    image, samples = _image(photo, THREADS_SIZE, models), dict[str, Any]()
    engines = {f"FP32 on {title}": (models.float32, runtime) for runtime, title in CPU_RUNTIMES.items()}
    engines["INT8 on OpenVINO"] = (models.int8["tensorrt"], "openvino")
    with Contestant(Turn, reference, models.checkpoint) as judge:
        wanted = judge(image)[1]
    for name, (path, runtime) in engines.items():
        try:
            with ExitStack() as stack:
                running = [stack.enter_context(Contestant(Turn, call, path, runtime, False, count)) for count in counts]
                answers: list[list[Floats]] = [[contestant(image)[1]] for contestant in running]
                times: list[list[float]] = [[] for _ in counts]
                for _ in range(repetitions):
                    for contestant, row, rows in zip(running, times, answers, strict=True):
                        turn, posteriors = contestant(image, turn_s)
                        row.append(statistics.median(turn))
                        rows.append(posteriors)
        except Exception as error:  # noqa: BLE001 - a runtime that is not here raises what it likes
            click.echo(f"{name} is not measured: {str(error).splitlines()[0]}", err=True)
            continue
        for count, row, rows in zip(counts, times, answers, strict=True):
            agrees = _agreement(wanted, rows, models)
            table.rows.append((name, str(count), spread(row, 1), faster(times[0], row), *agrees))
        samples[name] = dict(zip(map(str, counts), times, strict=True))
    return table, samples


def draw(of_pixels: Any, of_images: Any, of_threads: Any) -> Any:
    """Panels: ms and share of the peak against pixels, memory against images, speed against threads."""
    with canvas(4, width=13, height=3) as (drawing, (times, shares, memory, speed)):
        for name, sizes in of_pixels.items():
            area = [int(size.split("x")[0]) * int(size.split("x")[1]) / 1e6 for size in sizes]
            times.plot(area, [statistics.median(each["ms"]) for each in sizes.values()], "o-", label=name)
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


@click.command()
@click.option("--repetitions", default=5, show_default=True, help="Of the times against pixels and threads.")
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
        of_pixels = pixels(models, drawn.measured[0], repetitions, sizes, turn_s)
        of_threads = threads(models, drawn.measured[0], repetitions, turn_s)
        of_images = images(folder, photos.paths, counts)
    setting = (
        f"{models.words}; {drawn.words}, in memory, {repetitions} repetitions. {HOW} The peak is that of the best large 1x1 convolution in the "
        "same precision, measured in the same repetitions; convolutions by Winograd's algorithm, which need fewer products than are counted, "
        "can pass it. Several in flight: an engine of `requests=None`. Against the number of images: `vgg-deploy infer` in a process of its own, "
        f"start-up included, on {len(photos.paths)} {photos.words}, again and again; D at an eighth of its width, random weights, one scale, "
        f"no mirrors. Agreement and max dp: with {REFERENCE} on the same image, of the turn that was furthest off; of `infer`, each line of "
        "its CSV, which has seven digits."
    )
    (table_p, samples_p), (table_i, samples_i), (table_t, samples_t) = of_pixels, of_images, of_threads
    text = write(
        "growth",
        "Growth",
        setting,
        tables=[table_p, table_i, table_t],
        samples={"pixels": samples_p, "images": samples_i, "threads": samples_t},
        drawing=draw(samples_p, samples_i, samples_t),
        out=setup.out,
    )
    click.echo(text)


if __name__ == "__main__":
    main()
