"""Contests: contestants take turns, so that drift of the machine affects all equally, and their answers are
compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from vgg_deploy.bench.effort import Effort
from vgg_deploy.bench.peak import Peak
from vgg_deploy.bench.timing import Ratio
from vgg_deploy.bench.turn_length import SETTLING_S
from vgg_deploy.bench.turns import Turn
from vgg_deploy.errors import reason_of
from vgg_deploy.evaluation.parity import Parity, compare, furthest
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.tensors import Floats

Task = TypeVar("Task")  # the input of a turn: an `ImageBatch`, or image files


@dataclass(frozen=True, slots=True)
class Contestant(Generic[Task]):
    """One contestant.

    Attributes:
        name: in reports.
        play: takes a turn. If its second argument is true, it runs the task only once.
        group: contestants of a group take consecutive turns, in reverse order every other time. None: it has its own
            group.
        every: it takes part in one of this many repetitions.
    """

    name: str
    play: Callable[[Task, bool], Turn]
    group: str | None = None
    every: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms of a contest.

    Attributes:
        effort: how long to measure.
        probes: measure the machine's peak, by precision. Each runs once per repetition, before the contestants.
        tolerant: whether a contestant whose first turn fails drops out with a reason. The first contestant never drops
            out, because the others are compared with it.
        progress: called after each contestant's first turns, and after each turn.
    """

    effort: Effort
    probes: Mapping[str, Callable[[], Peak]] = field(default_factory=dict)
    tolerant: bool = False
    progress: Callable[[], None] = lambda: None


@dataclass(slots=True)
class ContestRecord(Generic[Task]):
    """The measurements of one contestant.

    Attributes:
        first: its first turn for each task, which is not among the samples.
        turns: its other turns, by repetition.
        answers: every answer it gave, first turns included, by task: posteriors float32 [images, classes].
        reason: why it dropped out; empty if it did not.
    """

    contestant: Contestant[Task]
    first: list[Turn] = field(default_factory=list)
    turns: dict[int, Turn] = field(default_factory=dict)
    answers: dict[int, list[Floats]] = field(default_factory=dict)
    reason: str = ""

    @property
    def name(self) -> str:
        return self.contestant.name

    @property
    def image_s(self) -> list[float]:
        """Seconds per image in each of its repetitions."""
        return [turn.image_s for turn in self.turns.values()]

    @property
    def failures(self) -> tuple[str, ...]:
        """Images without an answer, each once."""
        return tuple(dict.fromkeys(text for turn in (*self.first, *self.turns.values()) for text in turn.failures))

    def ratio_to(self, other: ContestRecord[Task]) -> Ratio:
        """Its speed relative to `other`, in the repetitions in which both took part."""
        common = sorted(self.turns.keys() & other.turns.keys())
        return Ratio.of([other.turns[n].image_s for n in common], [self.turns[n].image_s for n in common])

    def parity(self, expected: Sequence[Floats], classes: Sequence[ClassName]) -> Parity:
        """The difference of its answers from the expected ones. For each task, its worst answer counts.

        Args:
            expected: by task, float32 [images, classes]. Further rows of an answer are not compared.
        """
        rows = [
            furthest(posteriors, [answer[: len(posteriors)] for answer in self.answers[task]])
            for task, posteriors in enumerate(expected)
            if len(posteriors)
        ]
        reference, worst = np.concatenate(expected), np.concatenate(rows)  # [all images, classes]
        return compare(reference, worst, [str(number) for number in range(1, len(reference) + 1)], classes)


class Contest(Generic[Task]):
    """Contestants that run the same tasks in turn.

    Args:
        contestants: at least one; the others are compared with the first.
        timed: tasks that are timed. In one repetition each contestant has a turn on the same task; the next repetition
            uses the next task.
        checked: further tasks, which are only compared, not timed.

    Attributes:
        records: one per contestant, in order.
        peaks: the machine's peak in each repetition, by precision.
    """

    def __init__(
        self,
        contestants: Sequence[Contestant[Task]],
        timed: Sequence[Task],
        terms: Terms,
        checked: Sequence[Task] = (),
    ) -> None:
        self._timed, self._checked, self._terms = timed, checked, terms
        self._once_s: dict[str, float] = {}
        self.records = [ContestRecord(contestant) for contestant in contestants]
        self.peaks: dict[str, list[Peak]] = {precision: [] for precision in terms.probes}

    @property
    def running(self) -> list[ContestRecord[Task]]:
        """The records of contestants that have not dropped out."""
        return [record for record in self.records if not record.reason]

    def __getitem__(self, name: str) -> ContestRecord[Task]:
        return next(record for record in self.records if record.name == name)

    def hold(self) -> None:
        """Runs the contest: first turns, then repetitions."""
        self.first_turns()
        self.take_turns()

    def first_turns(self) -> None:
        """Each contestant runs every task once. This also triggers a runtime's compilation for each shape."""
        for record in self.records:
            try:
                for number, task in enumerate((*self._timed, *self._checked)):
                    began = time.perf_counter()
                    record.first.append(record.contestant.play(task, True))
                    self._once_s[record.name] = time.perf_counter() - began
                    record.answers[number] = list(record.first[-1].answers)
            except Exception as error:
                if not self._terms.tolerant or record is self.records[0]:
                    raise
                record.reason = short_reason(error)
            self._terms.progress()

    def take_turns(self) -> None:
        """Runs the timed repetitions."""
        effort = self._terms.effort
        for repetition in range(effort.count(0.0 if effort.repetitions else self._repetition_s())):
            number = repetition % len(self._timed)
            for precision, probe in self._terms.probes.items():
                self.peaks[precision].append(probe())
            for record in self._order(repetition):
                turn = record.contestant.play(self._timed[number], False)
                record.turns[repetition] = turn
                record.answers[number] += turn.answers
                self._terms.progress()

    def _order(self, repetition: int) -> Iterable[ContestRecord[Task]]:
        groups: dict[str, list[ContestRecord[Task]]] = {}
        for record in self.running:
            if repetition % record.contestant.every == 0:
                groups.setdefault(record.contestant.group or record.name, []).append(record)
        for group in groups.values():
            turn = repetition // group[0].contestant.every
            yield from reversed(group) if turn % 2 else group

    def _repetition_s(self) -> float:
        """Estimates how long a repetition will take. A quick contestant runs the task several times in a turn."""
        began = time.perf_counter()
        for probe in self._terms.probes.values():
            probe()
        for record in self.running:
            if self._once_s[record.name] < SETTLING_S:
                record.contestant.play(self._timed[0], False)
        slow_s = sum(seconds for seconds in self._once_s.values() if seconds >= SETTLING_S)
        return time.perf_counter() - began + slow_s


def short_reason(error: Exception) -> str:
    """The first line of an error, short enough for a cell of a table."""
    return reason_of(error)[:160].replace("|", "/")
