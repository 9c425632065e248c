"""vgg-deploy eval."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.artifacts.kinds import require_file
from vgg_deploy.cli.eval.evaluated_models import EvaluatedModels
from vgg_deploy.cli.eval.evaluator import EvaluationOptions, Evaluator, evaluation_options, rows_of
from vgg_deploy.cli.eval.report_options import ReportOptions, report_options
from vgg_deploy.cli.eval.selection import folder_and_protocols, select_protocols
from vgg_deploy.cli.found_images import found_images
from vgg_deploy.cli.outputs import check_outputs
from vgg_deploy.cli.parameters import engine_options, flip_option, gathered, labels_files, scales_option
from vgg_deploy.cli.protocol_options import ProtocolOptions
from vgg_deploy.cli.split_folders import refuse_training_images
from vgg_deploy.cli.tables import notice
from vgg_deploy.cli.weights import weight_options
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from vgg_deploy.evaluation.error_rates import LabelledImages
    from vgg_deploy.inference.engine import EngineInfo

PAPER_IMAGES = 50_000  # ILSVRC-2012's validation set

engine_option = click.option(
    "--engine",
    "model_paths",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="MODEL",
    help="ONNX file, plan or checkpoint. If repeated, the models' mean posteriors are tested too.",
)
protocol_option = click.option(
    "--protocol",
    "protocol_names",
    multiple=True,
    metavar="P",
    help="center, dense, multiscale, 10-crop, 50-crop, 144-crop, 150-crop, multiscale+150-crop, or all that the models "
    "support. Separate several by commas or spaces.  [default: dense,multiscale; center for a model of one size]",
)
protocol_options = gathered(
    "protocol",
    ProtocolOptions,
    scales_option(
        "Test scales of every protocol. center, dense, 10-crop and 50-crop take one.  [default: from the training S]"
    ),
    flip_option(),
)


@click.command("eval")
@click.argument("data", nargs=-1, required=True, metavar="DATA [PROTOCOL ...]")
@engine_option
@protocol_option
@protocol_options
@evaluation_options
@report_options
@engine_options()
@weight_options
def command(
    data: tuple[str, ...],
    model_paths: tuple[Path, ...],
    protocol_names: tuple[str, ...],
    protocol: ProtocolOptions,
    evaluation: EvaluationOptions,
    report: ReportOptions,
    options: EngineOptions,
    facts: WeightFacts,
) -> None:
    """Measure top-1 and top-5 error on the labelled images DATA/CLASS/*, under one or more test protocols.

    A folder names its class by id, label or both: n01440764, tench or n01440764_tench.
    """
    from vgg_deploy.evaluation.error_rates import label_by_folder

    folder, names = folder_and_protocols(data, protocol_names)
    for path in model_paths:
        require_file(path)
    refuse_training_images([folder])
    paths = found_images([folder])
    check_outputs({**report.files, "--cache": evaluation.cache}, (*model_paths, *labels_files(), *paths))
    with ExitStack() as stack:
        models = stack.enter_context(EvaluatedModels(model_paths, options, facts))
        everything = label_by_folder(paths, models.infos[0].manifest)
        _say_if_a_class_has_two_folders(everything)
        images = evaluation.sample(everything)
        selected = select_protocols(models.names, models.infos, names, protocol)
        if report.paper:
            _say_how_the_test_differs_from_the_paper(models.names, models.infos, len(images.paths))
        report.require_writable()
        evaluations = stack.enter_context(Evaluator(images, evaluation)).evaluate(models, selected)
    rows = rows_of(models, evaluations, images, paper=report.paper)
    report.write(rows)
    if any(row.errors.failed for row in rows):
        raise SystemExit(1)


def _say_if_a_class_has_two_folders(images: LabelledImages) -> None:
    """DATA is searched recursively, so it may hold several parts of a set."""
    folder_of_class: dict[int, Path] = {}
    for path, index in zip(images.paths, images.truth.tolist(), strict=True):
        other = folder_of_class.setdefault(index, path.parent)
        if other != path.parent:
            notice(f"{other} and {path.parent} are the same class; images of both are counted")
            return


def _say_how_the_test_differs_from_the_paper(names: Sequence[str], infos: Sequence[EngineInfo], images: int) -> None:
    from vgg_deploy.evaluation.paper import differences_from_paper

    for name, info in zip(names, infos, strict=True):
        if differences := differences_from_paper(info.manifest):
            notice(f"{name} is not one of the paper's networks, so it has no row there: {'; '.join(differences)}")
    if images != PAPER_IMAGES:
        notice(
            f"the paper's figures are for the {PAPER_IMAGES:,} images of ILSVRC-2012's validation set; "
            f"this test has {images:,} images"
        )
