"""vgg-deploy export."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.artifacts.export_options import ExportOptions, GraphOptions
from vgg_deploy.artifacts.kinds import CHECKPOINT, kind_of
from vgg_deploy.cli.calibration import (
    HALF_IMAGES,
    HELD_OUT,
    INT8_IMAGES,
    CalibrationOptions,
    calibration_options,
    draw_sample,
    quantize,
)
from vgg_deploy.cli.parameters import gathered
from vgg_deploy.cli.tables import notice, progress
from vgg_deploy.cli.weights import WeightSource, assumed_line, require_torch, source_options, weight_options
from vgg_deploy.files import require_writable
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from export.exporter import ExportResult
    from export.sensitivity import Budget
    from train.network.checkpoint import Checkpoint
    from vgg_deploy.network.manifest import Manifest
    from vgg_deploy.network.tensors import Images


def _export_options(*, fine: bool, external_data: bool, **graph: Any) -> ExportOptions:
    return ExportOptions(graph=GraphOptions(**graph), fine=fine, external_data=external_data)


# The command receives `options`, an `ExportOptions`. Its ranges are measured later.
export_options = gathered(
    "options",
    _export_options,
    click.option(
        "--dynamic",
        is_flag=True,
        help="Make batch size, height and width dynamic, as whole images require.  [default: 1 x crop x crop]",
    ),
    click.option(
        "--fp16",
        "half",
        is_flag=True,
        help="FP16 weights and arithmetic from conv1_1 to fc8. With --int8, for the layers that are not INT8.",
    ),
    click.option("--score-map", is_flag=True, help="Add the output score_map, which infer --heatmaps needs."),
    click.option("--features", is_flag=True, help="Add the output features, the spatial mean of fc7."),
    click.option(
        "--fine",
        is_flag=True,
        help="Score whole images every 16 pixels instead of 32, by pooling at every offset in pool5 (OverFeat).",
    ),
    click.option(
        "--external-data",
        is_flag=True,
        help="Keep the weights in a file beside the ONNX file, which loads faster. Move both files together.",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetOptions:
    """What INT8 may cost; see `export.sensitivity.Budget`."""

    max_drop: float | None
    min_agreement: float | None

    @property
    def is_set(self) -> bool:
        """Whether there is a budget."""
        return self.max_drop is not None or self.min_agreement is not None

    def budget(self) -> Budget | None:
        """The budget, if there is one.

        Raises:
            UsageError: a value that is not a percentage, or both values.
        """
        from export.sensitivity import Budget

        return Budget(self.max_drop, self.min_agreement) if self.is_set else None


budget_options = gathered(
    "limits",
    BudgetOptions,
    click.option(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="With --int8: keep as few layers in floating point as possible, such that top-1 accuracy drops by at most "
        "this. The folders of --calibration must name the classes.",
    ),
    click.option(
        "--min-agreement",
        type=float,
        metavar="PERCENT",
        help="With --int8: keep as few layers in floating point as possible, such that top-1 agrees with FP32 on at "
        "least this share of images.",
    ),
)


@click.command("export")
@source_options
@weight_options
@export_options
@click.option("--int8", is_flag=True, help="INT8 weights and arithmetic, as Q/DQ nodes. Requires --calibration.")
@calibration_options(
    "Folder of real images. They give the INT8 ranges, and show which layers would overflow FP16.",
    required=False,
    images=f"{INT8_IMAGES}; {HALF_IMAGES} for FP16 alone",
    held_out=HELD_OUT,
)
@budget_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File to write.  [default: by configuration, such as vgg16.onnx]",
)
def command(
    source: WeightSource,
    facts: WeightFacts,
    options: ExportOptions,
    int8: bool,
    calibration: CalibrationOptions,
    limits: BudgetOptions,
    output: Path | None,
) -> None:
    """Write a network as fully convolutional ONNX: the FC layers become convolutions. The file holds a manifest."""
    _check_precision(calibration, limits, half=options.graph.half, int8=int8)
    if options.fine and not options.graph.dynamic:
        raise click.UsageError("--fine requires --dynamic: a single crop has one position either way")
    require_torch("exporting a checkpoint")
    from export.exporter import export_with

    budget = limits.budget()
    if calibration.held_out is not None and budget is None:
        raise click.UsageError("--held-out requires --max-drop or --min-agreement")
    calibration.check_folder()
    if output is not None:
        _check_output(output)
    checkpoint = source.read(facts)
    path = _output_path(output, source.weights, checkpoint.manifest)
    options = _with_ranges(options, checkpoint, calibration, budget, int8=int8)
    result = export_with(checkpoint, path, options)
    for text in result.notices:
        notice(text)
    _print(path, result)
    if source.weights is not None and (line := assumed_line(checkpoint, source.weights)) is not None:
        notice(line)


def _check_precision(calibration: CalibrationOptions, limits: BudgetOptions, *, half: bool, int8: bool) -> None:
    """Raises click.UsageError for options that contradict each other."""
    if calibration.folder is not None and not (half or int8):
        raise click.UsageError("--calibration requires --fp16 or --int8")
    if int8 and calibration.folder is None:
        raise click.UsageError(
            "--int8 requires --calibration DIR, a folder of real images like those that the network will see"
        )
    if int8 and half and calibration.target == "onnxruntime":
        raise click.UsageError(
            "--target onnxruntime excludes --fp16: ONNX Runtime's CPU kernels have no FP16; leave out one of them"
        )
    only_int8 = {
        "--calibration-method": calibration.method,
        "--target": calibration.target,
        "--held-out": calibration.held_out,
        "--max-drop": limits.max_drop,
        "--min-agreement": limits.min_agreement,
    }
    for option, value in only_int8.items():
        if value is not None and not int8:
            raise click.UsageError(f"{option} requires --int8")


def _check_output(output: Path) -> None:
    """Before weights are read, which may take a download of half a gigabyte."""
    if kind_of(output) == CHECKPOINT:
        raise click.UsageError(f"--output {output} has the ending of a checkpoint; name an .onnx file")
    require_writable(output)


def _output_path(output: Path | None, weights: str | None, manifest: Manifest) -> Path:
    assert manifest.spec is not None
    path = output or Path(f"{manifest.spec.common_name}.onnx")
    if weights is not None and path.exists() and Path(weights).exists() and path.samefile(weights):
        raise click.UsageError(f"--output {path} would overwrite the checkpoint; name another file")
    return path


def _with_ranges(
    options: ExportOptions,
    checkpoint: Checkpoint,
    calibration: CalibrationOptions,
    budget: Budget | None,
    *,
    int8: bool,
) -> ExportOptions:
    """The options, with what calibration measures."""
    if int8:
        held_out = 0 if budget is None else calibration.held_out or HELD_OUT
        quantization, largest = quantize(checkpoint, replace(calibration, held_out=held_out), options, budget)
        return replace(options, graph=replace(options.graph, quantization=quantization), largest=largest)
    if calibration.folder is None:
        return options
    count = calibration.images or HALF_IMAGES
    return replace(options, calibration=_views(calibration.folder, count, checkpoint.manifest))


def _views(folder: Path, count: int, manifest: Manifest) -> Iterator[Images]:
    """Views on which the largest activations are measured for FP16, uint8 [1, h, w, 3], one at a time."""
    sample = draw_sample(folder, count, manifest, dynamic=True)

    def views() -> Iterator[Images]:
        with progress("measuring activations", len(sample.paths)) as advance:
            yield from sample.views(advance)

    return views()


def _print(path: Path, result: ExportResult) -> None:
    from vgg_deploy.artifacts.onnx_file import OnnxFile

    made = result.manifest
    assert made.spec is not None
    weights = OnnxFile(path).external_files
    megabytes = sum(file.stat().st_size for file in (path, *weights)) / 1e6
    external = f" with {weights[0].name}" if weights else ""
    click.echo(
        f"{path}: configuration {made.spec.configuration}, {len(made.classes)} classes, {made.precision}, "
        f"images {made.shapes}, {megabytes:.1f} MB{external}"
    )
