"""vgg-deploy sensitivity."""

from __future__ import annotations

import json
from pathlib import Path

import click

from vgg_deploy.cli.calibration import (
    Int8Request,
    calibration_options,
    check_count,
    print_sensitivities,
    sensitivities,
)
from vgg_deploy.cli.tables import notice
from vgg_deploy.cli.weights import WeightFacts, named_checkpoint, require_torch, source_options, weight_options


@click.command("sensitivity")
@source_options
@weight_options
@click.option(
    "--calibration",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Real images: some calibrate, others judge.",
)
@calibration_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    weights: str | None,
    runs: Path,
    calibration: Path,
    calibration_images: int | None,
    calibration_method: str | None,
    target: str | None,
    held_out: int | None,
    as_json: bool,
    facts: WeightFacts,
) -> None:
    """Quantize each layer alone to INT8, and show what that does to the answers, the worst first."""
    check_count("--calibration-images", calibration_images)
    check_count("--held-out", held_out)
    require_torch("reading a checkpoint")
    from export.sensitivity import RANKING_IMAGES

    checkpoint = named_checkpoint(weights, facts, runs)
    for text in checkpoint.notices:
        notice(text)
    request = Int8Request(
        calibration,
        calibration_images,
        held_out or RANKING_IMAGES,
        calibration_method or "minmax",
        target or "tensorrt",
    )
    measured, rows = sensitivities(checkpoint, request)
    if not as_json:
        print_sensitivities(rows, measured)
        return
    layers = [
        {
            "layer": row.layer,
            "divergence": row.divergence,
            "agreement": row.agreement,
            "range": list(measured.measured.spans[row.layer]),
        }
        for row in rows
    ]
    click.echo(json.dumps({"method": request.method, "target": request.target, "layers": layers}, indent=2))
