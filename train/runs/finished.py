"""Finished runs: what their run.json states about accuracy, data and age, and which of them is taken.

This module loads no torch, so that commands can look for a checkpoint without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from train.runs.chance import beats_chance
from train.runs.run import BEST, FINISHED, RECORD, record_of
from vgg_deploy.errors import counted

MARGIN = 1.2  # for runs that do not state their number of validation images: times 1 / classes


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """A finished run that has a checkpoint.

    Attributes:
        folder: of the run.
        ended: when it finished, UTC.
        record: the content of its run.json.
    """

    folder: Path
    ended: datetime
    record: Mapping[str, Any]

    @property
    def checkpoint(self) -> Path:
        return self.folder / BEST

    @property
    def configuration(self) -> str | None:
        """The column of Table 1."""
        configuration = self._recipe.get("spec", {}).get("configuration")
        return configuration if isinstance(configuration, str) else None

    @property
    def top1(self) -> float | None:
        """Validation top-1 of the best epoch, 0..1. None: the record does not state it."""
        try:
            return max(float(epoch["val"]["top1"]) for epoch in self.record["history"])
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def data(self) -> str | None:
        """The data folder, as it was given to the training."""
        data = self.record.get("data")
        return data if isinstance(data, str) else None

    @property
    def learned(self) -> bool | None:
        """Whether its accuracy beats chance; see `train.runs.chance`. None: the record does not allow to say.

        Older runs state no number of validation images. Their accuracy has to be a fifth above 1 / classes.
        """
        top1, validation = self.top1, self.record.get("validation")
        if top1 is None:
            return None
        try:
            if validation is not None:
                return beats_chance(top1, int(validation["images"]), float(validation["largest_share"]))
            return top1 > min(MARGIN / len(self.record["classes"]), 0.99)
        except (ValueError, KeyError, TypeError, ZeroDivisionError):
            return None

    @property
    def odds(self) -> str:
        """Its accuracy, beside that of guessing."""
        validation = self.record.get("validation")
        if validation is None:
            return self._accuracy
        images, share = validation["images"], validation["largest_share"]
        return f"{self._accuracy} of {images:,} images, of which {share:.2%} are one class"

    def summary(self, now: datetime | None = None) -> str:
        """Accuracy, data and age, such as "top-1 98.33% on runs/digits-data, 3 days old"."""
        age = _age((now or datetime.now(UTC)) - self.ended)
        return f"{self._accuracy} on {self.data or 'unknown data'}, {age} old"

    @property
    def _accuracy(self) -> str:
        return "top-1 unknown" if self.top1 is None else f"top-1 {self.top1:.2%}"

    @property
    def _recipe(self) -> Mapping[str, Any]:
        recipe = self.record.get("recipe")
        return recipe if isinstance(recipe, Mapping) else {}


def _age(age: timedelta) -> str:
    """The largest unit that fits, such as "3 days"."""
    seconds = max(0, int(age.total_seconds()))
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        count = seconds // length
        if count:
            return counted(count, unit)
    return "less than a minute"


def finished_runs(root: Path) -> list[FinishedRun]:
    """The finished runs under `root` that have a checkpoint, the newest first. Unreadable records do not count."""
    runs = []
    for path in root.glob(f"*/{RECORD}"):
        record = record_of(path)
        if record is None or record.get("status") != FINISHED or not (path.parent / BEST).is_file():
            continue
        try:
            ended = datetime.fromisoformat(record["ended"]).astimezone(UTC)
        except (ValueError, KeyError, TypeError):
            continue
        runs.append(FinishedRun(path.parent, ended, record))
    return sorted(runs, key=lambda run: run.ended, reverse=True)


def newest_finished(root: Path, configuration: str | None = None) -> FinishedRun | None:
    """The run under `root` that finished last. None: no run has finished.

    Args:
        root: the folder of runs.
        configuration: only runs of this column of Table 1. None: any.
    """
    runs = (run for run in finished_runs(root) if configuration in (None, run.configuration))
    return next(runs, None)
