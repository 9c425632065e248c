"""vgg-deploy build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.cli.parameters import comma_integers
from vgg_deploy.cli.phases import phase_bars
from vgg_deploy.cli.tables import notice

if TYPE_CHECKING:
    from engines.trt.build import Built


def size(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """'4GiB' -> bytes."""
    from engines.trt.build_options import parse_size
    from vgg_deploy.errors import UsageError

    if value is None:
        return None
    try:
        return parse_size(value)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


@click.command("build")
@click.argument("model", type=click.Path(path_type=Path), metavar="MODEL.onnx")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Plan to write.  [default: MODEL.plan]"
)
@click.option(
    "--backend",
    type=click.Choice(["tensorrt", "tensorrt-rtx"]),
    help="tensorrt builds on the GPU that the plan is for, tensorrt-rtx anywhere.  [default: the one installed; of both, tensorrt where it has a GPU]",
)
@click.option(
    "--scales",
    callback=comma_integers,
    metavar="Q,Q,...",
    help="Test scales.  [default: the paper's, from the model's S]",
)
@click.option("--max-batch", type=int, metavar="N", help="Largest batch.  [default: 8]")
@click.option("--max-aspect", type=float, metavar="R", help="Largest long side, in short sides.  [default: 2]")
@click.option("--one-profile", is_flag=True, help="One profile for all scales: a smaller plan, less fitted to each.")
@click.option("--workspace", callback=size, metavar="SIZE", help="Limit of a layer's own GPU memory, such as 4GiB.")
@click.option(
    "--compute-capability",
    "capabilities",
    metavar="X.Y,...",
    help="tensorrt-rtx: GPUs that the plan is for, such as 8.9,12.0.  [default: 8.0 and later, without 9.0]",
)
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="tensorrt: measurements to use again; read where it exists, written afterwards.",
)
@click.option(
    "--hardware-compatibility",
    type=click.Choice(["none", "ampere+", "same"]),
    help="tensorrt: run on GPUs of 8.0 and later, or of the same compute capability, too.  [default: none]",
)
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Class names, one a line, for a foreign ONNX file.",
)
@click.option("--verbose", is_flag=True, help="Show TensorRT's own log.")
def command(
    model: Path,
    output: Path | None,
    backend: str | None,
    scales: tuple[int, ...] | None,
    max_batch: int | None,
    max_aspect: float | None,
    one_profile: bool,
    workspace: int | None,
    capabilities: str | None,
    timing_cache: Path | None,
    hardware_compatibility: str | None,
    labels: Path | None,
    verbose: bool,
) -> None:
    """Build a TensorRT plan of an ONNX file, in the file's own precision, and prove that precision."""
    from engines.trt.build import build
    from engines.trt.build_options import BuildOptions
    from vgg_deploy.errors import BuildError, PreflightError

    options = BuildOptions(
        backend=backend,
        scales=scales,
        max_batch=max_batch,
        max_aspect=max_aspect,
        one_profile=one_profile,
        workspace=workspace,
        compute_capabilities=tuple(word.strip() for word in capabilities.split(","))
        if capabilities is not None
        else (),
        timing_cache=timing_cache,
        hardware_compatibility=hardware_compatibility,
        labels=labels,
    )
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
    from vgg_deploy.artifacts.plan import DECLARED
    from vgg_deploy.network.precision import summary

    made = built.manifest
    targets = ", ".join(made.compute_capabilities) or "8.0 and later, without 9.0"
    proof = "as the parsed network declares" if made.layers_from == DECLARED else "as the built engine tells"
    click.echo(
        f"{built.path}: {made.backend} {made.version} for compute capability {targets}, "
        f"{built.path.stat().st_size / 1e6:.1f} MB, built in {made.build_seconds:.1f} s"
    )
    click.echo(f"{summary(made.layers) or 'no convolutions'}, {proof}")
    for profile in made.profiles:
        click.echo(f"takes {profile}")
