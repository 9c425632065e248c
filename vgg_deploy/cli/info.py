"""vgg-deploy info."""

from __future__ import annotations

import json

import click

from vgg_deploy.cli.parameters import comma_integers
from vgg_deploy.network.spec import CONFIGURATIONS, NetworkSpec, stacked_3x3_weights


@click.command("info")
@click.option(
    "--arch", default="D", show_default=True, type=click.Choice(CONFIGURATIONS), help="Column of the paper's Table 1."
)
@click.option("--width-divisor", default=1, show_default=True, help="Divide the channels of every convolution by this.")
@click.option("--crop", default=224, show_default=True, help="Side of the training crop, a multiple of 32.")
@click.option("--fc-width", type=int, help="Units of fc6 and fc7.  [default: 4096 / width divisor]")
@click.option("--classes", default=1000, show_default=True, help="Units of fc8.")
@click.option(
    "--size",
    callback=comma_integers,
    metavar="HEIGHT,WIDTH",
    help="Size of the input; one number for a square.  [default: the crop]",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    arch: str,
    width_divisor: int,
    crop: int,
    fc_width: int | None,
    classes: int,
    size: tuple[int, ...] | None,
    as_json: bool,
) -> None:
    """Print the layers of a configuration: output size, parameters, MACs and receptive field."""
    if size is not None and len(size) > 2:
        raise click.UsageError(f"--size has {len(size)} numbers; expected HEIGHT,WIDTH or one number")
    if fc_width is None:
        fc_width = max(1, 4096 // max(1, width_divisor))
    spec = NetworkSpec(arch, width_divisor, crop, fc_width, classes)
    height, width = (size[0], size[-1]) if size else (crop, crop)
    if as_json:
        click.echo(json.dumps(_as_json(spec, height, width), indent=2))
    else:
        _print_table(spec, height, width)


def _as_json(spec: NetworkSpec, height: int, width: int) -> dict[str, object]:
    stack, single = stacked_3x3_weights(3)
    return {
        "configuration": spec.configuration,
        "common_name": spec.common_name,
        "width_divisor": spec.width_divisor,
        "crop": spec.crop,
        "fc_width": spec.fc_width,
        "classes": spec.classes,
        "input": [3, height, width],
        "parameters": spec.parameters,
        "macs": spec.macs(height, width),
        "layers": [
            {
                "name": row.layer.name,
                "kind": row.layer.kind,
                "kernel": row.layer.kernel,
                "output": list(row.output),
                "parameters": row.layer.parameters,
                "macs": row.macs,
                "receptive_field": row.receptive_field,
            }
            for row in spec.statistics(height, width)
        ],
        "three_3x3_against_one_7x7": {"three_3x3": f"{stack}C^2", "one_7x7": f"{single}C^2", "ratio": single / stack},
    }


def _print_table(spec: NetworkSpec, height: int, width: int) -> None:
    statistics = spec.statistics(height, width)
    click.echo(f"Configuration {spec.configuration} ({spec.common_name}), input 3 x {height} x {width}\n")
    line = "{:<9} {:<6} {:>16} {:>13} {:>16} {:>10}"
    click.echo(line.format("layer", "kernel", "output", "parameters", "MACs", "receptive"))
    for row in statistics:
        layer = row.layer
        kernel = "" if layer.kind == "lrn" else f"{layer.kernel}x{layer.kernel}"
        output = " x ".join(map(str, row.output))
        parameters, macs = (f"{layer.parameters:,}", f"{row.macs:,}") if layer.has_weights else ("", "")
        click.echo(line.format(layer.name, kernel, output, parameters, macs, row.receptive_field))
    total = spec.macs(height, width)
    click.echo(line.format("total", "", "", f"{spec.parameters:,}", f"{total:,}", ""))
    stack, single = stacked_3x3_weights(3)
    click.echo(f"\n{spec.parameters / 1e6:.1f} M parameters, {total / 1e9:.2f} G MACs per image.")
    click.echo(
        f"Section 2.3: three 3x3 convolutions with C channels cover 7x7 pixels with {stack}C^2 weights. "
        f"One 7x7 convolution needs {single}C^2, {single / stack - 1:.0%} more."
    )
