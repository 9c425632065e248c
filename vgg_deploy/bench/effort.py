"""How long a contest measures."""

from __future__ import annotations

from dataclasses import dataclass

from vgg_deploy.errors import UsageError

LEAST_REPETITIONS, MOST_REPETITIONS = 3, 1000


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: `repetitions`, or as many as fit into about `seconds` for all contestants, at least
    three.
    """

    repetitions: int | None = None
    seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.repetitions is not None and self.repetitions < 1:
            raise UsageError(f"repetitions is {self.repetitions}; expected 1 or more")
        if not 0 < self.seconds < float("inf"):
            raise UsageError(f"seconds is {self.seconds:g}; expected a finite number above 0")

    def count(self, repetition_s: float) -> int:
        """The number of repetitions, if one takes `repetition_s` seconds."""
        if self.repetitions is not None:
            return self.repetitions
        return max(LEAST_REPETITIONS, min(MOST_REPETITIONS, round(self.seconds / max(repetition_s, 1e-9))))
