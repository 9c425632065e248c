"""Posteriors of many images: computed by an engine, or read from a cache."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol as Interface

from vgg_deploy.evaluation.cache_key import engine_key, protocol_key
from vgg_deploy.evaluation.fusion import fused
from vgg_deploy.evaluation.posterior_cache import CachedPosterior, PosteriorCache
from vgg_deploy.inference.engine import Engine, EngineInfo
from vgg_deploy.inference.prediction import Failure, default_batch, predict
from vgg_deploy.network.tensors import Floats
from vgg_deploy.views.protocols import Protocol


@dataclass(frozen=True, slots=True)
class Answer:
    """An image's posteriors under a protocol.

    Attributes:
        probabilities: float32 [classes].
        seconds: the time that they took to compute, decoding included.
        cached: whether they come from a cache.
    """

    probabilities: Floats
    seconds: float
    cached: bool = False


class Scorer(Interface):
    """Gives the posteriors of images."""

    def score(self, paths: Sequence[Path]) -> Iterator[tuple[int, Answer | Failure]]:
        """Yields each image's index in `paths` and its answer, in any order."""
        ...


class EngineScorer:
    """Computes posteriors; see `vgg_deploy.inference.prediction.predict`.

    Their times do not include an engine's first calls, which allocate memory and compile: before the first image is
    timed, as many images as the engine computes at once are scored for nothing.
    """

    def __init__(self, engine: Engine, protocol: Protocol, batch: int | None = None) -> None:
        self._engine, self._protocol, self._batch = engine, protocol, batch

    def score(self, paths: Sequence[Path]) -> Iterator[tuple[int, Answer | Failure]]:
        for _result in predict(self._engine, paths[: self._images_at_once], self._protocol, batch=self._batch):
            pass
        began = time.perf_counter()
        for index, result in enumerate(predict(self._engine, paths, self._protocol, batch=self._batch)):
            if isinstance(result, Failure):
                yield index, result
                continue
            # Images run in parallel, so an image's time is the time since the previous answer.
            now = time.perf_counter()
            seconds, began = now - began, now
            yield index, Answer(result.probabilities, seconds)

    @property
    def _images_at_once(self) -> int:
        """The images whose views fill a batch for each request."""
        info = self._engine.info
        views = info.concurrency * (self._batch or default_batch(info))
        return -(-views // (2 if self._protocol.mirror else 1))


class CachedScorer:
    """Gives the answers that a cache has, and lets another scorer compute the rest.

    If the cache has each part of a protocol, it counts as having the protocol.

    Args:
        scorer: computes what the cache does not have.
        cache: stores each new answer at once.
        model: fingerprint of the engine's weights.
        info: describes the engine of `scorer`.
        protocol: the protocol of `scorer`.
    """

    def __init__(
        self, scorer: Scorer, cache: PosteriorCache, *, model: str, info: EngineInfo, protocol: Protocol
    ) -> None:
        self._scorer, self._cache = scorer, cache
        self._engine = engine_key(info, model)
        self._classes = len(info.manifest.classes)
        rescaling = info.manifest.rescaling
        self._protocol = protocol_key(protocol, rescaling)
        self._parts = [protocol_key(part, rescaling) for part in protocol.parts]

    def score(self, paths: Sequence[Path]) -> Iterator[tuple[int, Answer | Failure]]:
        """Yields the cached answers first, then the computed ones.

        Raises:
            OutputError: the cache cannot be read or written.
        """
        missing = []
        for index, path in enumerate(paths):
            known = self._cached(path)
            if known is None:
                missing.append(index)
            else:
                yield index, known
        for position, answer in self._scorer.score([paths[index] for index in missing]):
            index = missing[position]
            image = self._cache.fingerprint(paths[index])
            if isinstance(answer, Answer) and image is not None:
                self._cache.put(self._engine, self._protocol, image, answer.probabilities, answer.seconds)
            yield index, answer

    def _cached(self, path: Path) -> Answer | None:
        image = self._cache.fingerprint(path)
        if image is None:
            return None
        posterior = self._known(self._protocol, image) or _joined([self._known(part, image) for part in self._parts])
        return None if posterior is None else Answer(posterior.probabilities, posterior.seconds, cached=True)

    def _known(self, protocol: str, image: str) -> CachedPosterior | None:
        posterior = self._cache.get(self._engine, protocol, image)
        return posterior if posterior is not None and len(posterior.probabilities) == self._classes else None


def _joined(parts: Sequence[CachedPosterior | None]) -> CachedPosterior | None:
    """The mean of a protocol's parts (section 4.3) and the sum of their times; None if a part is missing."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return CachedPosterior(fused([part.probabilities for part in known]), sum(part.seconds for part in known))
