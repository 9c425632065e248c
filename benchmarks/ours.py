"""What our engines do in a turn. These functions are called in a contestant's own process."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from engines import RUNTIMES, open_with
from vgg_deploy.bench.peak import PeakProbe, open_best_probe
from vgg_deploy.bench.result import forward_of
from vgg_deploy.bench.timing import Stopwatch
from vgg_deploy.bench.turns import Calls, Turn, timed_pass
from vgg_deploy.errors import UsageError
from vgg_deploy.inference.context_managed import ContextManaged
from vgg_deploy.inference.engine import Engine, EngineInfo, Scores
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.views.protocols import Protocol

_TITLES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}  # other runtimes keep their names in the registry
# The registry's runtimes that compute on CPUs, and their names in tables. All of them compute FP32.
CPU_RUNTIMES = {name: _TITLES.get(name, name) for name, runtime in RUNTIMES.items() if "cpu" in runtime.devices}
_SAME = 1e-3  # if an engine answers a batch again, posteriors differ by less


def opened(path: Path, options: EngineOptions) -> Engine:
    """Opens an engine.

    Raises:
        UsageError: bfloat16 is allowed, and this CPU does not compute in it.
    """
    engine = open_with(path, options)
    if options.allow_bf16 and not engine.info.bf16:
        engine.close()
        raise UsageError("this CPU does not compute in bfloat16")
    return engine


def our_calls(path: Path, options: EngineOptions, least_s: float, queued: int = 1) -> Calls:
    """Calls of one of our engines, as many at once as it computes concurrently; see `Calls`."""
    engine = opened(path, options)
    return Calls(forward_of(engine), at_once=engine.info.concurrency, queued=queued, least_s=least_s)


def peak(precision: str) -> PeakProbe:
    """The probe of the machine's peak in a precision.

    Raises:
        UsageError: no runtime here computes in it.
    """
    reasons: list[str] = []
    probe = open_best_probe(open_with, precision, EngineOptions(), say=reasons.append)
    if probe is None:
        raise UsageError(reasons[0])
    return probe


class _BatchRecorder(ContextManaged):
    """An engine that keeps its batches and answers, so that a bare loop can run the same batches."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.batches = engine, list[tuple[Images, Floats]]()

    @property
    def info(self) -> EngineInfo:
        return self._engine.info

    def run(self, images: Images) -> Scores:
        scores = self._engine.run(images)
        self.batches.append((images.copy(), scores.probabilities))
        return scores


class EnginePasses:
    """Passes of one of our engines over image files, from the first file to the last answer.

    The first pass over some files keeps the batches. With `bare`, a later turn runs only these, as many at once as the
    engine computes concurrently.
    """

    def __init__(self, path: Path, options: EngineOptions, protocol: Protocol) -> None:
        self._engine, self._protocol = opened(path, options), protocol
        self._batches: dict[tuple[Path, ...], list[tuple[Images, Floats]]] = {}

    def __call__(self, paths: Sequence[Path], once: bool = False, bare: bool = False) -> Turn:
        """One turn.

        Raises:
            ValueError: an image has no answer, or the bare loop answers a batch differently.
        """
        batches = self._batches.get(tuple(paths))
        if bare:
            assert batches is not None
            # The pass that kept the batches has just run them.
            return Turn(len(paths), (float("nan"),)) if once else self._bare(batches, len(paths))
        engine = _BatchRecorder(self._engine) if batches is None else self._engine
        turn = timed_pass(engine, paths, self._protocol)
        if isinstance(engine, _BatchRecorder):
            self._batches[tuple(paths)] = engine.batches
        if turn.failures:
            raise ValueError(turn.failures[0])
        return turn

    def _bare(self, batches: Sequence[tuple[Images, Floats]], count: int) -> Turn:
        watch = Stopwatch()
        with ThreadPoolExecutor(self._engine.info.concurrency) as pool, watch.sample():
            answers = list(pool.map(self._engine.run, [images for images, _posteriors in batches]))
        for scores, (_images, posteriors) in zip(answers, batches, strict=True):
            if np.abs(scores.probabilities - posteriors).max() > _SAME:
                raise ValueError("the bare loop answers a batch differently than the pass that kept it")
        return Turn(count, tuple(watch.seconds), watch.cpu_s)
