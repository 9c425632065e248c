"""A class score map drawn over the picture: each position at the centre of its window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vgg_deploy.errors import UsageError
from vgg_deploy.inference.averaging import ScoreMap
from vgg_deploy.inference.heatmap import class_evidence, overlay
from vgg_deploy.inference.prediction import Prediction
from vgg_deploy.network.classes import numbered_classes
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.views.images import rescaled_size
from vgg_deploy.views.protocols import Protocol
from vgg_deploy.views.view import View

CROP = 64


def prediction(size: tuple[int, int], *maps: ScoreMap) -> Prediction:
    return Prediction(Path("a.png"), size, np.full(5, 0.2, np.float32), numbered_classes(5), maps)


def map_shape(extent: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the score map of a view of height x width: windows of the crop's side, 32 pixels apart."""
    rows, columns = (side // 32 - CROP // 32 + 1 for side in extent)
    return rows, columns


def one_hot(view: View, extent: tuple[int, int], row: int, column: int, class_index: int = 3) -> ScoreMap:
    """A map of zeros, with 1 at one position of one class."""
    scores = np.zeros((5, *map_shape(extent)), np.float32)
    scores[class_index, row, column] = 1
    return ScoreMap(view, scores)


def hottest(evidence: np.ndarray) -> tuple[float, float]:
    """Where the evidence is highest: its centre of gravity above nine tenths of its peak, in pixels."""
    rows, columns = np.nonzero(evidence > 0.9 * evidence.max())
    return float(rows.mean()) + 0.5, float(columns.mean()) + 0.5


@pytest.mark.parametrize(("row", "column"), [(1, 1), (1, 4), (2, 3)])
def test_a_position_lies_at_the_centre_of_the_window_that_it_sees(manifest: Manifest, row: int, column: int) -> None:
    size = (160, 256)
    evidence = class_evidence(prediction(size, one_hot(View(160, None, False), size, row, column)), 3, manifest)
    assert evidence.shape == size
    assert evidence.dtype == np.float32
    assert evidence.max() == pytest.approx(1, abs=0.05)
    assert hottest(evidence) == pytest.approx((32 * row + CROP / 2, 32 * column + CROP / 2), abs=1)


def test_evidence_falls_to_nothing_one_window_step_away(manifest: Manifest) -> None:
    size = (160, 160)
    evidence = class_evidence(prediction(size, one_hot(View(160, None, False), size, 1, 2)), 3, manifest)
    centre_row, centre_column = 32 + 32, 64 + 32
    assert evidence[centre_row, centre_column + 16] == pytest.approx(0.5, abs=0.03)
    assert np.abs(evidence[:, : centre_column - 33]).max() == 0
    assert np.abs(evidence[centre_row + 33 :]).max() == 0


def test_evidence_is_constant_beyond_the_outermost_centres(manifest: Manifest) -> None:
    size = (160, 160)
    evidence = class_evidence(prediction(size, one_hot(View(160, None, False), size, 0, 0)), 3, manifest)
    np.testing.assert_array_equal(evidence[: CROP // 2, : CROP // 2], 1)


@pytest.mark.parametrize("column", [0, 1, 3])
def test_a_position_of_a_mirrored_view_lies_on_the_other_side(manifest: Manifest, column: int) -> None:
    # 170 is not a multiple of 32. Windows begin at the right edge of the picture, so none sees its left 10 columns.
    size = (128, 170)
    evidence = class_evidence(prediction(size, one_hot(View(128, None, True), size, 1, column)), 3, manifest)
    expected = 170 - (32 * column + CROP / 2)
    row_of_centres = evidence[64]
    assert row_of_centres[round(expected) - 1 : round(expected) + 1] == pytest.approx([1, 1], abs=0.05)
    if column == 1:
        assert hottest(evidence)[1] == pytest.approx(expected, abs=1)
    else:  # the outermost extend to the edge
        outer = row_of_centres[round(expected) :] if column == 0 else row_of_centres[: round(expected)]
        assert outer.min() > 0.95


def test_a_view_and_a_mirrored_view_with_a_mirrored_map_agree_if_the_width_is_a_multiple_of_32(
    manifest: Manifest,
) -> None:
    size = (96, 192)
    scores = np.random.default_rng(0).normal(size=(5, *map_shape(size))).astype(np.float32)
    plain = class_evidence(prediction(size, ScoreMap(View(96, None, False), scores)), 2, manifest)
    mirror = class_evidence(prediction(size, ScoreMap(View(96, None, True), scores[:, :, ::-1])), 2, manifest)
    np.testing.assert_allclose(plain, mirror, atol=1e-6)


@pytest.mark.parametrize("mirror", [False, True])
def test_a_position_of_the_rescaled_view_lies_at_its_place_in_the_picture(manifest: Manifest, mirror: bool) -> None:
    size, short_side = (300, 400), 192  # rescaled to 192 x 256
    extent = rescaled_size(*size, short_side)
    evidence = class_evidence(prediction(size, one_hot(View(short_side, None, mirror), extent, 2, 3)), 3, manifest)
    across = extent[1] - (3 * 32 + CROP / 2) if mirror else 3 * 32 + CROP / 2
    assert hottest(evidence) == pytest.approx((96 * 300 / 192, across * 400 / 256), abs=2)


@pytest.mark.parametrize("mirror", [False, True])
def test_a_central_crop_covers_the_middle_of_the_picture(manifest: Manifest, mirror: bool) -> None:
    size, rescaling = (160, 224), manifest.rescaling
    (view, *_) = Protocol("center", (160,), 128, False).views(*size, rescaling)
    view = View(view.short_side, view.box, mirror)
    assert view.box == (16, 48, 128, 128)
    evidence = class_evidence(prediction(size, one_hot(view, (128, 128), 1, 0)), 3, manifest)
    centre = 16 + 32 + 32, (48 + 128 - 32) if mirror else 48 + 32
    assert evidence[centre[0] - 1, centre[1] - 1] == pytest.approx(1, abs=0.05)
    assert evidence[centre[0], 224 - centre[1]] < 0.1
    # Only one position is hot, at the end of its row: evidence stays high on that side.
    outer = evidence[centre[0], centre[1] :] if mirror else evidence[centre[0], : centre[1] - 1]
    assert outer.min() > 0.9


def test_a_map_of_one_position_covers_the_whole_picture(manifest: Manifest) -> None:
    evidence = class_evidence(prediction((70, 90), one_hot(View(64, None, False), (64, 64), 0, 0)), 3, manifest)
    np.testing.assert_array_equal(evidence, np.ones((70, 90)))


def test_evidence_is_the_mean_over_views_of_the_class_asked_for(manifest: Manifest) -> None:
    size, view = (160, 160), View(160, None, False)
    corners = one_hot(view, size, 1, 1), one_hot(view, size, 2, 2)
    both = class_evidence(prediction(size, *corners), 3, manifest)
    apart = [class_evidence(prediction(size, corner), 3, manifest) for corner in corners]
    np.testing.assert_allclose(both, np.mean(apart, axis=0), atol=1e-7)
    assert not class_evidence(prediction(size, *corners), 0, manifest).any()


def test_a_constant_map_is_constant_over_the_picture(manifest: Manifest) -> None:
    for mirror in (False, True):
        constant = ScoreMap(View(150, None, mirror), np.full((5, 3, 4), -2.5, np.float32))
        evidence = class_evidence(prediction((150, 181), constant), 1, manifest)
        np.testing.assert_allclose(evidence, -2.5, rtol=1e-6)


def test_an_overlay_is_a_picture_of_the_same_size_from_blue_to_red() -> None:
    pixels = np.full((40, 90, 3), 128, np.uint8)
    before = pixels.copy()
    evidence = np.tile(np.linspace(-7, 12, 90, dtype=np.float32), (40, 1))
    picture = overlay(pixels, evidence)
    assert picture.dtype == np.uint8
    assert picture.shape == pixels.shape
    low, high = picture[0, 0].astype(int), picture[0, -1].astype(int)
    assert low[2] > low[0]
    assert high[0] > high[2]
    np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("value", [0.0, -3.0, 1e30])
def test_constant_evidence_is_one_colour(value: float) -> None:
    picture = overlay(np.zeros((4, 6, 3), np.uint8), np.full((4, 6), value, np.float32))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 1


def test_the_picture_is_seen_through_the_overlay() -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, 4:] = 255
    picture = overlay(pixels, np.zeros((8, 8), np.float32)).astype(int)
    assert (picture[:, 4:] - picture[:, :4] > 100).all()


def test_a_prediction_without_score_maps_says_how_to_keep_them(manifest: Manifest) -> None:
    with pytest.raises(UsageError, match="keep_score_maps=True"):
        class_evidence(prediction((64, 64)), 0, manifest)
