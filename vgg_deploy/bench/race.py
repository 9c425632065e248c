"""Contests of engines: calls on batches of one shape, and whole passes over image files under a test protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vgg_deploy.bench.contest import Contestant, Effort, Result, Turn, in_turn, result_of
from vgg_deploy.bench.peak import PeakProbe
from vgg_deploy.bench.timing import BatchShape, Latency
from vgg_deploy.evaluation.parity import furthest
from vgg_deploy.inference.engine import Engine, EngineInfo
from vgg_deploy.inference.prediction import Failure, predict
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.views.protocols import Protocol


def race(
    contestants: Sequence[Contestant],
    shape: BatchShape,
    batches: Sequence[Images],
    effort: Effort,
    *,
    pictures: int | None = None,
    reference: Engine | None = None,
    probes: Mapping[str, PeakProbe] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Times calls on batches of one shape; all contestants get the same batch in the same repetition.

    Every batch is answered before, as it is then timed: by an engine that takes several calls at once, with as many side by side.
    Of those answers, which may differ, the ones furthest from what is right are compared.

    Args:
        batches: uint8 [n, h, w, 3] each; posteriors over all of them are compared.
        pictures: how many of the batches' images there are, the first ones; those that fill up the last batch are not compared. None: all.
        reference: what is right; None: the first contestant.
        probes: by precision, what measures the machine's peak in it, between the contestants.
        progress: called after each contestant's comparison, and after each repetition's part.
    """
    answered: list[list[Floats]] = []
    first_s, turns = [], []
    with ThreadPoolExecutor(max(one.engine.info.concurrency for one in contestants)) as pool:
        for one in contestants:
            times, rows = [], []
            for batch in [*batches, batches[0]]:
                began = time.perf_counter()
                rows.append(one.engine.run(batch).probabilities)
                times.append(time.perf_counter() - began)
            first_s.append(times[0])
            call = _SideBySide(pool, one.engine, batches)
            found = [np.concatenate(rows[:-1])[:pictures]]
            if call.count > 1:
                found += [lane[:pictures] for lane in call.answers()]
            answered.append(found)
            turns.append(Turn(call, times[-1] if call.count == 1 else call(0)))
            progress()
        right = answered[0][0]
        if reference is not None:
            right = np.concatenate([reference.run(batch).probabilities for batch in batches])[:pictures]
        measured, peaks = in_turn(turns, effort, probes or {}, progress)
    side = [one.engine.info.concurrency for one in contestants]
    per_picture = [[s / (shape.images * n) for s in samples] for samples, n in zip(measured, side, strict=True)]
    results = []
    for index, one in enumerate(contestants):
        spec = one.engine.info.manifest.spec
        results.append(
            result_of(
                one,
                str(shape),
                first_s[index],
                Latency(shape.images * side[index], tuple(turns[index].seconds)),
                (per_picture[0], per_picture[index]),
                None if spec is None else side[index] * shape.gflop(spec),
                peaks,
                (right, furthest(right, answered[index])),
                (contestants[0].engine if reference is None else reference).info,
            )
        )
    return results


class _SideBySide:
    """Seconds of one call, or of as many at once as the engine computes side by side."""

    def __init__(self, pool: ThreadPoolExecutor, engine: Engine, batches: Sequence[Images]) -> None:
        self._pool, self._engine, self._batches = pool, engine, batches
        self.count = engine.info.concurrency

    def __call__(self, repetition: int) -> float:
        batch = self._batches[repetition % len(self._batches)]
        began = time.perf_counter()
        self._run(batch)
        return time.perf_counter() - began

    def answers(self) -> list[Floats]:
        """Posteriors over all batches, of each of the calls that are computed side by side."""
        lanes = zip(*(self._run(batch) for batch in self._batches), strict=True)
        return [np.concatenate(rows) for rows in lanes]

    def _run(self, batch: Images) -> list[Floats]:
        if self.count == 1:
            return [self._engine.run(batch).probabilities]
        return [scores.probabilities for scores in self._pool.map(self._engine.run, [batch] * self.count)]


@dataclass(frozen=True, slots=True)
class _Pass:
    """Over all images: its seconds, posteriors [images, classes] with NaN where there is no answer, and the reasons."""

    seconds: float
    posteriors: Floats
    failed: tuple[str, ...]


def race_protocol(
    contestants: Sequence[Contestant],
    paths: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    protocol: Protocol,
    effort: Effort,
    *,
    reference: Engine | None = None,
    probes: Mapping[str, PeakProbe] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Times passes over images, decode to answer, as `predict` makes them; otherwise as `race`. Every pass's answers count.

    Args:
        sizes: height and width of each image.
    """

    def run(engine: Engine) -> _Pass:
        began = time.perf_counter()
        answers = list(predict(engine, paths, protocol))
        seconds = time.perf_counter() - began
        blank = np.full(len(engine.info.manifest.classes), np.nan, np.float32)
        failed = tuple(f"{a.path.name}: {a.reason}" for a in answers if isinstance(a, Failure))
        return _Pass(seconds, np.stack([blank if isinstance(a, Failure) else a.probabilities for a in answers]), failed)

    passes: list[list[_Pass]] = []
    for one in contestants:
        passes.append([run(one.engine)])
        progress()
    right = passes[0][0].posteriors if reference is None else run(reference).posteriors

    def timed(engine: Engine, made: list[_Pass]) -> Callable[[int], float]:
        def call(_repetition: int) -> float:
            made.append(run(engine))
            return made[-1].seconds

        return call

    turns = [Turn(timed(one.engine, made), made[0].seconds) for one, made in zip(contestants, passes, strict=True)]
    measured, peaks = in_turn(turns, effort, probes or {}, progress)
    results = []
    for index, one in enumerate(contestants):
        made = passes[index]
        results.append(
            result_of(
                one,
                str(protocol),
                made[0].seconds,
                Latency(len(paths), tuple(turns[index].seconds)),
                ([s / len(paths) for s in measured[0]], [s / len(paths) for s in measured[index]]),
                _protocol_gflop(one.engine.info, sizes, protocol),
                peaks,
                (right, furthest(right, [each.posteriors for each in made])),
                (contestants[0].engine if reference is None else reference).info,
                tuple(dict.fromkeys(text for each in made for text in each.failed)),
            )
        )
    return results


def _protocol_gflop(info: EngineInfo, sizes: Sequence[tuple[int, int]], protocol: Protocol) -> float | None:
    """Work of all views of all images, as the network has it."""
    spec = info.manifest.spec
    if spec is None:
        return None
    return sum(2 * protocol.macs(spec, *size, info.manifest.rescaling) for size in sizes) / 1e9
