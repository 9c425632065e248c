"""Batches to measure on."""

from __future__ import annotations

import numpy as np
import pytest

from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.bench.batches import batches_of, fitted, smooth_pictures
from vgg_deploy.network.manifest import Rescaling


def test_generated_pictures_are_smooth_and_the_same_each_time() -> None:
    first, again, other = smooth_pictures(2), smooth_pictures(2), smooth_pictures(2, seed=1)
    assert [picture.shape for picture in first] == [(375, 500, 3)] * 2
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert not (first[0] == other[0]).all()
    assert np.abs(np.diff(first[0].astype(int), axis=1)).mean() < 5
    assert first[0].std() > 30


@pytest.mark.parametrize("size", [(33, 47), (64, 20), (10, 10), (40, 60)])
def test_a_picture_is_rescaled_to_cover_the_shape_and_cut_to_its_centre(size: tuple[int, int]) -> None:
    picture = np.zeros((20, 60, 3), np.uint8)
    picture[:, 29:31] = 255
    cut = fitted(picture, *size, Rescaling())
    assert cut.shape == (*size, 3)
    assert cut.dtype == np.uint8
    middle = cut[:, :, 0].sum(axis=0, dtype=int)
    assert abs(float((middle * np.arange(size[1])).sum() / middle.sum()) - (size[1] - 1) / 2) < 0.6


def test_the_first_pictures_fill_up_the_last_batch() -> None:
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 30)]
    batches = batches_of(pictures, BatchShape(2, 4, 6), Rescaling())
    assert [batch.images.shape for batch in batches] == [(2, 4, 6, 3)] * 2
    assert [batch.images[:, 0, 0, 0].tolist() for batch in batches] == [[10, 20], [30, 10]]
    assert [batch.distinct for batch in batches] == [2, 1]
    (whole,) = batches_of(pictures, BatchShape(8, 4, 6), Rescaling())
    assert whole.images[:, 0, 0, 0].tolist() == [10, 20, 30, 10, 20, 30, 10, 20]
    assert whole.distinct == 3
