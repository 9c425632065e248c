"""The change of accuracy between two networks on the same images, and its standard error."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vgg_deploy.evaluation.accuracy_drop import AccuracyDrop, accuracy_drop

TRUTH = np.array([0, 1, 2, 3])


def certain_of(*classes: int) -> np.ndarray:
    """Posteriors that put 0.7 on one class each, and the rest on the next one."""
    rows = np.zeros((len(classes), 4), np.float32)
    for row, chosen in zip(rows, classes, strict=True):
        row[chosen], row[(chosen + 1) % 4] = 0.7, 0.3
    return rows


def test_a_drop_counts_the_images_that_only_the_reference_gets_right() -> None:
    drop = accuracy_drop(certain_of(0, 1, 2, 3), certain_of(0, 1, 3, 3), TRUTH, 1)
    # One of four is lost: 25 points. The differences are 0, 0, 1, 0, whose standard deviation is 0.5.
    assert drop == AccuracyDrop(1, 25.0, pytest.approx(100 * 0.5 / math.sqrt(4)))
    assert str(drop) == "top-1 -25.00 ± 25.00 points"


def test_a_gain_is_a_negative_drop_and_is_printed_with_a_plus() -> None:
    drop = accuracy_drop(certain_of(3, 1, 2, 3), certain_of(0, 1, 2, 3), TRUTH, 1)
    assert drop.points == -25
    assert str(drop).startswith("top-1 +25.00")


def test_images_on_which_both_are_right_or_both_wrong_add_nothing() -> None:
    drop = accuracy_drop(certain_of(0, 2, 2, 3), certain_of(0, 3, 2, 3), TRUTH, 1)
    assert (drop.points, drop.standard_error) == (0, 0)
    assert str(drop) == "top-1 +0.00 ± 0.00 points"


def test_the_second_class_counts_for_top_2() -> None:
    reference, candidate = (
        certain_of(3, 0, 1, 2),
        certain_of(0, 1, 2, 3),
    )  # right only in the second place, and in the first
    assert accuracy_drop(reference, candidate, TRUTH, 1).points == -100
    assert accuracy_drop(reference, candidate, TRUTH, 2).points == 0


def test_a_single_image_has_no_standard_error() -> None:
    assert math.isnan(accuracy_drop(certain_of(0), certain_of(1), TRUTH[:1], 1).standard_error)
