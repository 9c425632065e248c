"""The binomial tail and paired differences: what is more than chance."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vgg_deploy.evaluation.binomial import at_least
from vgg_deploy.evaluation.paired_difference import PairedDifference


@pytest.mark.parametrize(
    ("count", "trials", "share", "probability"),
    [
        (0, 3, 0.3, 1.0),
        (1, 1, 0.25, 0.25),
        (1, 2, 0.25, 1 - 0.75**2),
        (2, 3, 0.5, 0.5),
        (3, 3, 0.2, 0.2**3),
        (2, 4, 0.1, 1 - 0.9**4 - 4 * 0.1 * 0.9**3),
        (5, 5, 1.0, 1.0),
        (5, 5, 1.5, 1.0),
    ],
)
def test_the_tail_is_the_sum_of_the_chances(count: int, trials: int, share: float, probability: float) -> None:
    assert at_least(count, trials, share) == pytest.approx(probability, rel=1e-12)


def test_the_tail_of_many_trials_does_not_overflow() -> None:
    assert 0.4 < at_least(25_000, 50_000, 0.5) < 0.6
    assert at_least(30_000, 50_000, 0.5) < 1e-100


def test_the_error_of_a_mean_comes_from_the_spread_of_the_differences() -> None:
    difference = PairedDifference.of(np.array([1.0, 3.0]))
    assert difference.mean == 2
    assert difference.standard_error == pytest.approx(math.sqrt(2) / math.sqrt(2))
    three = PairedDifference.of(np.array([0.0, 0.0, 3.0]))
    assert three.standard_error == pytest.approx(math.sqrt(3) / math.sqrt(3))
    assert math.isnan(PairedDifference.of(np.array([5.0])).standard_error)


@pytest.mark.parametrize(
    ("mean", "error", "above"),
    [(3.1, 1, True), (3.0, 1, False), (2.9, 1, False), (0.1, 0, True), (0.0, 0, False), (-4, 1, False), (9, 4, False)],
)
def test_a_mean_is_above_zero_if_it_exceeds_so_many_errors(mean: float, error: float, above: bool) -> None:
    assert PairedDifference(mean, error).above(3) is above


def test_a_mean_without_an_error_is_never_above() -> None:
    assert not PairedDifference(9, math.nan).above(3)
