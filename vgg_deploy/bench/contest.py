"""Engines against each other in one run: in turn, so that a drift of the machine meets all alike, each beside the machine's peak, and
held against a reference for what it answers. `vgg_deploy.bench.race` runs them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vgg_deploy.bench.peak import Peak, PeakProbe, arithmetic
from vgg_deploy.bench.timing import Latency, Ratio, interleaved
from vgg_deploy.errors import UsageError
from vgg_deploy.evaluation.parity import THRESHOLDS, Parity, Thresholds, compare
from vgg_deploy.inference.engine import Engine, EngineInfo
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.precision import FLOAT16, FLOAT32, INT8
from vgg_deploy.network.tensors import Floats

LEAST_REPETITIONS, MOST_REPETITIONS = 3, 1000
# A turn of a quick engine has several calls, and begins with one that does not count: ONNX Runtime's threads go on spinning for
# a moment after its call, and the caches hold the weights of whoever was before.
TURN_S, SETTLING_S, MOST_CALLS = 0.1, 0.2, 20
_BY_LOOSENESS = (FLOAT32, FLOAT16, INT8)


@dataclass(frozen=True, slots=True)
class Contestant:
    """An engine, and what it is called."""

    name: str
    engine: Engine


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure: `repetitions`, or as many as take about `seconds`, all contestants together; at least three."""

    repetitions: int | None = None
    seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.repetitions is not None and self.repetitions < 1:
            raise UsageError(f"repetitions is {self.repetitions}; expected 1 or more")
        if not 0 < self.seconds < float("inf"):
            raise UsageError(f"seconds is {self.seconds:g}; expected more than 0")

    def count(self, one_s: float) -> int:
        """Repetitions, where one takes `one_s` seconds."""
        if self.repetitions is not None:
            return self.repetitions
        return max(LEAST_REPETITIONS, min(MOST_REPETITIONS, round(self.seconds / max(one_s, 1e-9))))


@dataclass(frozen=True, slots=True)
class Result:
    """What one contestant did of one work.

    Attributes:
        contestant: its name.
        work: a shape of batches, or a protocol over images, in words.
        info: of its engine.
        first_run_s: of its first call in this work, which is not among the samples.
        latency: samples: calls, with as many side by side as the engine takes; or passes over all images.
        turns: seconds a picture of each repetition, in the order of all contestants' repetitions.
        ratio: to the first contestant; above 1: faster.
        gflop: of the work of one sample; None where the network is not known.
        peak: of the machine in this engine's arithmetic, measured in the same repetitions; None where it is not known.
        parity: against the reference, or the first contestant.
        failures: what does not hold of the thresholds, or failed, in words.
    """

    contestant: str
    work: str
    info: EngineInfo
    first_run_s: float
    latency: Latency
    turns: tuple[float, ...]
    ratio: Ratio
    gflop: float | None
    peak: Peak | None
    parity: Parity
    failures: tuple[str, ...]

    @property
    def gflops_per_s(self) -> float | None:
        return None if self.gflop is None else self.latency.gflops_per_s(self.gflop)

    @property
    def share_of_peak(self) -> float | None:
        rate = self.gflops_per_s
        return None if rate is None or self.peak is None else rate / self.peak.gflops_per_s


def thresholds_between(reference: EngineInfo, candidate: EngineInfo) -> Thresholds:
    """What must hold between two engines: the row of `parity.THRESHOLDS` of the lower precision of the two."""
    return THRESHOLDS[max(reference.lowest, candidate.lowest, key=_BY_LOOSENESS.index)]


@dataclass
class Turn:
    """A contestant's part of a repetition, in `interleaved`: several calls, whose times are kept."""

    call: Callable[[int], float]
    once_s: float
    seconds: list[float] = field(default_factory=list)
    played: int = 0

    @property
    def calls(self) -> int:
        return max(1, min(MOST_CALLS, int(TURN_S / max(self.once_s, 1e-9))))

    @property
    def settles(self) -> bool:
        return self.once_s < SETTLING_S

    @property
    def length_s(self) -> float:
        return (self.calls + self.settles) * self.once_s

    def __call__(self) -> float:
        if self.settles:
            self.call(self.played)
        times = [self.call(self.played) for _ in range(self.calls)]
        self.played += 1
        self.seconds += times
        return statistics.median(times)


def in_turn(
    turns: Sequence[Turn], effort: Effort, probes: Mapping[str, PeakProbe], progress: Callable[[], None]
) -> tuple[list[list[float]], dict[str, Peak]]:
    """Seconds of a call in each repetition, of each turn, and the peaks that were reached between them."""
    probed = [Turn(_ignoring(probe.seconds), probe.seconds()) for probe in probes.values()]
    repetitions = effort.count(sum(turn.length_s for turn in (*turns, *probed)))

    def moving(turn: Turn) -> Callable[[], float]:
        def play() -> float:
            seconds = turn()
            progress()
            return seconds

        return play

    measured = interleaved(repetitions, *(moving(turn) for turn in turns), *probed)
    peaks = {
        precision: probe.peak(turn.seconds) for (precision, probe), turn in zip(probes.items(), probed, strict=True)
    }
    return measured[: len(turns)], peaks


def result_of(
    one: Contestant,
    work: str,
    first_run_s: float,
    latency: Latency,
    turns: tuple[Sequence[float], Sequence[float]],
    gflop: float | None,
    peaks: Mapping[str, Peak],
    answers: tuple[Floats, Floats],
    against: EngineInfo,
    failed: tuple[str, ...] = (),
) -> Result:
    """A contestant's result.

    Args:
        turns: seconds a picture of each repetition, of the first contestant and of this one.
        answers: posteriors that are right, and its own, float32 [pictures, classes].
        against: of the engine that gave the right ones.
        failed: what failed otherwise, in words.
    """
    info = one.engine.info
    classes: tuple[ClassName, ...] = info.manifest.classes
    parity = compare(*answers, [str(index) for index in range(1, len(answers[0]) + 1)], classes)
    failures = (*failed, *parity.failures(thresholds_between(against, info)))
    peak = None if info.plan is not None else peaks.get(arithmetic(info))  # plans run elsewhere than what was probed
    return Result(
        one.name, work, info, first_run_s, latency, tuple(turns[1]), Ratio.of(*turns), gflop, peak, parity, failures
    )


def _ignoring(seconds: Callable[[], float]) -> Callable[[int], float]:
    return lambda _repetition: seconds()
