"""Whether a damage changes nothing: the damaged file gives the bits of the healthy one on every view."""

from __future__ import annotations

from collections.abc import Iterator
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
    """The answers of a healthy file in one runtime, beside which those of its mutants are laid.

    Args:
        path: the file.
        views: on which it answers.
        runtime: in which. A runtime may ignore what another reads, such as the scale of a bias.
    """

    def __init__(self, path: Path, views: ComparisonViews, runtime: str) -> None:
        self._path, self._views, self._runtime = path, views, runtime

    @cached_property
    def _expected(self) -> list[Scores]:
        return list(self._answers(self._path))

    def completed(self, judgement: Judgement, mutant: Mutant) -> Judgement:
        """The judgement, with whether the answers keep their bits. They are only computed if something escaped."""
        return judgement.with_unchanged(self._has_answers_of(mutant.forgotten)) if judgement.escaped else judgement

    def _has_answers_of(self, path: Path) -> bool:
        """Whether a file gives the same bits in every output on every view. A file that is refused does not."""
        try:
            return all(map(_same_bits, self._expected, self._answers(path)))
        except VGGDeployError:
            return False

    def _answers(self, path: Path) -> Iterator[Scores]:
        with open_engine(path, runtime=self._runtime) as engine:
            for view in self._views.chosen(engine.info.shapes.free):
                yield engine.run(view.pixels[None])


def _same_bits(expected: Scores, received: Scores) -> bool:
    for name in (PROBABILITIES, SCORE_MAP, FEATURES):
        a, b = getattr(expected, name), getattr(received, name)
        if a is None or b is None:
            if a is not b:
                return False
        elif a.shape != b.shape or not np.array_equal(a.view(np.uint32), b.view(np.uint32)):
            return False
    return True
