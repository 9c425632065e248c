"""The scores of an image's views, and their weighted mean (section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vgg_deploy.network.tensors import Floats
from vgg_deploy.views.view import View


@dataclass(frozen=True, slots=True)
class ScoreMap:
    """Class scores of one view, float32 [classes, rows, columns]."""

    view: View
    scores: Floats


@dataclass(frozen=True, slots=True)
class ViewScores:
    """An engine's outputs for one view.

    Attributes:
        probabilities: float32 [classes].
        features: float32 [fc_width], if the model gives them.
        score_map: float32 [classes, rows, columns], if it is kept.
    """

    probabilities: Floats
    features: Floats | None = None
    score_map: Floats | None = None


@dataclass(frozen=True, slots=True)
class MeanScores:
    """An engine's outputs for all views of an image, averaged.

    Attributes:
        probabilities: float32 [classes], the weighted mean of the views' posteriors.
        features: float32 [fc_width], the weighted mean of the views' features, if the model gives them.
        score_maps: the score maps that were kept, in the order of the views.
    """

    probabilities: Floats
    features: Floats | None
    score_maps: tuple[ScoreMap, ...]


def mean_scores(views: Sequence[View], scores: Sequence[ViewScores]) -> MeanScores:
    """The mean over at least one view, weighted by the views' weights.

    The sum runs in the order of the views, so the result is bit-identical each time.
    """
    weights = [view.weight for view in views]
    features = [view_scores.features for view_scores in scores if view_scores.features is not None]
    score_maps = tuple(
        ScoreMap(view, view_scores.score_map)
        for view, view_scores in zip(views, scores, strict=True)
        if view_scores.score_map is not None
    )
    return MeanScores(
        _mean([view_scores.probabilities for view_scores in scores], weights),
        _mean(features, weights) if features else None,
        score_maps,
    )


def _mean(rows: Sequence[Floats], weights: Sequence[float]) -> Floats:
    total = np.zeros(len(rows[0]), np.float64)  # [classes] or [fc_width]
    for row, weight in zip(rows, weights, strict=True):
        total += weight * row.astype(np.float64)
    mean: Floats = (total / sum(weights)).astype(np.float32)
    return mean
