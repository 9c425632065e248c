"""Whether a damage changes nothing: the damaged file gives the bits of the healthy one on every view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from engines import open_engine
from export.proof.views import ComparisonViews
from tests.mutants.judgement import Judgement
from tests.mutants.mutants import Mutant
from vgg_deploy.errors import VGGDeployError
from vgg_deploy.inference.engine import Scores
from vgg_deploy.network.tensors import FEATURES, PROBABILITIES, SCORE_MAP


class Healthy:
    """The answers of a healthy file, beside which those of its mutants are laid.

    Args:
        path: the file.
        views: on which it answers.
        runtimes: in which; a mutant changes nothing if it changes nothing in each of them.
    """

    def __init__(self, path: Path, views: ComparisonViews, runtimes: Sequence[str]) -> None:
        self._path, self._views, self._runtimes = path, views, runtimes

    @cached_property
    def _expected(self) -> dict[str, list[Scores]]:
        return {runtime: list(self._answers(self._path, runtime)) for runtime in self._runtimes}

    def has_answers_of(self, path: Path) -> bool:
        """Whether a file gives the same bits in every output on every view. A file that is refused does not."""
        try:
            return all(
                _same_bits(expected, received)
                for runtime, answers in self._expected.items()
                for expected, received in zip(answers, self._answers(path, runtime), strict=True)
            )
        except VGGDeployError:
            return False

    def _answers(self, path: Path, runtime: str) -> Iterator[Scores]:
        with open_engine(path, runtime=runtime) as engine:
            for view in self._views.chosen(engine.info.shapes.free):
                yield engine.run(view.pixels[None])


class BesideHealthy:
    """One mutant beside its healthy file. It is computed only if a judge that had to find it did not."""

    def __init__(self, healthy: Healthy, mutant: Mutant) -> None:
        self._healthy, self._mutant = healthy, mutant

    @cached_property
    def _unchanged(self) -> bool:
        return self._healthy.has_answers_of(self._mutant.forgotten)

    def completed(self, judgement: Judgement) -> Judgement:
        """The judgement, which says whether the answers keep their bits if a judge did not find what it had to."""
        return judgement.with_unchanged(self._unchanged) if judgement.escaped else judgement


def _same_bits(expected: Scores, received: Scores) -> bool:
    for name in (PROBABILITIES, SCORE_MAP, FEATURES):
        a, b = getattr(expected, name), getattr(received, name)
        if a is None or b is None:
            if a is not b:
                return False
        elif a.shape != b.shape or not np.array_equal(a.view(np.uint32), b.view(np.uint32)):
            return False
    return True
