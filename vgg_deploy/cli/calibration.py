"""Calibration from the command line: options, images, and the table of what INT8 costs layer by layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.artifacts.export_options import ExportOptions, GraphOptions
from vgg_deploy.cli.found_images import found_images
from vgg_deploy.cli.parameters import Decorator, gathered
from vgg_deploy.cli.split_folders import TRAIN, refuse_split
from vgg_deploy.cli.tables import notice, print_table, progress
from vgg_deploy.errors import UsageError, counted

if TYPE_CHECKING:
    from export.int8 import Calibration, Variants
    from export.sample import ImageSample
    from export.sensitivity import Budget, Int8Trials, Sensitivity
    from train.network.checkpoint import Checkpoint
    from vgg_deploy.network.manifest import Manifest
    from vgg_deploy.network.precision import Quantization

INT8_IMAGES, HALF_IMAGES = 128, 32  # defaults of --calibration-images
LEAST_IMAGES = 2  # for INT8: the range of one image says nothing about others
HELD_OUT, RANKED_ON = 200, 32  # defaults of --held-out: in export, and in sensitivity


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """How ranges are measured.

    Attributes:
        folder: real images.
        images: how many of them to calibrate on. None: `INT8_IMAGES` or `HALF_IMAGES`, or as many as there are.
        method, target: see `vgg_deploy.network.precision.Quantization`. None: minmax, tensorrt.
        held_out: how many others to judge the quantized network on. None: the default of the command.
    """

    folder: Path | None
    images: int | None
    method: str | None
    target: str | None
    held_out: int | None

    def check_folder(self) -> None:
        """Raises UsageError if the folder is given and has no images, or has train/ and val/ inside.

        Commands check it before they read weights, which may take a download of half a gigabyte.
        """
        from vgg_deploy.views.search import find_images

        if self.folder is not None:
            next(find_images([str(self.folder)]))
            refuse_split(self.folder, "images that judge the network must not calibrate it", part=TRAIN)


def calibration_options(help: str, *, required: bool, images: str, held_out: int) -> Decorator:
    """Adds the options of calibration. The command receives them as `calibration`, a `CalibrationOptions`.

    Args:
        help: the help text of --calibration.
        required: whether --calibration must be given.
        images: the default of --calibration-images, in words.
        held_out: the default of --held-out.
    """
    return gathered(
        "calibration",
        CalibrationOptions,
        click.option(
            "--calibration", "folder", required=required, type=click.Path(path_type=Path), metavar="DIR", help=help
        ),
        click.option(
            "--calibration-images",
            "images",
            type=click.IntRange(1),
            metavar="N",
            help=f"Calibrate on a seeded sample of N images of the folder.  [default: {images}]",
        ),
        click.option(
            "--calibration-method",
            "method",
            type=click.Choice(["minmax", "entropy", "percentile"]),
            help="INT8 ranges hold all values (minmax), lose the least information (entropy), or hold all but 0.01 % "
            "of the values (percentile).  [default: minmax]",
        ),
        click.option(
            "--target",
            type=click.Choice(["tensorrt", "onnxruntime"]),
            help="Runtime whose INT8 kernels the file is for. OpenVINO runs both.  [default: tensorrt]",
        ),
        click.option(
            "--held-out",
            type=click.IntRange(1),
            metavar="N",
            help=f"Judge the INT8 layers on N other images of the folder.  [default: {held_out}]",
        ),
    )


def draw_sample(folder: Path, count: int, manifest: Manifest, *, dynamic: bool) -> ImageSample:
    """Draws images for calibration. Their views are those of inference: whole images at each Q, or the central crop."""
    from export.sample import draw
    from vgg_deploy.views.protocols import choose_protocol

    paths = found_images([str(folder)])
    choice = choose_protocol(manifest, None if dynamic else "center", free_size=dynamic)
    for text in choice.notices:
        notice(text)
    with progress("reading images", min(count, len(paths))) as advance:
        return draw(paths, count, choice.protocol, manifest.rescaling, _say_skipped, advance)


def _say_skipped(path: Path, reason: str) -> None:
    notice(f"skipped {path}: {reason}")


def quantize(
    checkpoint: Checkpoint, options: CalibrationOptions, exported: ExportOptions, budget: Budget | None
) -> tuple[Quantization, dict[str, float] | None]:
    """The quantization, and the largest activations if FP16 needs them. With a budget, prints what each layer costs."""
    from engines import open_engine
    from export.int8 import Variants

    labelled = budget is not None and budget.max_drop is not None
    with Variants(checkpoint, open_engine, exported) as variants:
        calibration, trials = _calibrated(checkpoint.manifest, options, exported, variants, labelled=labelled)
        if trials is None or budget is None:
            quantization = calibration.quantization(calibration.candidates)
        else:
            rows = trials.sensitivities()
            quantization = trials.fewest_kept(rows, budget)
            print_sensitivities(rows, calibration, quantization, half=exported.graph.half)
    sample = calibration.sample
    reached = "" if quantization.budget is None else f"; {quantization.budget}"
    notice(f"INT8 ranges: {calibration.method} of {len(sample.paths)} images, {sample.protocol}{reached}")
    return quantization, dict(calibration.measured.largest) or None


def sensitivities(
    checkpoint: Checkpoint, options: CalibrationOptions, images: int
) -> tuple[Calibration, tuple[Sensitivity, ...]]:
    """What quantizing each layer alone does to the predictions on `images` held-out images."""
    from engines import open_engine
    from export.int8 import Variants

    exported, options = ExportOptions(graph=GraphOptions(dynamic=True)), dataclasses.replace(options, held_out=images)
    with Variants(checkpoint, open_engine, exported) as variants:
        calibration, trials = _calibrated(checkpoint.manifest, options, exported, variants, labelled=False)
        assert trials is not None
        return calibration, trials.sensitivities(images)


def _calibrated(
    manifest: Manifest, options: CalibrationOptions, exported: ExportOptions, variants: Variants, *, labelled: bool
) -> tuple[Calibration, Int8Trials | None]:
    from export.int8 import calibrate
    from export.sensitivity import HeldOut, Int8Trials

    sample, others = _split(options, manifest, dynamic=exported.graph.dynamic)
    held_out = None if others is None else HeldOut.of(others, manifest, labelled=labelled)
    calibration = calibrate(variants, sample, options.method or "minmax", options.target or "tensorrt", progress)
    return calibration, None if held_out is None else Int8Trials(variants, calibration, held_out, progress)


def _split(options: CalibrationOptions, manifest: Manifest, *, dynamic: bool) -> tuple[ImageSample, ImageSample | None]:
    """Images to calibrate on, and others to judge on. If there are too few, at most half of them are for
    calibration.
    """
    from vgg_deploy.views.protocols import choose_protocol

    assert options.folder is not None
    wanted, held_out = options.images or INT8_IMAGES, options.held_out or 0
    if wanted < LEAST_IMAGES:
        raise UsageError(
            f"--calibration-images is {wanted}. INT8 ranges need at least {LEAST_IMAGES} images; a hundred are better"
        )
    drawn = draw_sample(options.folder, wanted + held_out, manifest, dynamic=dynamic)
    readable = len(drawn.paths)
    count = _calibrating(options, readable, wanted)
    if not held_out:
        return drawn, None
    if readable < wanted + held_out:
        notice(f"{options.folder} has {readable} readable images: {count} for calibration, {readable - count} held out")
    one_view = choose_protocol(manifest, "dense" if dynamic else "center", mirror=False, free_size=dynamic).protocol
    calibrating = dataclasses.replace(drawn, paths=drawn.paths[:count])
    return calibrating, dataclasses.replace(drawn, paths=drawn.paths[count:], protocol=one_view)


def _calibrating(options: CalibrationOptions, readable: int, wanted: int) -> int:
    """How many of the readable images to calibrate on.

    Raises:
        UsageError: there are too few.
    """
    folder, held_out = options.folder, options.held_out or 0
    if readable == wanted + held_out:
        return wanted
    count = min(wanted, readable // 2 if held_out else readable)
    if count < LEAST_IMAGES:
        others = " and as many held-out images" if held_out else ""
        raise UsageError(
            f"{folder} has {counted(readable, 'readable image')}. INT8 ranges need at least "
            f"{LEAST_IMAGES} images{others}; a hundred are better"
        )
    if options.images is None or count == wanted:
        return count
    if held_out:
        raise UsageError(
            f"{folder} has {readable} readable images, too few to calibrate on {wanted} and hold out as many; "
            f"give more images, or --calibration-images {count}"
        )
    notice(f"{folder} has {readable} readable images; --calibration-images asks for {wanted}")
    return count


def print_sensitivities(
    rows: Sequence[Sensitivity],
    calibration: Calibration,
    quantization: Quantization | None = None,
    *,
    half: bool = False,
) -> None:
    """Prints the layers and the divergence that each causes alone, the largest first.

    Args:
        quantization: adds a column with the type in which each layer is exported.
        half: whether the other layers are FP16.
    """
    from export.float16 import overflowing_layers

    single = overflowing_layers(calibration.spec, calibration.measured.largest) if half else ()
    macs = {row.layer.name: row.macs for row in calibration.spec.statistics()}
    total = sum(macs.values())
    columns = ["layer", "MACs", "largest input", "divergence alone", "top-1 agreement alone"]
    table = []
    for row in sorted(rows, key=lambda row: row.divergence, reverse=True):
        low, high = calibration.measured.spans[row.layer]
        cells = [row.layer, f"{macs[row.layer] / total:.1%}", f"{max(-low, high):,.1f}"]
        cells += [f"{row.divergence:.1e}", f"{row.agreement:.2%}"]
        if quantization is not None:
            other = "float16" if half and row.layer not in single else "float32"
            cells.append("int8" if row.layer in quantization.layers else other)
        table.append(cells)
    if quantization is not None:
        columns.append("exported as")
    print_table(columns, table)
