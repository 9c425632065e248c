"""vgg-deploy bench."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.artifacts.kinds import ONNX, kind_of
from vgg_deploy.cli.bench.entries import entries_of, peer_names
from vgg_deploy.cli.bench.measure import Request
from vgg_deploy.cli.bench.report import as_json, plot_report, print_report
from vgg_deploy.cli.outputs import check_outputs, check_plot, write_text
from vgg_deploy.cli.parameters import comma_integers, engine_options
from vgg_deploy.cli.weights import WeightFacts, weight_options
from vgg_deploy.inference.engine_options import EngineOptions

if TYPE_CHECKING:
    from vgg_deploy.bench.timing import BatchShape

SECONDS = 10.0


def _shapes(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[BatchShape, ...] | None:
    """'1x224x224,8x224x224' -> shapes, each once."""
    if value is None:
        return None
    from vgg_deploy.bench.timing import BatchShape
    from vgg_deploy.errors import UsageError

    try:
        return tuple(dict.fromkeys(BatchShape.parse(word) for word in value.split(",")))
    except UsageError as error:
        raise click.BadParameter(str(error)) from None


@click.command("bench")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="MODEL...")
@click.option(
    "--shapes",
    callback=_shapes,
    metavar="NxHxW,...",
    help="Batches to time: images, rows, columns.  [default: one image of the network's crop, and eight; none beside --protocol]",
)
@click.option("--protocol", metavar="P", help="Time a test protocol over the images too, decode to answer.")
@click.option("--scales", callback=comma_integers, metavar="Q,Q,...", help="Test scales of the protocol.")
@click.option(
    "--images", multiple=True, metavar="DIR", help="Folder, file or pattern of real images; may be given again."
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=16,
    show_default=True,
    help="Use at most this many images, a seeded sample.",
)
@click.option(
    "--against",
    "peers",
    callback=peer_names,
    metavar="PEER,...",
    help="Put beside the models: torch, torch-compile, which run the --reference, or runtimes of ONNX files, such as onnxruntime "
    "and openvino, which run the first MODEL.",
)
@click.option(
    "--reference",
    type=click.Path(path_type=Path),
    metavar="CKPT",
    help="What answers are held against, and what torch runs.  [default: the first MODEL]",
)
@click.option("--repetitions", type=click.IntRange(1), metavar="N", help="So many of each, instead of --seconds.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help=f"For each shape and the protocol, all contestants together, about; three repetitions at least.  [default: {SECONDS:g}]",
)
@click.option("--layers", is_flag=True, help="Show where the time goes, layer by layer.")
@click.option("--json", "json_path", metavar="FILE|-", help="Write the report, with all samples, as JSON.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw images/s (.png, .svg, .pdf).")
@engine_options(requests="Calls computed side by side.  [default: 1; for --protocol 2 on the CPU]")
@weight_options
def command(
    models: tuple[Path, ...],
    shapes: tuple[BatchShape, ...] | None,
    protocol: str | None,
    scales: tuple[int, ...] | None,
    images: tuple[str, ...],
    limit: int,
    peers: tuple[str, ...],
    reference: Path | None,
    repetitions: int | None,
    seconds: float | None,
    layers: bool,
    json_path: str | None,
    plot: Path | None,
    options: EngineOptions,
    facts: WeightFacts,
) -> None:
    """Time models beside each other and beside what else would run them, in turn in one run, and show that they agree.

    Each MODEL is an ONNX file, a plan or a checkpoint. Exit 1 where one's answers are not the first's, or the reference's.
    """
    from vgg_deploy.bench.contest import Effort
    from vgg_deploy.files import require_writable
    from vgg_deploy.views.images import find_images
    from vgg_deploy.views.protocols import PROTOCOLS

    if repetitions is not None and seconds is not None:
        raise click.UsageError("--repetitions and --seconds both say how long to measure; give one")
    if protocol is not None and protocol not in PROTOCOLS:
        raise click.UsageError(f"--protocol is {protocol!r}; expected {', '.join(PROTOCOLS)}")
    if protocol is not None and not images:
        raise click.UsageError("--protocol times image files, decode to answer: give --images DIR")
    if scales is not None and protocol is None:
        raise click.UsageError("--scales are of --protocol; give both")
    if plot is not None:
        check_plot(plot)
    paths = list(find_images(images))
    written = {"--json": None if json_path in (None, "-") else Path(str(json_path)), "--plot": plot}
    check_outputs(written, (*models, *paths, *(() if reference is None else (reference,))))
    for path in written.values():
        if path is not None:
            require_writable(path)
    requests, options = options.requests, replace(options, requests=1)
    entries, right = entries_of(models, peers, reference, options, facts)
    if requests is not None and not any(kind_of(entry.path) == ONNX for entry in entries):
        kinds = " and ".join(dict.fromkeys(kind_of(entry.path) for entry in entries))
        raise click.UsageError(f"--requests is for ONNX files on the CPU, and here is only {kinds}: leave it out")
    report = Request(
        entries,
        right,
        options,
        shapes,
        protocol,
        scales,
        paths,
        limit,
        Effort(repetitions, SECONDS if seconds is None else seconds),
        requests,
        layers,
    ).run()
    if json_path is not None:
        write_text(json_path, json.dumps(as_json(report), indent=2, allow_nan=False) + "\n")
    if plot is not None:
        plot_report(report, plot)
    if json_path != "-":
        print_report(report)
    if any(result.failures for result in report.results):
        raise SystemExit(1)
