"""The trained A that B to E start from (section 3.1), chosen among the finished runs."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from train.data.folder import DataFolder
from train.network.model import GAUSSIAN, GLOROT
from train.runs.chance import beats_chance
from train.runs.finished import FinishedRun, finished_runs
from vgg_deploy.network.spec import NetworkSpec

SHOWN = 3  # names of passed-over runs in a message


@dataclass(frozen=True, slots=True)
class TrainedA:
    """The choice of an A.

    Attributes:
        run: the best of the usable runs. None: there is none.
        usable: the number of usable runs.
        passed_over: finished runs of an A of these sizes that are not usable, by reason.
    """

    run: FinishedRun | None
    usable: int
    passed_over: dict[str, list[FinishedRun]]

    @property
    def notices(self) -> list[str]:
        """What was taken and why, and what was not and why: a line each."""
        lines = []
        for reason, runs in self.passed_over.items():
            names = ", ".join(str(run.folder) for run in runs[:SHOWN])
            more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
            lines.append(f"passed over as A: {names}{more}: {reason}")
        if self.run is not None:
            why = "the only A" if self.usable == 1 else f"the best of {self.usable} A's"
            lines.append(
                f"starts from {self.run.checkpoint}: top-1 {self.run.top1:.2%}, {why} trained from random weights on "
                "these images"
            )
        return lines


def trained_a(root: Path, spec: NetworkSpec, data: DataFolder) -> TrainedA:
    """The finished run under `root` of the highest validation top-1 that was trained from random weights on `data`.

    It must beat chance; see `train.runs.chance`. Of equal runs, the newest is taken.

    Args:
        spec: the network to initialise. The A has its width divisor, crop, FC width and number of classes.
    """
    names = ("width_divisor", "crop", "fc_width", "classes")
    sizes = {"configuration": "A", **{name: getattr(spec, name) for name in names}}
    usable: list[FinishedRun] = []
    passed_over: dict[str, list[FinishedRun]] = defaultdict(list)
    for run in finished_runs(root):
        recipe = run.record.get("recipe")
        if not isinstance(recipe, dict) or recipe.get("spec") != sizes:
            continue
        reason = _reason_against(run, recipe.get("initialisation"), data)
        if reason:
            passed_over[reason].append(run)
        else:
            usable.append(run)
    best = max(usable, key=lambda run: run.top1 or 0.0, default=None)  # max keeps the first, which is the newest
    return TrainedA(best, len(usable), dict(passed_over))


def _reason_against(run: FinishedRun, initialisation: object, data: DataFolder) -> str:
    """Why an A of the right sizes is not usable; empty if it is."""
    fingerprint = run.record.get("fingerprint")
    if fingerprint is None:
        return "its run.json does not state its images"
    if fingerprint != data.fingerprint:
        return "trained on other images"
    if initialisation not in (GAUSSIAN, GLOROT):
        return "fine-tuned, not trained from random weights"
    if run.top1 is None:
        return "its run.json states no accuracy"
    if not beats_chance(run.top1, len(data.val), data.val.largest_share):
        return f"top-1 {run.top1:.2%}, no better than guessing"
    return ""
