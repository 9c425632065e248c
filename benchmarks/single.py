"""One batch at a time, already in memory: the time of a call in each runtime, and its share of the machine's peak.

python -m benchmarks.single
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from benchmarks.agreement import AGREEMENT, COLUMNS, NOTHING
from benchmarks.arena import Arena, Held
from benchmarks.models import ExportedModels, prepare
from benchmarks.options import setup_options
from benchmarks.ours import CPU_RUNTIMES, our_calls
from benchmarks.report import OWN_PROCESSES, PEAK, SPREAD, Page, Table, canvas, counted, faster, spread
from benchmarks.straightforward import bare_calls, onnxruntime_session, openvino_model, pytorch, torchvision_vgg16
from benchmarks.subject import Setup, pictures, verification
from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.bench.batches import batches_of
from vgg_deploy.bench.own_process import UnstartedContestant
from vgg_deploy.bench.peak import BFLOAT16
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.precision import FLOAT32, INT8
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.views.images import decode

# Shapes, and the number of labelled images on which answers are compared, besides those of the timed batch.
SHAPES = {
    BatchShape(1, 224, 224): 16,
    BatchShape(8, 224, 224): 16,
    BatchShape(1, 384, 512): 8,
    BatchShape(8, 384, 512): 0,
}
QUICK = {BatchShape(2, 224, 224): 2, BatchShape(1, 384, 512): 2}
TURN_S = 0.25  # a turn repeats its batch until this has passed; the median call counts
PYTORCH = "PyTorch eager"
FC_FORM = "torchvision's vgg16, FC form"  # accepts only the crop


def contestants(models: ExportedModels, turn_s: float) -> list[UnstartedContestant]:
    """The contestants. All others are compared with the first."""
    network, int8 = models.float32, models.int8["tensorrt"]

    def bare(name: str, precision: str, make: Any, *arguments: Any) -> UnstartedContestant:
        return UnstartedContestant(name, bare_calls, (make, arguments, turn_s), precision)

    def ours(name: str, precision: str, path: Path, **options: Any) -> UnstartedContestant:
        return UnstartedContestant(f"vgg-deploy {name}", our_calls, (path, EngineOptions(**options), turn_s), precision)

    return [
        bare(PYTORCH, FLOAT32, pytorch, models.checkpoint),
        bare("torch.compile", FLOAT32, pytorch, models.checkpoint, True),
        bare(FC_FORM, FLOAT32, torchvision_vgg16, models.checkpoint),
        bare("ONNX Runtime", FLOAT32, onnxruntime_session, network),
        bare("OpenVINO, pinned to f32", FLOAT32, openvino_model, network, "f32"),
        bare("OpenVINO, its default", BFLOAT16, openvino_model, network, None),
        *(ours(f"FP32 on {title}", FLOAT32, network, runtime=runtime) for runtime, title in CPU_RUNTIMES.items()),
        ours("BF16 on OpenVINO", BFLOAT16, network, runtime="openvino", allow_bf16=True),
        ours("INT8 on OpenVINO", INT8, int8, runtime="openvino"),
    ]


def table(
    shape: BatchShape, held: Held, unstarted: Sequence[UnstartedContestant], method: str, spec: NetworkSpec
) -> Table:
    """The figures at one shape."""
    columns = ("contestant", "ms", "images/s", f"times {PYTORCH}", "GFLOP/s", "share of the peak", *COLUMNS)
    result = Table(f"{shape.images} x {shape.height} x {shape.width}", method, columns)
    gflop = shape.gflop(spec) / shape.images
    for name in (contestant.name for contestant in unstarted):
        if name not in held.agreement:
            why = held.reasons.get(name, "accepts only images of 224x224")
            result.rows.append((name, f"not measured: {why}", *("-",) * 4, *NOTHING))
            continue
        image_ms = held.image_ms(name)
        shares = [100 * share for share in held.shares(name, gflop)]
        result.rows.append(
            (
                name,
                spread([shape.images * ms for ms in image_ms], 1),
                f"{1000 / statistics.median(image_ms):.1f}",
                faster(held.contest[name].ratio_to(held.contest.records[0])),
                f"{1000 * gflop / statistics.median(image_ms):,.0f}",
                spread(shares, 0, " %") if shares else "-",
                *held.agreement[name],
            )
        )
    return result


def draw(contests: dict[BatchShape, Held]) -> Any:
    """Bars of images/s of one image, a panel for each size."""
    single = {shape: held for shape, held in contests.items() if shape.images == 1}
    with canvas(len(single), height=3.2) as (drawing, axes):
        for (shape, held), panel in zip(single.items(), axes, strict=True):
            names = list(reversed(held.agreement))
            rates = [1000 / statistics.median(held.image_ms(name)) for name in names]
            colours = ["tab:blue" if name.startswith("vgg-deploy") else "tab:gray" for name in names]
            panel.bar_label(panel.barh(names, rates, color=colours), fmt="%.1f", padding=3)
            panel.set_title(f"one image of {shape.height}x{shape.width}: images/s")
        return drawing


def prose(network: str, images: str, repetitions: int, checked: str) -> tuple[str, list[str]]:
    """The method and the details of the page."""
    method = (
        f"{network} runs one call at a time, on all cores, on a batch in memory made of {images}. Contestants take "
        f"turns in {counted(repetitions, 'repetition')}, at most 3 for batches of 8; ms is the median of the "
        "repetitions."
    )
    details = [
        f"{OWN_PROCESSES} {SPREAD}",
        "torchvision's vgg16 has our weights and widths. By default, OpenVINO computes FP32 files in BF16 on CPUs "
        "that support it, without a message.",
        PEAK,
        f"{AGREEMENT} PyTorch runs batches of the same shape. The answers to the timed batch{checked} are compared.",
    ]
    return method, details


@click.command()
@click.option("--repetitions", default=5, show_default=True, help="For single images; for batches of 8 at most 3.")
@setup_options
def main(setup: Setup, repetitions: int) -> None:
    """Time single calls of each runtime and of ours, compare their answers, and write results/single.{json,md,svg}."""
    repetitions, turn_s = (1, 0.0) if setup.quick else (repetitions, TURN_S)
    shapes = QUICK if setup.quick else SHAPES
    contests: dict[BatchShape, Held] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        more = verification(setup, max(shapes.values()))
        drawn = pictures(setup, folder).draw(max(shape.images for shape in shapes), more)
        models = prepare(folder, setup, drawn.calibration)
        unstarted, rescaling = contestants(models, turn_s), models.manifest.rescaling
        arena = Arena(stack, models, unstarted)
        timed, labelled = ([decode(path) for path in paths] for paths in (drawn.measured, more))
        for shape, count in shapes.items():
            contests[shape] = arena.hold(
                batches_of(timed[: shape.images], shape, rescaling),
                repetitions if shape.images == 1 else min(repetitions, 3),
                [each for each in batches_of(labelled[:count], shape, rescaling) if each.distinct == shape.images],
                without=() if (shape.height, shape.width) == (224, 224) else (FC_FORM,),
            )
    counts = ", ".join(f"{count} at {shape}" for shape, count in shapes.items() if count)
    also = f" and to labelled images of the network's classes ({counts})" if more else ""
    method, details = prose(models.name, drawn.name, repetitions, also)
    methods = [method, *("As above, at another shape.",) * (len(shapes) - 1)]
    assert models.manifest.spec is not None
    page = Page(
        name="single",
        title="One batch at a time",
        tables=[
            table(shape, held, unstarted, text, models.manifest.spec)
            for (shape, held), text in zip(contests.items(), methods, strict=True)
        ],
        details=details,
        samples={
            str(shape): {
                "ms an image": {name: held.image_ms(name) for name in held.agreement},
                "peak GFLOP/s": {name: held.peaks(name) for name in held.agreement},
            }
            for shape, held in contests.items()
        },
        drawing=draw(contests),
    )
    click.echo(page.write(setup.out))


if __name__ == "__main__":
    main()
