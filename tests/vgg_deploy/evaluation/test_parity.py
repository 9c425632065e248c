"""The figures of two engines over the same views, and the limits that they break."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from vgg_deploy.errors import UsageError
from vgg_deploy.evaluation.parity import (
    NEAR_TIE,
    THRESHOLDS,
    Flip,
    NamedView,
    Parity,
    Thresholds,
    above,
    compare,
    furthest,
    posteriors,
)
from vgg_deploy.network.classes import ClassName, numbered_classes
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Images
from vgg_deploy.testing import FakeEngine

CLASSES = numbered_classes(4)
LOOSE = Thresholds(max_dp=0.5, mean_dp=0.1, divergence=0.1, agreement=0.9)


@pytest.fixture
def reference() -> np.ndarray:
    exponents = np.exp(np.random.default_rng(3).normal(0, 2, (20, 4)))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), np.float32)


def names(count: int) -> list[str]:
    return [f"view {number}" for number in range(count)]


def compared(reference: np.ndarray, candidate: np.ndarray) -> Any:
    return compare(reference, candidate, names(len(reference)), CLASSES)


def test_equal_posteriors_pass_every_threshold(reference: np.ndarray) -> None:
    parity = compared(reference, reference.copy())
    assert (parity.view_count, parity.max_dp, parity.mean_dp, parity.divergence, parity.agreement) == (20, 0, 0, 0, 1)
    assert parity.flips == ()
    for thresholds in THRESHOLDS.values():
        assert parity.failures(thresholds) == ()


def test_the_figures_are_those_worked_out_by_hand() -> None:
    reference = np.array([[0.5, 0.3, 0.2, 0], [0.1, 0.2, 0.3, 0.4]], np.float32)
    candidate = np.array([[0.4, 0.4, 0.2, 0], [0.1, 0.2, 0.4, 0.3]], np.float32)
    parity = compared(reference, candidate)
    assert parity.max_dp == pytest.approx(0.1)
    assert parity.mean_dp == pytest.approx(0.4 / 8)
    divergences = 0.5 * math.log(5 / 4) + 0.3 * math.log(3 / 4), 0.3 * math.log(3 / 4) + 0.4 * math.log(4 / 3)
    assert parity.divergence == pytest.approx(sum(divergences) / 2, rel=1e-5)
    assert parity.agreement == 0.5  # in both, a tie goes to the lower index


def test_flips_name_the_view_both_classes_and_the_margin_that_was_lost() -> None:
    classes = [ClassName(f"n{index}", label) for index, label in enumerate("abcd")]
    reference = np.array([[0.5, 0.3, 0.2, 0], [0.3, 0.3, 0.2, 0.2], [0.1, 0.1, 0.2, 0.6]], np.float32)
    candidate = np.array([[0.5, 0.3, 0.2, 0], [0.2, 0.4, 0.2, 0.2], [0.5, 0.1, 0.2, 0.2]], np.float32)
    tie, clear = compare(reference, candidate, ["one", "two", "three"], classes).flips
    assert compare(reference, candidate, ["one", "two", "three"], classes).worst == 2
    assert (tie.view, tie.reference.label, tie.candidate.label) == ("two", "a", "b")
    assert (clear.view, clear.reference.label, clear.candidate.label) == ("three", "d", "a")
    assert tie.margin == pytest.approx(0, abs=1e-7)
    assert clear.margin == pytest.approx(0.4)


@pytest.mark.parametrize("field", ["max_dp", "mean_dp", "divergence"])
def test_each_limit_fails_alone_and_by_name_and_is_kept_at_its_exact_value(field: str, reference: np.ndarray) -> None:
    candidate = reference.copy()
    candidate[:2] = candidate[:2, [1, 2, 3, 0]]
    parity = compared(reference, candidate)
    value = getattr(parity, field)
    wide = Thresholds(1, 1, 100, 0)
    assert parity.failures(wide) == ()
    assert parity.failures(dataclasses.replace(wide, **{field: value})) == ()
    (failure,) = parity.failures(dataclasses.replace(wide, **{field: value * 0.9}))
    assert failure.startswith(f"{field} {value:.2g} > ")


@pytest.mark.parametrize("side", ["reference", "candidate", "both"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_fails_and_is_the_worst(side: str, value: float, reference: np.ndarray) -> None:
    if side == "both" and value == np.inf:
        value = -np.nan
    candidate = reference.copy()
    for broken in (
        [reference, candidate] if side == "both" else [{"reference": reference, "candidate": candidate}[side]]
    ):
        broken[7, 2] = value
    parity = compared(reference, candidate)
    assert parity.worst == 7
    failures = parity.failures(LOOSE)
    assert len(failures) == 4, failures
    assert all(
        name in text for name, text in zip(("max_dp", "mean_dp", "divergence", "agreement"), failures, strict=True)
    )


@pytest.mark.parametrize(
    ("lead", "views", "flipped", "fails"),
    [
        (0.02, 16, 8, False),  # near-ties do not count
        (0.2, 16, 1, False),  # 1.5 % of views may change, so one change in 16 is no surprise
        (0.2, 16, 2, False),  # has a probability of 2 %
        (0.2, 16, 3, True),  # 0.2 %
        (0.2, 400, 12, False),  # twice as many as expected
        (0.2, 400, 15, True),
    ],
)
def test_the_agreement_fails_if_chance_hardly_gives_so_many_clear_changes(
    lead: float, views: int, flipped: int, fails: bool
) -> None:
    reference = np.tile(np.array([0.5 + lead / 2, 0.5 - lead / 2, 0, 0], np.float32), (views, 1))
    candidate = reference.copy()
    candidate[:flipped] = candidate[:flipped, [1, 0, 2, 3]]
    parity = compared(reference, candidate)
    assert len(parity.flips) == flipped
    failures = parity.failures(dataclasses.replace(THRESHOLDS["int8"], mean_dp=1, divergence=100))
    assert bool(failures) == fails
    assert all(failure.endswith(f"{flipped} clear changes") for failure in failures)


def test_the_chance_of_changes_is_the_binomial_tail() -> None:
    reference = np.tile(np.array([0.9, 0.1, 0, 0], np.float32), (3, 1))
    candidate = reference.copy()
    candidate[:2] = candidate[:2, [1, 0, 2, 3]]
    wide = Thresholds(1, 1, 100, 0.5)
    # Of 3 views that each change with probability 1/2, two or more change with probability 1/2.
    assert compared(reference, candidate).failures(wide) == ()
    # If one of 200 changes is the limit, two of three have a probability of 7e-5.
    (failure,) = compared(reference, candidate).failures(dataclasses.replace(wide, agreement=0.995))
    assert failure == "top-1 agreement 33.33% < 99.5%, 2 clear changes"


def test_the_candidate_furthest_from_the_reference_is_the_one_with_nan(reference: np.ndarray) -> None:
    broken = reference.copy()
    broken[3, 1] = np.nan
    candidates = [reference, broken, reference + np.float32(0.5)]
    assert furthest(reference, candidates) is broken
    assert furthest(reference, candidates[::2]) is candidates[2]


def test_the_candidate_furthest_from_the_reference_has_the_largest_difference(reference: np.ndarray) -> None:
    near, half = reference + np.float32(0.01), reference / 2
    assert furthest(reference, [near, half]) is half
    assert furthest(reference, [half, near]) is half


@pytest.mark.parametrize("columns", [3, 5])
def test_a_candidate_of_other_classes_is_the_furthest(columns: int, reference: np.ndarray) -> None:
    other = np.full((len(reference), columns), 1 / columns, np.float32)
    assert furthest(reference, [reference, other, 1 - reference]) is other
    with pytest.raises(UsageError, match=f"the candidate {columns}"):
        compared(reference, other)


@pytest.mark.parametrize(
    ("precision", "limits"),
    [
        ("float32", (2e-5, 1e-6, 1e-6, 0.995)),
        ("float16", (0.03, 2e-3, 1e-3, 0.995)),
        ("int8", (1.0, 0.015, 0.02, 0.985)),
    ],
)
def test_no_limit_is_loosened_by_accident(precision: str, limits: tuple[float, ...]) -> None:
    assert dataclasses.astuple(THRESHOLDS[precision]) == limits


@pytest.mark.parametrize(
    ("margin", "views", "fails"),
    [(NEAR_TIE, 1, True), (0.0999, 1, False), (NEAR_TIE, 20, False), (NEAR_TIE, 139, False)],
)
def test_one_change_is_evidence_only_if_it_is_clear_and_the_views_are_few(
    margin: float, views: int, fails: bool
) -> None:
    flip = Flip("view 0", CLASSES[0], CLASSES[1], margin)
    parity = Parity(
        view_count=views, max_dp=0, mean_dp=0, divergence=0, agreement=1 - 1 / views, worst=0, flips=(flip,)
    )
    assert bool(parity.failures(dataclasses.replace(LOOSE, agreement=0.995))) == fails


def test_a_view_that_gave_nan_is_not_reported_as_a_changed_class(reference: np.ndarray) -> None:
    candidate = reference.copy()
    candidate[int(np.flatnonzero(reference.argmax(axis=1) != 0)[0])] = np.nan
    assert compared(reference, candidate).flips == ()


def test_networks_of_other_classes_are_refused_with_both_numbers(reference: np.ndarray) -> None:
    with pytest.raises(
        UsageError, match="the reference gives 4 classes and the candidate 3; they are different networks"
    ):
        compared(reference, reference[:, :3])


def test_no_views_are_refused(reference: np.ndarray) -> None:
    with pytest.raises(UsageError, match="no view to compare"):
        compared(reference[:0], reference[:0])


@pytest.mark.parametrize("precision", sorted(THRESHOLDS))
def test_the_table_catches_a_network_that_was_given_bgr(
    precision: str, narrow_spec: Callable[..., NetworkSpec], manifest_for: Callable[..., Manifest]
) -> None:
    weights = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32) / 20

    def answer(images: Images) -> np.ndarray:
        exponents = np.exp(images.mean(axis=(1, 2)).astype(np.float32) @ weights)
        return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), np.float32)

    manifest = manifest_for(narrow_spec("A"))
    random, views = np.random.default_rng(1), []
    for number in range(6):
        noise = random.integers(0, 256, (70, 91, 3)) * random.uniform(0.2, 1, 3)
        views.append(NamedView(f"view {number}", noise.astype(np.uint8)))
    counted = []
    rgb = posteriors(FakeEngine(manifest, answer), views, lambda: counted.append(1))
    bgr = posteriors(FakeEngine(manifest, lambda images: answer(images[..., ::-1])), views)
    assert rgb.shape == (6, 5)
    assert len(counted) == 6
    assert len(compare(rgb, bgr, [view.name for view in views], manifest.classes).failures(THRESHOLDS[precision])) >= 2


def test_a_figure_just_above_its_limit_has_more_digits() -> None:
    assert above(0.0201, 0.02) == "0.0201 > 0.02"
    assert above(0.31234, 0.02) == "0.31 > 0.02"
