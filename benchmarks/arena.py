"""Contests on batches: contestants in processes of their own, the machine's peak, and PyTorch as the reference."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import cast

import click

from benchmarks.agreement import ReferenceAnswers, cells
from benchmarks.models import ExportedModels
from benchmarks.ours import peak
from vgg_deploy.bench.batches import ImageBatch
from vgg_deploy.bench.contest import Contest, Terms
from vgg_deploy.bench.effort import Effort
from vgg_deploy.bench.own_process import OwnProcess, UnstartedContestant, start


@dataclass(frozen=True, slots=True)
class Held:
    """The results of a contest.

    Attributes:
        contest: holds the times.
        agreement: the cells for `agreement.COLUMNS` of each contestant that was measured, by name.
        reasons: why the other contestants were not measured, by name.
        precisions: the precisions of the contestants, by name.
    """

    contest: Contest[ImageBatch]
    agreement: dict[str, tuple[str, str]]
    reasons: dict[str, str]
    precisions: dict[str, str]

    def image_ms(self, name: str) -> list[float]:
        """Milliseconds an image, in each repetition."""
        return [1000 * seconds for seconds in self.contest[name].image_s]

    def peaks(self, name: str) -> list[float]:
        """The machine's peak in the contestant's precision, GFLOP/s, in each repetition; empty: not known."""
        return [peak.gflops_per_s for peak in self.contest.peaks.get(self.precisions[name], [])]

    def shares(self, name: str, image_gflop: float) -> list[float]:
        """The share of the peak that the contestant reached, in each repetition; empty: the peak is not known."""
        tops = self.peaks(name)
        return (
            [1000 * image_gflop / ms / top for ms, top in zip(self.image_ms(name), tops, strict=True)] if tops else []
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each contestant that was not measured."""
        return tuple(f"{name} was not measured: {reason}." for name, reason in self.reasons.items())


class Arena:
    """Processes that run until the stack ends: the contestants, the reference, and the probes of the peaks."""

    def __init__(self, stack: ExitStack, models: ExportedModels, contestants: Iterable[UnstartedContestant]) -> None:
        contestants = list(contestants)
        self._classes = models.manifest.classes
        self._precisions = {contestant.name: contestant.precision for contestant in contestants}
        precisions = sorted({contestant.precision for contestant in contestants} - {""})
        probes, _reasons = start(
            stack, [UnstartedContestant(precision, peak, (precision,)) for precision in precisions]
        )
        self._probes = {probe.name: cast(OwnProcess, probe.play) for probe in probes}
        self._reference_answers = stack.enter_context(OwnProcess(ReferenceAnswers, models.checkpoint))
        self._contestants, self._reasons = start(stack, contestants)

    def hold(
        self,
        timed: Sequence[ImageBatch],
        repetitions: int,
        checked: Sequence[ImageBatch] = (),
        without: Collection[str] = (),
    ) -> Held:
        """Times the contestants, except those named in `without`, and compares their answers with the reference."""
        expected = [self._reference_answers(batch) for batch in (*timed, *checked)]
        terms = Terms(effort=Effort(repetitions=repetitions), probes=self._probes, tolerant=True)
        contestants = [contestant for contestant in self._contestants if contestant.name not in without]
        contest = Contest(contestants, timed, terms, checked)
        contest.hold()
        reasons = self._reasons | {record.name: record.reason for record in contest.records if record.reason}
        agreement = {record.name: cells(record.parity(expected, self._classes)) for record in contest.running}
        images = timed[0].images
        click.echo(f"{'x'.join(map(str, images.shape[:3]))}: done", err=True)
        return Held(contest, agreement, reasons, self._precisions)
