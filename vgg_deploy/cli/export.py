"""vgg-deploy export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.artifacts.kinds import CHECKPOINT_SUFFIXES
from vgg_deploy.cli.calibration import (
    HALF_IMAGES,
    HELD_OUT,
    Int8Request,
    calibration_options,
    check_count,
    draw_sample,
    quantize,
)
from vgg_deploy.cli.tables import notice, progress
from vgg_deploy.cli.weights import WeightFacts, named_checkpoint, require_torch, source_options, weight_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vgg_deploy.network.manifest import Manifest
    from vgg_deploy.network.tensors import Images


@click.command("export")
@source_options
@weight_options
@click.option(
    "--dynamic", is_flag=True, help="Free batch, height and width: needed for whole images.  [default: 1 x crop x crop]"
)
@click.option("--fp16", is_flag=True, help="FP16 weights and arithmetic from conv1_1 to fc8; with --int8, of the rest.")
@click.option("--int8", is_flag=True, help="INT8 weights and arithmetic, by Q/DQ nodes; needs --calibration.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Real images on which ranges are measured: for INT8, and for which layers would overflow FP16.",
)
@calibration_options
@click.option(
    "--max-drop",
    type=float,
    metavar="POINTS",
    help="With --int8: keep the fewest layers in floating point that lose at most this much top-1; folders of --calibration name classes.",
)
@click.option(
    "--min-agreement",
    type=float,
    metavar="PERCENT",
    help="With --int8: keep the fewest layers in floating point whose top-1 agrees with FP32 on at least this share.",
)
@click.option("--score-map", is_flag=True, help="Add the output score_map (infer --heatmaps).")
@click.option("--features", is_flag=True, help="Add the output features, the spatial mean of fc7.")
@click.option(
    "--fine",
    is_flag=True,
    help="OverFeat's finer grid: pool5 at every offset, so that whole images are scored every 16 pixels, not every 32.",
)
@click.option(
    "--external-data",
    is_flag=True,
    help="Keep the weights in a file beside the ONNX file: runtimes map it, and load faster. Move and copy both.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write.  [default: vgg16.onnx and the like, by configuration]",
)
def command(
    weights: str | None,
    runs: Path,
    dynamic: bool,
    fp16: bool,
    int8: bool,
    calibration: Path | None,
    calibration_images: int | None,
    calibration_method: str | None,
    target: str | None,
    held_out: int | None,
    max_drop: float | None,
    min_agreement: float | None,
    score_map: bool,
    features: bool,
    fine: bool,
    external_data: bool,
    output: Path | None,
    facts: WeightFacts,
) -> None:
    """Fold the FC layers into convolutions and write the network as ONNX, with its manifest."""
    check_count("--calibration-images", calibration_images)
    check_count("--held-out", held_out)
    _check_precision(
        calibration,
        fp16=fp16,
        int8=int8,
        target=target,
        only_int8={
            "--calibration-method": calibration_method,
            "--target": target,
            "--held-out": held_out,
            "--max-drop": max_drop,
            "--min-agreement": min_agreement,
        },
    )
    if fine and not dynamic:
        raise click.UsageError(
            "--fine without --dynamic changes nothing: of a crop there is one position; give --dynamic too"
        )
    require_torch("exporting a checkpoint")
    from export import export
    from export.sensitivity import Budget
    from vgg_deploy.artifacts.onnx_file import OnnxFile

    budget = None if max_drop is None and min_agreement is None else Budget(max_drop, min_agreement)
    if held_out is not None and budget is None:
        raise click.UsageError("--held-out images judge a budget; give --max-drop or --min-agreement with it")
    checkpoint = named_checkpoint(weights, facts, runs)
    for text in checkpoint.notices:
        notice(text)
    manifest = checkpoint.manifest
    assert manifest.spec is not None
    path = output or Path(f"{manifest.spec.common_name}.onnx")
    if path.suffix in CHECKPOINT_SUFFIXES:
        raise click.UsageError(f"--output {path} has a checkpoint's ending; name an .onnx file")
    if weights is not None and path.exists() and Path(weights).exists() and path.samefile(weights):
        raise click.UsageError(f"--output {path} is the checkpoint itself; name another file")
    images = quantization = largest = None
    if int8:
        assert calibration is not None
        request = Int8Request(
            calibration,
            calibration_images,
            0 if budget is None else held_out or HELD_OUT,
            calibration_method or "minmax",
            target or "tensorrt",
            score_map,
            fp16,
            dynamic,
            fine,
        )
        quantization, largest = quantize(checkpoint, request, budget)
    elif calibration is not None:
        images = _half_calibration(calibration, calibration_images or HALF_IMAGES, manifest)
    written = export(
        checkpoint,
        path,
        dynamic=dynamic,
        half=fp16,
        score_map=score_map,
        features=features,
        fine=fine,
        calibration=images,
        quantization=quantization,
        largest=largest,
        external_data=external_data,
    )
    for text in written.notices:
        notice(text)
    made = written.manifest
    beside = OnnxFile(path).external_files
    size = sum(file.stat().st_size for file in (path, *beside)) / 1e6
    where = f" with {beside[0].name}" if beside else ""
    click.echo(
        f"{path}: configuration {manifest.spec.configuration}, {len(made.classes)} classes, {made.precision}, images {made.shapes}, {size:.1f} MB{where}"
    )


def _check_precision(
    calibration: Path | None, *, fp16: bool, int8: bool, target: str | None, only_int8: dict[str, object]
) -> None:
    """Raises UsageError for options that contradict each other."""
    if calibration is not None and not (fp16 or int8):
        raise click.UsageError("--calibration measures ranges for FP16 and INT8; give --fp16 or --int8 with it")
    if int8 and calibration is None:
        raise click.UsageError(
            "--int8 needs --calibration DIR, a folder of real images such as the network will meet: ranges are never guessed"
        )
    if int8 and fp16 and target == "onnxruntime":
        raise click.UsageError(
            "--target onnxruntime is for its CPU kernels, which have no FP16; leave --fp16 or --target onnxruntime out"
        )
    for option, value in only_int8.items():
        if value is not None and not int8:
            raise click.UsageError(f"{option} is about INT8; give --int8 with it")


def _half_calibration(folder: Path, count: int, manifest: Manifest) -> Iterator[Images]:
    """Views on which FP16's range is measured, one at a time."""
    sample = draw_sample(folder, count, manifest, dynamic=True)

    def views() -> Iterator[Images]:
        with progress("measuring activations", len(sample.paths)) as advance:
            yield from sample.views(advance)

    return views()
