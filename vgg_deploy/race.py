"""Contests of engines: calls on batches of one shape, and whole passes over image files under a test protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from vgg_deploy.contest import Contestant, Effort, Result, Turn, in_turn, result_of
from vgg_deploy.engine import Engine, EngineInfo, Floats, Images
from vgg_deploy.images import rescaled_size
from vgg_deploy.peak import PeakProbe
from vgg_deploy.prediction import Failure, predict
from vgg_deploy.protocols import Protocol
from vgg_deploy.timing import BatchShape, Latency


def race(
    contestants: Sequence[Contestant],
    shape: BatchShape,
    batches: Sequence[Images],
    effort: Effort,
    *,
    reference: Engine | None = None,
    probes: Mapping[str, PeakProbe] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[Result]:
    """Times calls on batches of one shape; all contestants get the same batch in the same repetition.

    Args:
        batches: uint8 [n, h, w, 3] each; posteriors over all of them are compared.
        reference: what is right; None: the first contestant.
        probes: by precision, what measures the machine's peak in it, between the contestants.
        progress: called after each contestant's comparison, and after each repetition's part.
    """
    answered, first_s, turns = [], [], []
    with ThreadPoolExecutor(max(one.engine.info.concurrency for one in contestants)) as pool:
        for one in contestants:
            times, rows = [], []
            for batch in [*batches, batches[0]]:
                began = time.perf_counter()
                rows.append(one.engine.run(batch).probabilities)
                times.append(time.perf_counter() - began)
            answered.append(np.concatenate(rows[:-1]))
            first_s.append(times[0])
            call = _side_by_side(pool, one.engine, batches)
            turns.append(Turn(call, times[-1] if one.engine.info.concurrency == 1 else call(0)))
            progress()
        right = answered[0] if reference is None else np.concatenate([reference.run(b).probabilities for b in batches])
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
                (right, answered[index]),
                (contestants[0].engine if reference is None else reference).info,
            )
        )
    return results


def _side_by_side(pool: ThreadPoolExecutor, engine: Engine, batches: Sequence[Images]) -> Callable[[int], float]:
    """Seconds of one call, or of as many at once as the engine computes side by side."""
    count = engine.info.concurrency

    def call(repetition: int) -> float:
        batch = batches[repetition % len(batches)]
        began = time.perf_counter()
        if count == 1:
            engine.run(batch)
        else:
            for _scores in pool.map(engine.run, [batch] * count):
                pass
        return time.perf_counter() - began

    return call


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
    """Times passes over images, decode to answer, as `predict` makes them; otherwise as `race`.

    Args:
        sizes: height and width of each image.
    """

    def run(engine: Engine) -> tuple[float, Floats, tuple[str, ...]]:
        began = time.perf_counter()
        answers = list(predict(engine, paths, protocol))
        seconds = time.perf_counter() - began
        blank = np.full(len(engine.info.manifest.classes), np.nan, np.float32)
        failed = tuple(f"{a.path.name}: {a.reason}" for a in answers if isinstance(a, Failure))
        return seconds, np.stack([blank if isinstance(a, Failure) else a.probabilities for a in answers]), failed

    first = []
    for one in contestants:
        first.append(run(one.engine))
        progress()
    right = first[0][1] if reference is None else run(reference)[1]

    def timed(engine: Engine) -> Callable[[int], float]:
        return lambda _repetition: run(engine)[0]

    turns = [
        Turn(timed(one.engine), seconds) for one, (seconds, _rows, _failed) in zip(contestants, first, strict=True)
    ]
    measured, peaks = in_turn(turns, effort, probes or {}, progress)
    results = []
    for index, one in enumerate(contestants):
        seconds, rows, failed = first[index]
        results.append(
            result_of(
                one,
                str(protocol),
                seconds,
                Latency(len(paths), tuple(turns[index].seconds)),
                ([s / len(paths) for s in measured[0]], [s / len(paths) for s in measured[index]]),
                _protocol_gflop(one.engine.info, sizes, protocol),
                peaks,
                (right, rows),
                (contestants[0].engine if reference is None else reference).info,
                failed,
            )
        )
    return results


def _protocol_gflop(info: EngineInfo, sizes: Sequence[tuple[int, int]], protocol: Protocol) -> float | None:
    """Work of all views of all images, as the network has it."""
    spec, rescaling = info.manifest.spec, info.manifest.rescaling
    if spec is None:
        return None
    total = 0.0
    for height, width in sizes:
        for view in protocol.views(height, width, rescaling):
            if view.side is not None:
                rows = columns = view.side
            elif view.box is not None:
                rows, columns = view.box[2:]
            else:
                rows, columns = rescaled_size(height, width, view.short_side, rescaling.rounding)
            if min(rows, columns) >= spec.crop:
                total += BatchShape(1, rows, columns).gflop(spec)
    return total
