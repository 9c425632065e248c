"""vgg-deploy probe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from vgg_deploy.artifacts.kinds import CHECKPOINT_ENDINGS
from vgg_deploy.cli.found_images import found_images
from vgg_deploy.cli.outputs import STDOUT, check_outputs, output_file, write_text
from vgg_deploy.cli.parameters import labels_files
from vgg_deploy.cli.probe_report import ProbeReport
from vgg_deploy.cli.split_folders import refuse_training_images
from vgg_deploy.cli.tables import notice, progress
from vgg_deploy.cli.weights import (
    describes_itself,
    read_weights,
    require_torch,
    weight_options,
)
from vgg_deploy.cores import usable_cores
from vgg_deploy.errors import UsageError, counted
from vgg_deploy.network.manifest import NORMALIZATIONS, PAPER_NORMALIZATION, Manifest
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from train.network.checkpoint import Checkpoint
    from train.network.ranking import Ranking
    from train.network.reading import Reading
    from vgg_deploy.evaluation.error_rates import LabelledImages


@click.command("probe")
@click.option(
    "--weights",
    required=True,
    type=click.Path(path_type=Path),
    metavar="CKPT",
    help=f"Checkpoint ({CHECKPOINT_ENDINGS}).",
)
@click.option(
    "--images",
    required=True,
    multiple=True,
    metavar="DIR",
    help="Labelled images: DIR/CLASS/*, or a glob pattern of images in folders that name the class. Can be repeated.",
)
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    metavar="N",
    help="Measure on at most N images, a seeded sample, balanced by class.",
)
@click.option("--json", "json_path", metavar="FILE|-", help="Write the report as JSON.")
@weight_options
def command(weights: Path, images: tuple[str, ...], limit: int, json_path: str | None, facts: WeightFacts) -> None:
    """Find out how a foreign checkpoint takes its pixels, on labelled images.

    Ranks the normalizations that are in use, RGB and BGR, and your own --mean and --std, by cross-entropy. --channels
    and --arch leave out the readings that contradict them. If fc6 reads one position, "pooled" readings take
    the average of pool5 over a crop of 224 before it.

    Recommends a reading, and prints the command that exports it, only if all others are clearly worse. Otherwise the
    exit code is 1.
    """
    require_torch("probing a checkpoint")
    from train.network.reading import readings_of

    refuse_training_images(images)
    paths = found_images(images)
    check_outputs({"--json": output_file(json_path)}, (weights, *labels_files(), *paths))
    checkpoint = _read(weights, facts)
    everything, names = _labelled(paths, checkpoint.manifest)
    if limit < len(paths):
        notice(f"measuring on {limit} of {len(paths)} images, a seeded sample (--limit)")
    ranking = _ranking(checkpoint, readings_of(checkpoint, facts), everything.sample(limit))
    report = ProbeReport(weights, checkpoint, facts, ranking, len(paths), names)
    if json_path is not None:
        write_text(json_path, json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n")
    if json_path != STDOUT:
        report.print()
    if report.export is None:
        raise SystemExit(1)


def _read(weights: Path, facts: WeightFacts) -> Checkpoint:
    """The checkpoint. If it does not describe itself, its normalization is that of any reading.

    Raises:
        UsageError: it has a single class.
        VGGDeployError: see `train.network.checkpoint.read`.
    """
    if not describes_itself(weights):
        if facts.normalization in NORMALIZATIONS.values():
            notice("--normalization names one of the readings; all of them are ranked")
        facts = replace(facts, normalization=facts.normalization or PAPER_NORMALIZATION)
    checkpoint = read_weights(weights, facts)
    for text in checkpoint.notices:
        if "classes are numbered" not in text:  # the folders of the images may name them: see `_labelled`
            notice(text)
    if checkpoint.describes_itself:
        notice(f"{weights} states how it takes its pixels, so only that reading is measured")
    if len(checkpoint.manifest.classes) < 2:
        raise UsageError(f"{weights} has one class, so every answer is right; probe needs at least two classes")
    return checkpoint


def _labelled(paths: Sequence[Path], manifest: Manifest) -> tuple[LabelledImages, tuple[str, ...]]:
    """The images with the classes that their folders name, and the names of the classes.

    The folders of a network without class names are taken in sorted order, as torchvision's ImageFolder does.

    Raises:
        UsageError: a folder is not a class, there are more or fewer folders than classes without names, or the folders
            are numbers that are sorted differently as text.
    """
    import numpy as np

    from vgg_deploy.evaluation.error_rates import LabelledImages, folder_name, label_by_folder

    classes = manifest.classes
    if not manifest.unnamed:
        return label_by_folder(paths, manifest), tuple(name.label for name in classes)
    folders = [folder_name(path) for path in paths]
    names = sorted(set(folders))
    if len(names) != len(classes):
        raise UsageError(
            f"the checkpoint has {len(classes)} classes without names, and the images are in "
            f"{counted(len(names), 'folder')}: {_few(names)}. "
            "Give --labels FILE, with one class name per line in the order of the outputs"
        )
    by_number = sorted(names, key=int) if all(name.isdecimal() for name in names) else names
    if by_number != names:
        index = next(index for index, name in enumerate(names) if name != by_number[index])
        raise UsageError(
            f"the checkpoint's {len(classes)} classes have no names, and the folders are numbers: class {index} may be "
            f"the folder {by_number[index]}, or {names[index]} if they were sorted as text, as torchvision's "
            "ImageFolder does. Give --labels FILE with the folders' names in the order of the outputs"
        )
    notice(f"classes are the {len(names)} folders in sorted order: {_few(names)} (--labels FILE gives another order)")
    return LabelledImages(tuple(paths), np.array([names.index(name) for name in folders], np.int64)), tuple(names)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _ranking(checkpoint: Checkpoint, readings: Sequence[Reading], images: LabelledImages) -> Ranking:
    import torch

    from train.network.probe import probe

    torch.set_num_threads(min(torch.get_num_threads(), usable_cores()))
    with progress("probing", len(readings) * len(images.paths), lines=True) as advance:
        return probe(checkpoint, readings, images, refused=_say_skipped, progress=advance)


def _say_skipped(path: Path, reason: str) -> None:
    notice(f"skipped {path}: {reason}")
