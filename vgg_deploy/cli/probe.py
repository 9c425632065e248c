"""vgg-deploy probe."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.artifacts.kinds import CHECKPOINT_ENDINGS
from vgg_deploy.cli.found_images import found_images
from vgg_deploy.cli.outputs import STDOUT, check_outputs, output_file, write_text
from vgg_deploy.cli.parameters import labels_files
from vgg_deploy.cli.split_folders import refuse_training_images
from vgg_deploy.cli.tables import notice, print_table, progress
from vgg_deploy.cli.weights import (
    describes_itself,
    read_weights,
    require_torch,
    weight_options,
)
from vgg_deploy.cores import usable_cores
from vgg_deploy.errors import UsageError
from vgg_deploy.network.classes import ClassName, numbered_classes
from vgg_deploy.network.manifest import NORMALIZATIONS, PAPER_NORMALIZATION
from vgg_deploy.network.normalization_options import normalization_options
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from train.network.checkpoint import Checkpoint
    from train.network.ranking import MeasuredReading, Ranking
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
    and --arch leave out the readings that contradict them.

    Recommends a reading, and prints the command that exports it, only if all others are clearly worse. Otherwise the
    exit code is 1.
    """
    require_torch("probing a checkpoint")
    from train.network.reading import readings_of

    refuse_training_images(images)
    paths = found_images(images)
    check_outputs({"--json": output_file(json_path)}, (weights, *labels_files(), *paths))
    checkpoint = _read(weights, facts)
    everything = _labelled(paths, checkpoint.manifest.classes)
    if limit < len(paths):
        notice(f"measuring on {limit} of {len(paths)} images, a seeded sample (--limit)")
    ranking = _ranking(checkpoint, readings_of(checkpoint, facts), everything.sample(limit))
    report = _Report(weights, checkpoint, facts, ranking, len(paths))
    if json_path is not None:
        write_text(json_path, json.dumps(report.as_json(), indent=2, allow_nan=False) + "\n")
    if json_path != STDOUT:
        report.print()
    if not ranking.clear:
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
        notice(text)
    if checkpoint.describes_itself:
        notice(f"{weights} states how it takes its pixels, so only that reading is measured")
    if len(checkpoint.manifest.classes) < 2:
        raise UsageError(f"{weights} has one class, so every answer is right; probe needs at least two classes")
    return checkpoint


def _labelled(paths: Sequence[Path], classes: Sequence[ClassName]) -> LabelledImages:
    """The images, with the classes that their folders name.

    The folders of a network without class names are taken in sorted order, as torchvision's ImageFolder does.

    Raises:
        UsageError: a folder is not a class, or there are more or fewer folders than classes without names.
    """
    import numpy as np

    from vgg_deploy.evaluation.error_rates import LabelledImages, folder_name, label_by_folder

    unnamed = tuple(classes) == numbered_classes(len(classes))
    folders = [folder_name(path) for path in paths]
    names = sorted(set(folders))
    if not unnamed or set(names) <= {name.id for name in classes}:
        return label_by_folder(paths, classes)
    if len(names) != len(classes):
        raise UsageError(
            f"the checkpoint has {len(classes)} classes without names, and the images are in {len(names)} folders: "
            f"{_few(names)}. Give --labels FILE, with one class name per line in the order of the outputs"
        )
    notice(f"classes are the {len(names)} folders in sorted order: {_few(names)} (--labels FILE gives another order)")
    return LabelledImages(tuple(paths), np.array([names.index(name) for name in folders], np.int64))


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


@dataclass(frozen=True, slots=True)
class _Report:
    """What probe found.

    Attributes:
        weights: the checkpoint's file.
        checkpoint: the same, read.
        facts: what the user stated about it.
        ranking: the measured readings.
        available: how many images there are, measured or not.
    """

    weights: Path
    checkpoint: Checkpoint
    facts: WeightFacts
    ranking: Ranking
    available: int

    def print(self) -> None:
        """Prints the table, the verdict, and the command that exports the recommended reading."""
        ranking = self.ranking
        columns = ("reading", "images", "cross-entropy", "to the best", "top-1", "to the best")
        print_table(columns, [self._cells(row) for row in ranking.measured])
        click.echo(self.verdict)
        if ranking.clear:
            click.echo(shlex.join(self.export))

    def _cells(self, row: MeasuredReading) -> tuple[str, ...]:
        cells = (self.name(row.reading), str(row.images), _nats(row.cross_entropy))
        if row is self.ranking.best:
            return (*cells, "", f"{row.top1:.1%}", "")
        loss, top1 = row.over(self.ranking.best), row.top1_over(self.ranking.best)
        return (
            *cells,
            f"{_nats(loss.mean, '+')} ± {_nats(loss.standard_error)}",
            f"{row.top1:.1%}",
            f"{100 * top1.mean:+.1f} ± {100 * top1.standard_error:.1f}",
        )

    def name(self, reading: Reading) -> str:
        """A reading in words, such as `torchvision bgr`."""
        configurations = {row.reading.configuration for row in self.ranking.measured}
        configuration = [reading.configuration] if len(configurations) > 1 else []
        return " ".join([reading.normalization_name, reading.channels, *configuration])

    @property
    def verdict(self) -> str:
        """What the figures show; if they are not clear, what would help."""
        from train.network.ranking import CLEAR, FEWEST_IMAGES

        ranking, best = self.ranking, self.ranking.best
        name, images = self.name(best.reading), f"{best.images} image{'s' if best.images > 1 else ''}"
        if best.images < FEWEST_IMAGES:
            return f"not clear: {images} show too little; give at least {FEWEST_IMAGES}, better 100"
        if not ranking.better_than_chance:
            return (
                f"not clear: no reading is clearly better than chance ({name}: top-1 {best.top1:.1%}; always the same "
                f"class: {ranking.chance:.1%}). Check the order of the classes (--labels), or add your own --mean and "
                "--std"
            )
        if ranking.rivals:
            rivals = ", ".join(self.name(row.reading) for row in ranking.rivals)
            return f"not clear: {name} is first, but these are not clearly worse: {rivals}. {self._what_helps}"
        if len(ranking.measured) == 1:
            return f"clear: {name} is better than chance (top-1 {best.top1:.1%} on {images})"
        return (
            f"clear: {name} (top-1 {best.top1:.1%}); all others are worse by over {CLEAR:g} standard errors. "
            "If your own program is more accurate, none of them is right: add its --mean and --std"
        )

    @property
    def _what_helps(self) -> str:
        ranking, best = self.ranking, self.ranking.best
        if any(row.only_less_calibrated_than(best) for row in ranking.rivals):
            return (
                "A rival is better once its confidence is set right, so the cross-entropy may mislead: "
                "compare with your own program (vgg-deploy verify --expected FILE)"
            )
        limit = min(4 * best.images, self.available)
        helps = [f"--limit {limit}" if limit > best.images else "more images"]
        if {row.reading.channels for row in ranking.rivals} - {best.reading.channels}:
            helps.append("images with strong colours")
        return f"What would help: {' and '.join(helps)}"

    @property
    def export(self) -> list[str]:
        """The command that exports the best reading."""
        words = ["vgg-deploy", "export", "--weights", str(self.weights)]
        reading = self.ranking.best.reading
        if not self.checkpoint.describes_itself:
            words += [*normalization_options(reading.normalization), "--channels", reading.channels]
            if reading.configuration == "A-LRN":
                words += ["--arch", reading.configuration]
        for path in labels_files():
            words += ["--labels", str(path)]
        if self.facts.train_scale is not None:
            scale = self.facts.train_scale
            words += ["--train-scale", str(scale.minimum) if scale.fixed else f"{scale.minimum},{scale.maximum}"]
        key = () if self.facts.key is None else ("--key", self.facts.key)
        return [*words, *key, "--dynamic"]

    def as_json(self) -> dict[str, Any]:
        """The figures. Differences are paired, to the first reading; cross-entropy is in nats, top-1 in 0..1."""
        ranking = self.ranking
        return {
            "clear": ranking.clear,
            "verdict": self.verdict,
            "export": self.export if ranking.clear else None,
            "images": ranking.best.images,
            "chance": ranking.chance,
            "readings": [self._reading_as_json(row) for row in ranking.measured],
        }

    def _reading_as_json(self, row: MeasuredReading) -> dict[str, Any]:
        reading, best = row.reading, self.ranking.best
        loss, top1 = row.over(best), row.top1_over(best)
        return {
            "normalization": reading.normalization_name,
            "mean": list(reading.normalization.mean),
            "std": list(reading.normalization.std),
            "channels": reading.channels,
            "configuration": reading.configuration,
            "images": row.images,
            "cross_entropy": row.cross_entropy,
            "cross_entropy_above_best": loss.mean,
            "cross_entropy_standard_error": _number(loss.standard_error),
            "top1": row.top1,
            "top1_above_best": top1.mean,
            "top1_standard_error": _number(top1.standard_error),
            "clearly_worse": row is not best and row not in self.ranking.rivals,
        }


def _nats(value: float, sign: str = "") -> str:
    """A cross-entropy. Those of wrong readings can be thousands."""
    return f"{value:{sign}.3f}" if abs(value) < 100 else f"{value:{sign}.0f}"


def _number(value: float) -> float | None:
    """JSON has no NaN, the standard error of a single image."""
    return value if math.isfinite(value) else None
