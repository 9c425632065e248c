"""Top-k error, agreement, divergence and margins, against figures worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vgg_deploy.inference.posteriors import agreement, divergence, margins, top_k, top_k_error


def floats(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32)


@pytest.fixture
def posteriors() -> np.ndarray:
    exponents = np.exp(np.random.default_rng(1).normal(0, 3, (40, 10)))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), np.float32)


def test_the_most_probable_classes_come_first_and_ties_go_to_the_lower_index() -> None:
    rows = floats((0.1, 0.4, 0.4, 0.1), (0.25, 0.25, 0.25, 0.25), (0.0, 0.0, 0.0, 1.0))
    assert top_k(rows, 3).tolist() == [[1, 2, 0], [0, 1, 2], [3, 0, 1]]
    assert top_k(rows[0], 2).tolist() == [1, 2]


def test_a_k_above_the_number_of_classes_gives_all_of_them() -> None:
    assert top_k(floats((0.2, 0.8)), 5).tolist() == [[1, 0]]


def test_top_k_error_is_the_share_of_rows_whose_class_is_not_among_the_first_k() -> None:
    rows = floats((0.5, 0.3, 0.2), (0.5, 0.3, 0.2), (0.5, 0.3, 0.2), (0.1, 0.1, 0.8))
    truth = np.array([0, 1, 2, 2])
    assert [top_k_error(rows, truth, k) for k in (1, 2, 3, 5)] == [0.5, 0.25, 0.0, 0.0]


def test_a_tie_counts_for_the_lower_index_only() -> None:
    rows = floats((0.5, 0.5))
    assert top_k_error(rows, np.array([0]), 1) == 0
    assert top_k_error(rows, np.array([1]), 1) == 1


def test_the_error_of_no_rows_is_nan() -> None:
    assert math.isnan(top_k_error(np.zeros((0, 3), np.float32), np.zeros(0, np.int64), 1))


def test_agreement_is_the_share_of_rows_with_the_same_first_class() -> None:
    reference = floats((0.6, 0.4), (0.6, 0.4), (0.4, 0.6), (0.5, 0.5))
    candidate = floats((0.9, 0.1), (0.4, 0.6), (0.4, 0.6), (0.51, 0.49))
    assert agreement(reference, candidate) == 0.75


def test_divergence_is_that_of_kullback_and_leibler_in_nats() -> None:
    reference, candidate = floats((0.5, 0.5), (0.75, 0.25)), floats((0.25, 0.75), (0.75, 0.25))
    by_hand = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergence(reference, candidate) == pytest.approx(by_hand / 2, rel=1e-6)


def test_divergence_is_0_for_equal_posteriors_and_never_negative(posteriors: np.ndarray) -> None:
    assert divergence(posteriors, posteriors) == 0
    random = np.random.default_rng(2)
    for scale in (1e-7, 1e-4, 1e-2, 1.0):
        other = posteriors * np.exp(random.normal(0, scale, posteriors.shape))
        assert divergence(posteriors, (other / other.sum(axis=1, keepdims=True)).astype(np.float32)) >= 0


def test_divergence_is_finite_if_a_class_has_a_probability_of_0() -> None:
    assert divergence(floats((1.0, 0.0)), floats((1.0, 0.0))) == 0
    assert 10 < divergence(floats((1.0, 0.0)), floats((0.0, 1.0))) < 100


def test_divergence_of_nan_or_of_no_rows_is_nan() -> None:
    assert math.isnan(divergence(floats((0.5, 0.5)), floats((np.nan, 0.5))))
    assert math.isnan(divergence(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)))


def test_a_margin_is_the_lead_of_the_first_class_over_the_second() -> None:
    np.testing.assert_allclose(margins(floats((0.1, 0.7, 0.2), (0.4, 0.2, 0.4))), [0.5, 0], atol=1e-7)
    np.testing.assert_allclose(margins(floats((1.0,))), [1])


def test_margins_do_not_change_their_input(posteriors: np.ndarray) -> None:
    before = posteriors.copy()
    lead = margins(posteriors)
    assert (lead >= 0).all()
    assert (lead <= 1).all()
    np.testing.assert_array_equal(posteriors, before)
