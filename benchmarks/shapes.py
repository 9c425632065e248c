"""Our engines against the bare runtime, shape by shape.

python -m benchmarks.shapes
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.agreement import AGREEMENT, COLUMNS
from benchmarks.arena import Arena, Held
from benchmarks.models import ExportedModels, prepare
from benchmarks.options import setup_options
from benchmarks.ours import our_calls
from benchmarks.report import OWN_PROCESSES, SPREAD, Page, Table, counted, faster, spread, verdict
from benchmarks.straightforward import bare_calls, onnxruntime_session, openvino_model
from benchmarks.subject import Setup, pictures
from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.bench.batches import ImageBatch
from vgg_deploy.bench.own_process import UnstartedContestant
from vgg_deploy.bench.timing import Ratio
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.tensors import Images
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
TITLES = ("ONNX Runtime FP32", "OpenVINO FP32", "OpenVINO BF16", "ONNX Runtime INT8", "OpenVINO INT8")
WORST = "For each runtime, the shape at which our engine is slowest relative to the bare runtime, from the table below."


def contestants(models: ExportedModels, turn_s: float) -> list[UnstartedContestant]:
    """The bare runtime and ours, in pairs, in the same precision on the same file."""
    network, tensorrt, onnxruntime = models.float32, models.int8["tensorrt"], models.int8["onnxruntime"]

    def pair(title: str, bare: tuple[Any, ...], path: Path, **options: Any) -> list[UnstartedContestant]:
        return [
            UnstartedContestant(f"{title}, bare", bare_calls, (bare[0], bare[1:], turn_s), group=title),
            UnstartedContestant(f"{title}, ours", our_calls, (path, EngineOptions(**options), turn_s), group=title),
        ]

    f32, bf16 = (openvino_model, network, "f32"), (openvino_model, network, "bf16")
    return [
        *pair("ONNX Runtime FP32", (onnxruntime_session, network), network, runtime="onnxruntime"),
        *pair("OpenVINO FP32", f32, network, runtime="openvino"),
        *pair("OpenVINO BF16", bf16, network, runtime="openvino", allow_bf16=True),
        *pair("ONNX Runtime INT8", (onnxruntime_session, onnxruntime), onnxruntime, runtime="onnxruntime"),
        *pair("OpenVINO INT8", (openvino_model, tensorrt, "f32"), tensorrt, runtime="openvino"),
    ]


def _batch(photo: Images, shape: BatchShape, models: ExportedModels) -> ImageBatch:
    """One view, or a view and its mirror, as the dense test makes them."""
    view = resize(photo, shape.height, shape.width, models.manifest.rescaling)
    images = np.stack([view, mirrored(view)][: shape.images])  # [1 or 2, height, width, 3]
    return ImageBatch(images, shape.images)


def prose(network: str, images: str, repetitions: int) -> tuple[str, list[str]]:
    """The method and the details of the page."""
    method = (
        f"{network} runs one call at a time, on all cores, on batches in memory made of {images}. A batch of 2 is a "
        "view and its mirror. A ratio is our speed divided by that of the bare runtime, with its defaults, on the same "
        f"file in the same precision. The two take turns in {counted(repetitions, 'repetition')}, in reverse order "
        "every other time."
    )
    return method, [f"{OWN_PROCESSES} {SPREAD}", AGREEMENT]


@click.command()
@click.option("--repetitions", default=5, show_default=True)
@setup_options
def main(setup: Setup, repetitions: int) -> None:
    """Time each pair at each shape, compare their answers, and write results/shapes.{json,md}."""
    repetitions, turn_s = (1, 0.0) if setup.quick else (repetitions, TURN_S)
    contests: dict[BatchShape, Held] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        drawn = pictures(setup, folder).draw(1)
        models = prepare(folder, setup, drawn.calibration)
        photo = decode(drawn.measured[0])
        arena = Arena(stack, models, contestants(models, turn_s))
        for shape in SHAPES:
            contests[shape] = arena.hold([_batch(photo, shape, models)], repetitions)
    method, details = prose(models.name, drawn.name, repetitions)
    columns = ("batch", "runtime", "bare, ms", "ours, ms", "times the bare runtime")
    both = (f"{column}, bare" for column in COLUMNS), (f"{column}, ours" for column in COLUMNS)
    notes = contests[SHAPES[0]].notes
    table = Table("Shape by shape", method, (*columns, *both[0], *both[1]), notes=notes)
    worst = Table("The worst shape", WORST, ("runtime", "batch", "times the bare runtime"))
    samples: dict[str, Any] = {}
    ratios: dict[str, dict[BatchShape, Ratio]] = {}
    for shape, held in contests.items():
        for title in TITLES:
            pair = f"{title}, bare", f"{title}, ours"
            if not all(each in held.agreement for each in pair):
                continue
            bare_ms, ours_ms = ([shape.images * ms for ms in held.image_ms(each)] for each in pair)
            ratio = held.contest[pair[1]].ratio_to(held.contest[pair[0]])
            agrees = [cell for each in pair for cell in held.agreement[each]]
            table.rows.append((str(shape), title, spread(bare_ms, 1), spread(ours_ms, 1), faster(ratio), *agrees))
            samples.setdefault(title, {})[str(shape)] = {"bare_ms": bare_ms, "ours_ms": ours_ms}
            ratios.setdefault(title, {})[shape] = ratio
    for title, by_shape in ratios.items():
        shape, ratio = min(by_shape.items(), key=lambda pair: pair[1].median)
        worst.rows.append((title, str(shape), f"{ratio.median:.3f}; {verdict(ratio, AIM)}"))
    page = Page(
        name="shapes",
        title="Our engines against the bare runtime",
        tables=[worst, table],
        details=details,
        samples=samples,
    )
    click.echo(page.write(setup.out))


if __name__ == "__main__":
    main()
