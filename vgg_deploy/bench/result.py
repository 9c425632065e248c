"""Contests of engines in this process: speed beside the machine's peak, and agreement within thresholds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.bench.batches import ImageBatch
from vgg_deploy.bench.contest import Contest, Contestant, ContestRecord, Terms
from vgg_deploy.bench.peak import Peak, arithmetic
from vgg_deploy.bench.timing import Latency, Ratio
from vgg_deploy.bench.turns import Calls, Forward, Turn, timed_pass
from vgg_deploy.evaluation.parity import THRESHOLDS, Parity, Thresholds, looser
from vgg_deploy.inference.engine import Engine, EngineInfo
from vgg_deploy.network.tensors import Floats
from vgg_deploy.views.protocols import Protocol


@dataclass(frozen=True, slots=True)
class ContestResult:
    """One contestant's result on one workload.

    Attributes:
        contestant: its name.
        workload: a batch shape, or a protocol over images, as text.
        info: describes its engine.
        first_run_s: its first sample on this workload, which is not among the samples of `latency`.
        latency: its samples. A sample is as many concurrent calls as the engine runs in parallel, or a pass over all
            images.
        turns: seconds per image in each repetition.
        ratio: speed relative to the first contestant; above 1 means faster.
        gflop: work of one sample; None if the network is unknown.
        peak: the machine's peak in this engine's arithmetic, measured in the same repetitions; None if unknown.
        parity: against the reference, or the first contestant.
        failures: exceeded thresholds and images without posteriors, as text.
    """

    contestant: str
    workload: str
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
    """The thresholds for two engines: the row of `parity.THRESHOLDS` for the lower precision of the two."""
    return THRESHOLDS[looser(reference.lowest, candidate.lowest)]


def time_batches(
    engines: Mapping[str, Engine],
    shape: BatchShape,
    batches: Sequence[ImageBatch],
    terms: Terms,
    reference: Engine | None = None,
) -> list[ContestResult]:
    """Times calls on batches of one shape.

    An engine that runs several calls in parallel gets that many at once; the worst of their answers is compared.

    Args:
        engines: by the contestant's name.
        reference: gives the expected answers; None: the first engine.
    """
    with ExitStack() as stack:
        contestants = [
            Contestant(
                name,
                stack.enter_context(Calls(forward_of(engine), at_once=engine.info.concurrency, settles=True)),
            )
            for name, engine in engines.items()
        ]
        contest = Contest(contestants, batches, terms)
        contest.first_turns()
        expected = None
        if reference is not None:
            expected = [reference.run(batch.images).probabilities[: batch.distinct] for batch in batches]
        contest.take_turns()

    def gflop(info: EngineInfo, turn: Turn) -> float | None:
        spec = info.manifest.spec
        return None if spec is None else turn.images / shape.images * shape.gflop(spec)

    return _Workload(str(shape), engines, gflop, reference).results(contest, expected)


def time_protocol(
    engines: Mapping[str, Engine],
    images: Mapping[Path, tuple[int, int]],
    protocol: Protocol,
    terms: Terms,
    reference: Engine | None = None,
) -> list[ContestResult]:
    """Times passes of `predict` over image files, decoding included. The answers of every pass are compared.

    Args:
        engines: by the contestant's name.
        images: height and width of each image file.
        reference: gives the expected answers; None: the first engine.
    """
    paths = list(images)

    def passes(engine: Engine) -> Callable[[Sequence[Path], bool], Turn]:
        return lambda paths, _once: timed_pass(engine, paths, protocol)

    contest = Contest([Contestant(name, passes(engine)) for name, engine in engines.items()], [paths], terms)
    contest.first_turns()
    expected = None if reference is None else timed_pass(reference, paths, protocol).answers
    contest.take_turns()

    def gflop(info: EngineInfo, _turn: Turn) -> float | None:
        spec = info.manifest.spec
        if spec is None:
            return None
        return sum(2 * protocol.macs(spec, *size, info.manifest.rescaling) for size in images.values()) / 1e9

    return _Workload(str(protocol), engines, gflop, reference).results(contest, expected)


def forward_of(engine: Engine) -> Forward:
    """A function that returns only an engine's posteriors."""
    return lambda images: engine.run(images).probabilities


@dataclass(frozen=True, slots=True)
class _Workload:
    name: str
    engines: Mapping[str, Engine]
    gflop: Callable[[EngineInfo, Turn], float | None]
    reference: Engine | None

    def results(self, contest: Contest[Any], expected: Sequence[Floats] | None) -> list[ContestResult]:
        first = contest.records[0]
        expected = [turn.answers[0] for turn in first.first] if expected is None else expected
        against = (self.reference or self.engines[first.name]).info
        return [self._result(record, contest, expected, against) for record in contest.records]

    def _result(
        self, record: ContestRecord[Any], contest: Contest[Any], expected: Sequence[Floats], against: EngineInfo
    ) -> ContestResult:
        info = self.engines[record.name].info
        turns = list(record.turns.values())
        parity = record.parity(expected, info.manifest.classes)
        # No probe measured the device that a plan runs on.
        peaks = contest.peaks.get(arithmetic(info), []) if info.plan is None else []
        return ContestResult(
            record.name,
            self.name,
            info,
            record.first[0].seconds[0],
            Latency(turns[0].images, tuple(seconds for turn in turns for seconds in turn.seconds)),
            tuple(record.image_s),
            record.ratio_to(contest.records[0]),
            self.gflop(info, turns[0]),
            Peak.merged(peaks) if peaks else None,
            parity,
            (*record.failures, *parity.failures(thresholds_between(against, info))),
        )
