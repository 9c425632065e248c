"""vgg-deploy sensitivity."""

from __future__ import annotations

import json

import click

from vgg_deploy.cli.calibration import (
    CalibrationOptions,
    NetworkOptions,
    calibration_options,
    print_sensitivities,
    sensitivities,
)
from vgg_deploy.cli.weights import WeightSource, require_torch, source_options, weight_options
from vgg_deploy.network.weight_facts import WeightFacts


@click.command("sensitivity")
@source_options
@weight_options
@calibration_options("Folder of real images. Some calibrate, others judge.", required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(source: WeightSource, facts: WeightFacts, calibration: CalibrationOptions, as_json: bool) -> None:
    """Quantize each layer alone to INT8 and show how that changes the answers, the worst layer first."""
    require_torch("reading a checkpoint")
    from export.sensitivity import RANKING_IMAGES

    checkpoint = source.read(facts)
    request = calibration.int8(calibration.held_out or RANKING_IMAGES, NetworkOptions())
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
