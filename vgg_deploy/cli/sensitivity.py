"""vgg-deploy sensitivity."""

from __future__ import annotations

import json

import click

from vgg_deploy.cli.calibration import (
    INT8_IMAGES,
    RANKED_ON,
    CalibrationOptions,
    calibration_options,
    print_sensitivities,
    sensitivities,
)
from vgg_deploy.cli.weights import WeightSource, require_torch, source_options, weight_options
from vgg_deploy.network.weight_facts import WeightFacts


@click.command("sensitivity")
@source_options
@weight_options
@calibration_options(
    "Folder of real images: some to calibrate on, others to judge on.",
    required=True,
    images=str(INT8_IMAGES),
    held_out=RANKED_ON,
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(source: WeightSource, facts: WeightFacts, calibration: CalibrationOptions, as_json: bool) -> None:
    """Quantize each layer alone to INT8 and show how that changes the predictions, the worst layer first."""
    require_torch("reading a checkpoint")
    calibration.check_folder()
    checkpoint = source.read(facts)
    measured, rows = sensitivities(checkpoint, calibration, calibration.held_out or RANKED_ON)
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
    click.echo(json.dumps({"method": measured.method, "target": measured.target, "layers": layers}, indent=2))
