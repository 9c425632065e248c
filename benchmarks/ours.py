"""Our engines as contestants."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.straightforward import Run
from engines import RUNTIMES, open_engine
from vgg_deploy.bench.peak import open_best_probe
from vgg_deploy.errors import UsageError
from vgg_deploy.inference.engine import ContextManaged, Engine, EngineInfo, Scores
from vgg_deploy.inference.prediction import Failure, predict
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.views.protocols import Protocol

_TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}  # others are called what they are in the registry
# The registry's runtimes that compute on CPUs, which all do in FP32, and their names in tables.
CPU_RUNTIMES = {name: _TITLES.get(name, name) for name, runtime in RUNTIMES.items() if "cpu" in runtime.devices}


def opened(path: Path, **options: Any) -> Engine:
    """`open_engine`, which must compute in bfloat16 where that is asked for.

    Raises:
        UsageError: this CPU does not.
    """
    engine = open_engine(path, **options)
    if options.get("allow_bf16") and not engine.info.bf16:
        engine.close()
        raise UsageError("this CPU does not compute in bfloat16")
    return engine


class _Recording(ContextManaged):
    """An engine that keeps the batches it is given with its answers, so that a bare loop can run the very same."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.batches = engine, list[tuple[Images, Floats]]()

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def run(self, images: Images) -> Scores:
        scores = self._engine.run(images)
        self.batches.append((images.copy(), scores.probabilities))
        return scores


class Stream:
    """For a `Contestant`: image files -> seconds from the first file to the last answer, and the answers [n, classes].

    The first call keeps the batches; with `bare`, a later one only runs these again, as many in flight: seconds, and the largest
    difference of any posterior from the first call's.
    """

    def __init__(self, path: Path, options: dict[str, Any], protocol: Protocol) -> None:
        self._engine = opened(path, **{"requests": None, **options})
        self._protocol = protocol
        self._batches: list[tuple[Images, Floats]] = []

    def __call__(self, paths: Sequence[Path], bare: bool = False) -> tuple[float, Floats | float]:
        if bare:
            return self._bare()
        engine = self._engine if self._batches else _Recording(self._engine)
        began = time.perf_counter()
        results = list(predict(engine, paths, self._protocol))
        seconds = time.perf_counter() - began
        if isinstance(engine, _Recording):
            self._batches = engine.batches
        failed = [result for result in results if isinstance(result, Failure)]
        if failed:
            raise ValueError(f"{failed[0].path}: {failed[0].reason}")
        return seconds, np.stack([result.probabilities for result in results if not isinstance(result, Failure)])

    def _bare(self) -> tuple[float, float]:
        batches = [images for images, _posteriors in self._batches]
        with ThreadPoolExecutor(self._engine.info.concurrency) as pool:
            began = time.perf_counter()
            answers = list(pool.map(self._engine.run, batches))
            seconds = time.perf_counter() - began
        pairs = zip(answers, self._batches, strict=True)
        return seconds, max(float(np.abs(scores.probabilities - rows).max()) for scores, (_images, rows) in pairs)


def call(path: Path, runtime: str = "auto", allow_bf16: bool = False, threads: int | None = None) -> Run:
    """One call at a time, each as fast as can be."""
    engine = opened(path, runtime=runtime, allow_bf16=allow_bf16, threads=threads)
    return lambda images: engine.run(images).probabilities


class Turn:
    """For a `Contestant`: one batch, run again and again -> ms of each call, and its posteriors.

    Args:
        make, arguments: of a `Run`.
    """

    def __init__(self, make: Callable[..., Run], *arguments: Any) -> None:
        self._run = make(*arguments)

    def __call__(self, images: Images, least_s: float = 0.0) -> tuple[list[float], Floats]:
        """Runs it at least once, and until `least_s` seconds have passed."""
        times: list[float] = []
        while not times or sum(times) < 1000 * least_s:
            began = time.perf_counter()
            posteriors = self._run(images)
            times.append(1000 * (time.perf_counter() - began))
        return times, posteriors


class Peak:
    """For a `Contestant`: -> the machine's matrix-multiply peak in a precision, GFLOP/s; None where it does not compute in it."""

    def __init__(self, precision: str) -> None:
        self._probe = open_best_probe(open_engine, precision)

    def __call__(self, calls: int = 5) -> float | None:
        if self._probe is None:
            return None
        return self._probe().gflops_per_s


class InFlight:
    """For a `Contestant`: as `Turn`, for calls of a streaming engine, as many in flight as it takes: ms a batch, and the posteriors of
    the last calls, one after the other."""

    def __init__(self, path: Path, runtime: str) -> None:
        self._engine = opened(path, runtime=runtime, requests=None)
        self._pool = ThreadPoolExecutor(self._engine.info.concurrency)

    def __call__(self, images: Images, least_s: float = 0.0) -> tuple[list[float], Floats]:
        calls, times = 2 * self._engine.info.concurrency, list[float]()
        while not times or calls * sum(times) < 1000 * least_s:
            began = time.perf_counter()
            scores = list(self._pool.map(self._engine.run, [images] * calls))
            times.append(1000 * (time.perf_counter() - began) / calls)
        return times, np.concatenate([each.probabilities for each in scores])
