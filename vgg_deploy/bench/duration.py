"""How long a contest will take, from how long each contestant took for one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vgg_deploy.bench.effort import Effort
from vgg_deploy.bench.turn_length import MOST_SAMPLES, SETTLING_S, TURN_S


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a contestant is.

    Attributes:
        work: what was measured, in any unit, such as multiply-accumulates.
        first_s: seconds of its first call on a shape.
        call_s: seconds of a later call.
    """

    work: float
    first_s: float
    call_s: float

    def seconds(self, work: float) -> float:
        """Of a call that does `work`."""
        return self.call_s * work / self.work

    def first_seconds(self, work: float) -> float:
        """Of the first call of a shape, which may compile for it."""
        return self.seconds(work) + max(0.0, self.first_s - self.call_s)


def batches_s(paces: Sequence[Pace], work: float, batches: int, effort: Effort, *, probes_s: float = 0.0) -> float:
    """Seconds of a contest on some batches of one shape; see `vgg_deploy.bench.contest.Contest`.

    Args:
        work: of one batch.
        batches: their number. Each contestant runs every batch once before the timed repetitions.
        probes_s: seconds of the probes of the machine's peak in one repetition.
    """
    first = sum(pace.first_seconds(work) + (batches - 1) * pace.seconds(work) for pace in paces)
    repetition = probes_s + sum(_turn_s(pace.seconds(work)) for pace in paces)
    return first + effort.count(repetition) * repetition


def passes_s(paces: Sequence[Pace], work: float, effort: Effort, *, decoding_s: float, probes_s: float = 0.0) -> float:
    """Seconds of a contest of passes over image files.

    Args:
        work: of one pass.
        decoding_s: seconds in which the images are decoded and rescaled.
        probes_s: see `batches_s`.
    """
    passes = sum(pace.seconds(work) + decoding_s for pace in paces)
    return passes + effort.count(probes_s + passes) * (probes_s + passes)


def _turn_s(call_s: float) -> float:
    """Seconds of a turn: calls until `TURN_S` has passed, and one before that does not count if it is short."""
    calls = min(MOST_SAMPLES, max(1, -(-TURN_S // max(call_s, 1e-6))))
    return call_s * (calls + (call_s < SETTLING_S))


def in_words(seconds: float) -> str:
    """Two leading digits at most: "9 s", "40 s", "3 minutes", "2 hours"."""
    if seconds < 10:
        return f"{max(1, round(seconds))} s"
    if seconds < 100:
        return f"{round(seconds, -1):.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} minutes" if minutes < 100 else f"{minutes / 60:.0f} hours"
