"""vgg-deploy bench."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import click

from vgg_deploy.artifacts.kinds import ONNX, kind_of, require_file
from vgg_deploy.bench.effort import Effort
from vgg_deploy.cli.bench.contestants import (
    Comparison,
    UnopenedContestant,
    comparison_options,
    contestants_of,
)
from vgg_deploy.cli.bench.measure import Measurement
from vgg_deploy.cli.bench.report import as_json, plot_report, print_report
from vgg_deploy.cli.bench.workloads import Workloads, effort_options, workload_options
from vgg_deploy.cli.outputs import STDOUT, check_outputs, check_plot, output_file, write_text
from vgg_deploy.cli.parameters import engine_options, labels_files
from vgg_deploy.cli.verdicts import say_verdicts
from vgg_deploy.cli.weights import weight_options
from vgg_deploy.files import require_writable
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.weight_facts import WeightFacts


@click.command("bench")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MODEL...")
@workload_options
@comparison_options
@effort_options
@click.option("--json", "json_path", metavar="FILE|-", help="Write the report, with all samples, as JSON.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw images/s (.png, .svg, .pdf).")
@engine_options(requests="Calls that run in parallel.  [default: 1; for --protocol 2 on the CPU]")
@weight_options
def command(
    models: tuple[Path, ...],
    workloads: Workloads,
    comparison: Comparison,
    effort: Effort,
    json_path: str | None,
    plot: Path | None,
    options: EngineOptions,
    facts: WeightFacts,
) -> None:
    """Time models, and other ways to run them, in turns within one run, and compare their predictions.

    Each MODEL is an ONNX file, a plan or a checkpoint. The exit code is 1 if the predictions of a model
    differ too much from those of the first model, or of the reference.
    """
    for model in models:
        require_file(model)
    if plot is not None:
        check_plot(plot)
    written = {"--json": output_file(json_path), "--plot": plot}
    check_outputs(written, (*models, *workloads.paths, *labels_files(), *comparison.files))
    for path in written.values():
        if path is not None:
            require_writable(path)
    contestants, unopened_reference = contestants_of(models, comparison, replace(options, requests=1), facts)
    _check_requests(options.requests, contestants)
    say_verdicts(models)
    report = Measurement(contestants, unopened_reference, options, workloads, effort).measure()
    if json_path is not None:
        write_text(json_path, json.dumps(as_json(report), indent=2, allow_nan=False) + "\n")
    if plot is not None:
        plot_report(report, plot)
    if json_path != STDOUT:
        print_report(report)
    if any(result.failures for result in report.results):
        raise SystemExit(1)


def _check_requests(requests: int | None, contestants: list[UnopenedContestant]) -> None:
    if requests is not None and not any(kind_of(contestant.path) == ONNX for contestant in contestants):
        kinds = " and ".join(dict.fromkeys(kind_of(contestant.path) for contestant in contestants))
        raise click.UsageError(f"--requests applies to ONNX files on the CPU, but every MODEL is {kinds}: leave it out")
