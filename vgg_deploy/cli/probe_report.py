"""What `vgg-deploy probe` prints: the table of readings, the verdict, and the command that exports the best one."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vgg_deploy.cli.parameters import labels_files
from vgg_deploy.cli.tables import print_table
from vgg_deploy.errors import counted
from vgg_deploy.network.normalization_options import normalization_options
from vgg_deploy.network.weight_facts import WeightFacts

if TYPE_CHECKING:
    from train.network.checkpoint import Checkpoint
    from train.network.ranking import MeasuredReading, Ranking
    from train.network.reading import Reading

FEW = 40  # up to so many images, more of them may make an unclear result clear


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What probe found.

    Attributes:
        weights: the checkpoint's file.
        checkpoint: the same, read.
        facts: what the user stated about it.
        ranking: the measured readings.
        available: how many images there are, measured or not.
        classes: their names, by index.
    """

    weights: Path
    checkpoint: Checkpoint
    facts: WeightFacts
    ranking: Ranking
    available: int
    classes: tuple[str, ...]

    def print(self) -> None:
        """Prints the table, the verdict, and the command that exports the recommended reading."""
        ranking = self.ranking
        columns = ("reading", "images", "cross-entropy", "to the best", "top-1", "to the best")
        print_table(columns, [self._cells(row) for row in ranking.measured])
        click.echo(self.verdict)
        if self.export is not None:
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
        pooled = ["pooled"] if reading.pooled else []
        return " ".join([reading.normalization_name, reading.channels, *configuration, *pooled])

    @property
    def verdict(self) -> str:
        """What the figures show; if they are not clear, what would help."""
        from train.network.ranking import CLEAR, FEWEST_IMAGES
        from train.network.reading import POOLED_CROP

        ranking, best = self.ranking, self.ranking.best
        name, images = self.name(best.reading), counted(best.images, "image")
        if ranking.one_class and best.images > 1:
            label = self.classes[int(best.truth[0])]
            return f"not clear: all {images} are of class {label}: probe needs at least two classes"
        if best.images < FEWEST_IMAGES:
            verb = "shows" if best.images == 1 else "show"
            return f"not clear: {images} {verb} too little; give at least {FEWEST_IMAGES}, better 100"
        if not ranking.better_than_chance:
            more = f". {self._what_helps}" if best.images <= FEW else ""
            return (
                f"not clear: no reading is clearly better than chance ({name}: top-1 {best.top1:.1%}; always the same "
                f"class: {ranking.chance:.1%}). Check the order of the classes (--labels), or add your own --mean and "
                f"--std{more}"
            )
        if ranking.rivals:
            rivals = ", ".join(self.name(row.reading) for row in ranking.rivals)
            return f"not clear: {name} is first, but these are not clearly worse: {rivals}. {self._what_helps}"
        if best.reading.pooled:
            return (
                f"clear: {name} (top-1 {best.top1:.1%}): fc6 takes the average of pool5 over a crop of {POOLED_CROP}. "
                "export would misread this network: it would take a crop of 32. It cannot be exported yet"
            )
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
        helps = [f"more images (--limit {limit})" if limit > best.images else "more images"]
        if {row.reading.channels for row in ranking.rivals} - {best.reading.channels}:
            helps.append("images with strong colours")
        return f"What would help: {' and '.join(helps)}"

    @property
    def export(self) -> list[str] | None:
        """The command that exports the best reading; None if that is not clear, or cannot be exported."""
        if not self.ranking.clear or self.ranking.best.reading.pooled:
            return None
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
            "export": self.export,
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
            "pooled": reading.pooled,
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
