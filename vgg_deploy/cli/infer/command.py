"""vgg-deploy infer."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.artifacts.kinds import PLAN, kind_of, require_file
from vgg_deploy.artifacts.plan import sidecar_of
from vgg_deploy.cli.found_images import found_images
from vgg_deploy.cli.infer.heatmaps import Heatmaps
from vgg_deploy.cli.infer.streams import ResultOptions, result_options
from vgg_deploy.cli.infer.tally import Tally
from vgg_deploy.cli.opening import open_any
from vgg_deploy.cli.outputs import check_outputs
from vgg_deploy.cli.parameters import batch_option, engine_options, flip_option, gathered, labels_files, scales_option
from vgg_deploy.cli.protocol_options import ProtocolOptions
from vgg_deploy.cli.split_folders import refuse_training_images
from vgg_deploy.cli.tables import notice, progress
from vgg_deploy.inference.engine_options import EngineOptions

if TYPE_CHECKING:
    from vgg_deploy.inference.engine import EngineInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionOptions:
    """How images are decoded and batched; see `vgg_deploy.inference.prediction.predict`."""

    batch: int | None
    max_view_pixels: int | None
    reduced_decoding: bool


protocol_options = gathered(
    "protocol",
    ProtocolOptions,
    click.option(
        "--protocol",
        "name",
        metavar="P",
        help="Views whose posteriors are averaged: center, dense, multiscale, 10-crop, 50-crop, 144-crop, 150-crop or "
        "multiscale+150-crop.  [default: multiscale; center for a model of one size]",
    ),
    scales_option("Test scales: the short sides to which images are rescaled.  [default: a plan's own; else from S]"),
    flip_option(),
)

prediction_options = gathered(
    "prediction",
    PredictionOptions,
    batch_option,
    click.option(
        "--max-view-pixels",
        type=click.IntRange(1),
        metavar="N",
        help="Refuse images with more pixels than this after rescaling.  [default: 4,194,304]",
    ),
    click.option(
        "--reduced-decoding",
        is_flag=True,
        help="Decode large JPEGs at 1/2, 1/4 or 1/8 of their size, but not below the largest Q. Faster; posteriors "
        "change a little.",
    ),
)


@click.command("infer")
@click.argument("paths", nargs=-1, required=True)
@click.option(
    "--engine",
    "model",
    required=True,
    type=click.Path(path_type=Path),
    metavar="MODEL.onnx|PLAN",
    help="File that vgg-deploy export or vgg-deploy build wrote.",
)
@protocol_options
@result_options
@prediction_options
@click.option(
    "--heatmaps",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write each image with the score map of its top class over it. Needs a model exported with --score-map.",
)
@click.option(
    "--check-folders", is_flag=True, help="Take each image's class from its folder's name, and report error rates."
)
@engine_options()
def command(
    paths: tuple[str, ...],
    model: Path,
    protocol: ProtocolOptions,
    results: ResultOptions,
    prediction: PredictionOptions,
    heatmaps: Path | None,
    check_folders: bool,
    options: EngineOptions,
) -> None:
    """Classify images. PATHS are files, folders (searched recursively) and glob patterns.

    Each image is rescaled to each scale Q, scored whole and mirrored, and the posteriors are averaged (section 3.2 of
    the paper). Results come in input order. A file that cannot be read is reported, and the exit code is then 1.
    """
    from vgg_deploy.inference.prediction import Failure, predict
    from vgg_deploy.views.images import MAX_VIEW_PIXELS

    require_file(model)
    if check_folders:
        refuse_training_images(paths)
    images = found_images(paths)
    model_files = (model, sidecar_of(model)) if kind_of(model) == PLAN else (model,)
    check_outputs(results.files, (*model_files, *labels_files(), *images))
    if kind_of(model) != PLAN:
        options = options.for_images(len(images))
    with ExitStack() as stack:
        engine = stack.enter_context(open_any(model, options))
        info = engine.info
        choice = protocol.choose(info)
        tally = Tally(_truth(images, info) if check_folders else None)
        pictures = None if heatmaps is None else Heatmaps(heatmaps, images, info, choice.protocol)
        streams = stack.enter_context(results.open(len(info.manifest.classes)))
        for text in choice.notices:
            notice(text)
        notice(f"{choice.protocol}; {info.runtime} on {info.device}, {info.precision}")
        shown = sys.stderr.isatty() and not sys.stdout.isatty()
        advance = stack.enter_context(progress("classifying", len(images), shown=shown))
        for result in predict(
            engine,
            images,
            choice.protocol,
            batch=prediction.batch,
            keep_score_maps=pictures is not None,
            max_view_pixels=prediction.max_view_pixels or MAX_VIEW_PIXELS,
            reduced_decoding=prediction.reduced_decoding,
        ):
            streams.write(result)
            if isinstance(result, Failure):
                notice(f"failed: {result.path}: {result.reason}")
            elif pictures is not None:
                pictures.write(result)
            tally.count(result)
            advance()
    tally.report()
    if tally.failed:
        raise SystemExit(1)


def _truth(images: list[Path], info: EngineInfo) -> list[int]:
    """The index of the class that each image's folder names. All are looked up before the first image is scored."""
    from vgg_deploy.evaluation.error_rates import label_by_folder

    return [int(index) for index in label_by_folder(images, info.manifest).truth]
