"""Calibration from the command line: its options, the images it means, and the table of what INT8 costs by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.cli.tables import notice, print_table, progress

if TYPE_CHECKING:
    from export.int8 import Calibration, Variants
    from export.sample import Sample
    from export.sensitivity import Budget, Judge, Sensitivity
    from train.network.checkpoint import Checkpoint
    from vgg_deploy.network.manifest import Manifest
    from vgg_deploy.network.precision import Quantization

INT8_IMAGES, HALF_IMAGES = 128, 32  # --calibration-images where it is not given
LEAST_IMAGES = 2  # for INT8: the range of one says nothing of the others
HELD_OUT = 200  # --held-out where it is not given


def calibration_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of how INT8 ranges are measured."""
    options = (
        click.option(
            "--calibration-images",
            type=int,
            help=f"How many of the calibration images, a seeded sample.  [default: {INT8_IMAGES}; {HALF_IMAGES} for FP16 alone]",
        ),
        click.option(
            "--calibration-method",
            type=click.Choice(["minmax", "entropy", "percentile"]),
            help="INT8 ranges from the largest values, the least information lost, or all but 0.01 % of values.  [default: minmax]",
        ),
        click.option(
            "--target",
            type=click.Choice(["tensorrt", "onnxruntime"]),
            help="Whose INT8 kernels the file is for. OpenVINO runs both.  [default: tensorrt]",
        ),
        click.option(
            "--held-out",
            type=int,
            help=f"How many images that do not calibrate the INT8 layers are judged on.  [default: {HELD_OUT}; sensitivity: 32]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Int8Request:
    """What the options ask for.

    Attributes:
        folder: of the calibration images.
        images: how many calibrate.
        held_out: how many others the result is judged on; 0: it is not judged.
        method, target: see `vgg_deploy.network.precision.Quantization`.
        score_map, half, dynamic, fine: of the export.
    """

    folder: Path
    images: int | None = None
    held_out: int = 0
    method: str = "minmax"
    target: str = "tensorrt"
    score_map: bool = False
    half: bool = False
    dynamic: bool = True
    fine: bool = False


def check_count(option: str, value: int | None) -> None:
    """Raises UsageError for a number of images below 1."""
    if value is not None and value < 1:
        raise click.UsageError(f"{option} is {value}; expected 1 or more")


def draw_sample(folder: Path, count: int, manifest: Manifest, *, dynamic: bool) -> Sample:
    """Images for calibration, seen as inference will see them: the pyramid of Q and the mirrors, or the central crop."""
    from export.sample import draw
    from vgg_deploy.views.images import find_images
    from vgg_deploy.views.protocols import choose_protocol

    paths = list(find_images([str(folder)]))
    protocol = choose_protocol(manifest, None if dynamic else "center", free_size=dynamic).protocol
    with progress("reading images", min(count, len(paths))) as advance:
        return draw(paths, count, protocol, manifest.rescaling, _passed_over, advance)


def _passed_over(path: Path, reason: str) -> None:
    notice(f"passed over {path}: {reason}")


def _split(request: Int8Request, manifest: Manifest) -> tuple[Sample, Sample | None]:
    """Images that calibrate, and others; at most half calibrate where others are needed and there are too few."""
    import dataclasses

    from vgg_deploy.errors import UsageError
    from vgg_deploy.views.protocols import choose_protocol

    wanted = request.images or INT8_IMAGES
    if wanted < LEAST_IMAGES:
        raise UsageError(
            f"--calibration-images is {wanted}; INT8 ranges need {LEAST_IMAGES} or more, and better a hundred"
        )
    drawn = draw_sample(request.folder, wanted + request.held_out, manifest, dynamic=request.dynamic)
    found = len(drawn.paths)
    enough = found == wanted + request.held_out
    count = wanted if enough else min(wanted, found // 2 if request.held_out else found)
    if count < LEAST_IMAGES:
        others = " and as many others that judge" if request.held_out else ""
        raise UsageError(
            f"{request.folder}: {found} image{'s' if found > 1 else ''} that can be read; INT8 ranges need {LEAST_IMAGES} or more"
            f"{others}, and better a hundred: give more"
        )
    if not request.held_out:
        if request.images is not None and found < wanted:
            notice(f"{request.folder} has {found} images that can be read; {wanted} were asked for")
        return drawn, None
    if count < wanted and request.images is not None:
        raise UsageError(
            f"{request.folder} has {found} images that can be read: too few for {wanted} that calibrate and as many "
            f"that judge; give more, or --calibration-images {count}"
        )
    if not enough:
        notice(f"{count} images calibrate and {found - count} others judge: {request.folder} has no more")
    single = choose_protocol(
        manifest, "dense" if request.dynamic else "center", mirror=False, free_size=request.dynamic
    ).protocol
    calibrating = dataclasses.replace(drawn, paths=drawn.paths[:count])
    return calibrating, dataclasses.replace(drawn, paths=drawn.paths[count:], protocol=single)


def quantize(
    checkpoint: Checkpoint, request: Int8Request, budget: Budget | None
) -> tuple[Quantization, dict[str, float] | None]:
    """The quantization that was asked for, and the largest activations where FP16 needs them; prints the table of a budget."""
    from engines import open_engine
    from export.int8 import Variants

    labelled = budget is not None and budget.max_drop is not None
    with Variants(checkpoint, open_engine, score_map=request.score_map, fine=request.fine) as variants:
        calibration, judge = _calibrated(checkpoint, request, variants, labelled=labelled)
        if judge is None or budget is None:
            quantization = calibration.quantization(calibration.candidates)
        else:
            rows = judge.sensitivities()
            quantization = judge.fewest_kept(rows, budget)
            print_sensitivities(rows, calibration, quantization, half=request.half)
    sample = calibration.sample
    reached = "" if quantization.budget is None else f"; {quantization.budget}"
    notice(f"INT8 ranges: {request.method} of {len(sample.paths)} images, {sample.protocol}{reached}")
    return quantization, dict(calibration.measured.largest) or None


def sensitivities(checkpoint: Checkpoint, request: Int8Request) -> tuple[Calibration, tuple[Sensitivity, ...]]:
    """What each layer alone in INT8 does to the answers."""
    from engines import open_engine
    from export.int8 import Variants

    with Variants(checkpoint, open_engine, score_map=request.score_map, fine=request.fine) as variants:
        calibration, judge = _calibrated(checkpoint, request, variants, labelled=False)
        assert judge is not None
        return calibration, judge.sensitivities(request.held_out)


def _calibrated(
    checkpoint: Checkpoint, request: Int8Request, variants: Variants, *, labelled: bool
) -> tuple[Calibration, Judge | None]:
    from export.int8 import calibrate
    from export.sensitivity import HeldOut, Judge

    manifest = checkpoint.manifest
    assert manifest.spec is not None
    sample, others = _split(request, manifest)
    held_out = None if others is None else HeldOut.of(others, manifest, labelled=labelled)
    calibration = calibrate(
        variants, manifest.spec, sample, request.method, request.target, largest=request.half, progress=progress
    )
    return calibration, None if held_out is None else Judge(variants, calibration, held_out, progress)


def print_sensitivities(
    rows: Sequence[Sensitivity],
    calibration: Calibration,
    quantization: Quantization | None = None,
    *,
    half: bool = False,
) -> None:
    """Layers by the divergence that each alone causes, the largest first; with `quantization`, what each became."""
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
