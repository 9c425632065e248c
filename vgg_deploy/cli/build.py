"""vgg-deploy build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.artifacts.plan import BACKENDS, DECLARED
from vgg_deploy.cli.parameters import gathered, scales_option
from vgg_deploy.cli.phases import phase_bars
from vgg_deploy.cli.tables import notice
from vgg_deploy.errors import BuildError, PreflightError, UsageError
from vgg_deploy.network.precision import summary

if TYPE_CHECKING:
    from engines.trt.build import Built
    from engines.trt.build_options import BuildOptions


def _size(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """'4GiB' -> bytes."""
    from engines.trt.build_options import parse_size

    if value is None:
        return None
    try:
        return parse_size(value)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


def _capabilities(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    """'8.9,12.0' -> ('8.9', '12.0')."""
    return () if value is None else tuple(capability.strip() for capability in value.split(","))


def _build_options(**values: Any) -> BuildOptions:
    from engines.trt.build_options import BuildOptions

    return BuildOptions(**values)


build_options = gathered(
    "options",
    _build_options,
    click.option(
        "--backend",
        type=click.Choice(BACKENDS),
        help="tensorrt builds on the GPU that will run the plan; tensorrt-rtx builds on any machine.  "
        "[default: the one installed; if both are, tensorrt on a machine with a GPU]",
    ),
    scales_option("Test scales that the plan takes.  [default: the paper's, from the model's S]"),
    click.option("--max-batch", type=int, metavar="N", help="Largest batch.  [default: 8]"),
    click.option(
        "--max-aspect",
        type=float,
        metavar="R",
        help="Largest ratio of an image's long to its short side.  [default: 2]",
    ),
    click.option(
        "--one-profile",
        is_flag=True,
        help="One profile for all scales. The plan is smaller, but less tuned to each scale.",
    ),
    click.option("--workspace", callback=_size, metavar="SIZE", help="Limit of GPU memory per layer, such as 4GiB."),
    click.option(
        "--compute-capability",
        "compute_capabilities",
        callback=_capabilities,
        metavar="X.Y,...",
        help="tensorrt-rtx: GPUs that the plan is for, such as 8.9,12.0.  [default: 8.0 and later, except 9.0]",
    ),
    click.option(
        "--timing-cache",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="tensorrt: file of measurements, read if it exists and updated by the build.",
    ),
    click.option(
        "--hardware-compatibility",
        type=click.Choice(["none", "ampere+", "same"]),
        help="tensorrt: also run on GPUs of compute capability 8.0 and later (ampere+), or on all GPUs of the same "
        "compute capability (same).  [default: none]",
    ),
    click.option(
        "--labels",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Class names for an ONNX file without our manifest, one per line.",
    ),
)


@click.command("build")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Plan to write.  [default: MODEL.plan]"
)
@build_options
@click.option("--verbose", is_flag=True, help="Show TensorRT's own log.")
def command(model: Path, output: Path | None, options: BuildOptions, verbose: bool) -> None:
    """Build a TensorRT plan from an ONNX file, in the precision of the file, and prove that precision."""
    from engines.trt.build import build

    try:
        with phase_bars(shown=False if verbose else None) as phases:
            built = build(model, output, options, phases=phases, verbose=notice if verbose else None)
    except PreflightError as error:
        if len(error.findings) == 1:
            raise
        for finding in error.findings:
            notice(finding)
        raise BuildError(f"{model} cannot become a plan, for the {len(error.findings)} reasons above") from error
    for text in built.notices:
        notice(text)
    _print(built)


def _print(built: Built) -> None:
    manifest = built.manifest
    targets = ", ".join(manifest.compute_capabilities) or "8.0 and later, except 9.0"
    proof = "as the parsed network declares" if manifest.layers_from == DECLARED else "as the built engine states"
    click.echo(
        f"{built.path}: {manifest.backend} {manifest.version} for compute capability {targets}, "
        f"{built.path.stat().st_size / 1e6:.1f} MB, built in {manifest.build_seconds:.1f} s"
    )
    click.echo(f"{summary(manifest.layers) or 'no convolutions'}, {proof}")
    for profile in manifest.profiles:
        click.echo(f"takes {profile}")
