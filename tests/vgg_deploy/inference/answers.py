"""What fake engines answer, and what `predict` should make of it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from vgg_deploy.inference.prediction import Failure, Prediction
from vgg_deploy.views.protocols import Protocol

DENSE = Protocol("dense", (64,), None, False)
MULTISCALE = Protocol("multiscale", (64, 73, 96), None, True)
CENTER = Protocol("center", (80,), 64, False)

SQUARE, TALL, WIDE = (64, 64), (96, 64), (64, 130)


def marked(images: np.ndarray) -> np.ndarray:
    """Posteriors of five classes, [n, 5]. The second is the first pixel's red / 255: it shows which view was seen."""
    share = images[:, 0, 0, 0].astype(np.float32) / 255  # [n]
    return np.stack([1 - share, share, *[0 * share] * 3], axis=1)


def probabilities(results: Iterable[Prediction | Failure]) -> list[np.ndarray]:
    """The posteriors of images that all have an answer."""
    rows = []
    for result in results:
        assert isinstance(result, Prediction), result
        rows.append(result.probabilities)
    return rows
