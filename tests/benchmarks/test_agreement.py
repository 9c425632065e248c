"""What is shown beside the speed: the agreement of all turns, and the certainty of ratios."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.agreement import cells
from benchmarks.report import faster
from vgg_deploy.bench.contest import Contestant, ContestRecord
from vgg_deploy.bench.timing import Ratio
from vgg_deploy.bench.turns import Turn
from vgg_deploy.evaluation.parity import Parity
from vgg_deploy.network.classes import numbered_classes

CLASSES = numbered_classes(3)
WANTED = np.array([[0.8, 0.1, 0.1], [0.42, 0.4, 0.18], [0.1, 0.1, 0.8]], np.float32)


def parity(*answers: np.ndarray) -> Parity:
    record = ContestRecord(Contestant("a", lambda _task, _once: Turn(1, (1.0,))), answers={0: list(answers)})
    return record.parity([WANTED], CLASSES)


def test_the_turn_that_is_furthest_off_is_the_one_that_counts() -> None:
    flipped = WANTED.copy()
    flipped[1] = [0.4, 0.42, 0.18]
    assert cells(parity(WANTED, flipped, WANTED + np.float32(1e-4))) == ("2 of 3 (lead lost: 0.02)", "0.02")
    assert cells(parity(WANTED)) == ("3 of 3", "0")


def test_one_turn_with_nan_is_enough_to_show_nan() -> None:
    assert cells(parity(WANTED, WANTED * np.float32(math.nan))) == ("NaN", "NaN")


@pytest.mark.parametrize(
    ("ratios", "text"),
    [
        ([1.0, 1.02, 1.01, 1.03, 1.0, 1.02, 1.01, 1.01, 1.02], "1.010 ± 0.006 (1.000-1.030); aim 0.97 reached"),
        ([0.9, 0.91, 0.92], "0.910 ± 0.011 (0.900-0.920); aim 0.97 missed"),
        ([0.93, 0.96, 0.99], "0.960 ± 0.032 (0.930-0.990); aim 0.97 missed, within the noise"),
        ([0.96], "0.960 (0.960-0.960); aim 0.97 missed"),
    ],
)
def test_an_aim_within_two_standard_errors_is_not_decided(ratios: list[float], text: str) -> None:
    assert faster(Ratio.of(ratios, [1.0] * len(ratios)), 0.97) == text
