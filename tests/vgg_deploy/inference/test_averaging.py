"""The mean over the views of an image, against figures worked out by hand."""

from __future__ import annotations

import numpy as np

from vgg_deploy.inference.averaging import ViewScores, mean_scores
from vgg_deploy.views.view import View

VIEWS = View(64, None, False, weight=1.0), View(64, (0, 0, 64, 64), True, weight=3.0)


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_each_view_counts_by_its_weight() -> None:
    scores = ViewScores(row(1, 0), row(4, 0, 8)), ViewScores(row(0, 1), row(0, 4, 8))
    mean = mean_scores(VIEWS, scores)
    assert mean.probabilities.tolist() == [0.25, 0.75]
    assert mean.features.tolist() == [1, 3, 8]
    assert mean.probabilities.dtype == mean.features.dtype == np.float32
    assert mean.score_maps == ()


def test_score_maps_stay_with_their_views() -> None:
    maps = np.ones((2, 3, 4), np.float32), np.zeros((2, 1, 1), np.float32)
    mean = mean_scores(VIEWS, [ViewScores(row(0.5, 0.5), score_map=score_map) for score_map in maps])
    assert mean.features is None
    assert [score_map.view for score_map in mean.score_maps] == list(VIEWS)
    assert all(score_map.scores is expected for score_map, expected in zip(mean.score_maps, maps, strict=True))
