"""Heatmaps: a class's score map, drawn over the image."""

from __future__ import annotations

import numpy as np
from PIL import Image

from vgg_deploy.errors import UsageError
from vgg_deploy.inference.averaging import ScoreMap
from vgg_deploy.inference.prediction import Prediction
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.spec import TOTAL_STRIDE
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.views.images import rescaled_size

# Dark blue, blue, green, yellow and red for scores from low to high, at 0, 1/4, 1/2, 3/4 and 1.
_COLOURS = np.array([[20, 20, 90], [30, 110, 220], [60, 190, 110], [250, 220, 60], [220, 30, 30]], np.float64)
_COLOUR_TABLE = np.stack(  # uint8 [256, 3]
    [np.interp(np.arange(256) / 255, np.linspace(0, 1, len(_COLOURS)), channel) for channel in _COLOURS.T], axis=1
).astype(np.uint8)
OPACITY = 0.5


def class_evidence(prediction: Prediction, class_index: int, manifest: Manifest) -> Floats:
    """A class's score at each pixel of the image, float32 [height, width]: the mean over the views.

    Each position of a score map sees a window of crop x crop pixels of the rescaled view. Its score is placed at the
    window's centre. Scores are interpolated between centres, and constant beyond the outermost ones.

    Raises:
        UsageError: the prediction has no score maps.
    """
    if not prediction.score_maps:
        raise UsageError(f"{prediction.path} was predicted without score maps; call predict(..., keep_score_maps=True)")
    evidence = np.zeros(prediction.size, np.float32)
    for score_map in prediction.score_maps:
        evidence += _over_image(score_map, class_index, prediction.size, manifest)
    evidence /= len(prediction.score_maps)
    return evidence


def _over_image(score_map: ScoreMap, class_index: int, size: tuple[int, int], manifest: Manifest) -> Floats:
    view, scores = score_map.view, score_map.scores[class_index]  # [rows, columns] of the map
    rescaled = rescaled_size(*size, view.short_side, manifest.rescaling.rounding)
    top_left = (0, 0) if view.box is None else view.box[:2]
    if view.mirror:
        scores = scores[:, ::-1]
    stride = manifest.spec.map_stride if manifest.spec is not None else TOTAL_STRIDE
    along = []
    for axis in (0, 1):
        extent = rescaled[axis] if view.box is None else view.box[2 + axis]
        positions = top_left[axis] + manifest.crop / 2 + stride * np.arange(scores.shape[axis], dtype=np.float64)
        if view.mirror and axis == 1:
            # Windows begin at the left edge of the mirrored view, which is the right edge in the picture.
            positions = (2 * top_left[axis] + extent) - positions[::-1]
        pixels = (np.arange(size[axis]) + 0.5) * rescaled[axis] / size[axis]  # [size], centres in the rescaled image
        weights = np.stack([np.interp(pixels, positions, unit) for unit in np.eye(len(positions))], axis=1)
        along.append(weights.astype(np.float32))  # [size, positions] of this axis
    evidence: Floats = along[0] @ scores @ along[1].T  # [h, rows] x [rows, columns] x [columns, w]
    return evidence


def overlay(pixels: Images, evidence: Floats) -> Images:
    """The picture in grey with `evidence` over it, from blue (its lowest) to red (its highest).

    Args:
        pixels: uint8 [h, w, 3].
        evidence: float32 [h, w].

    Returns:
        uint8 [h, w, 3].
    """
    low, high = float(evidence.min()), float(evidence.max())
    if high > low:
        levels = ((evidence - low) * (255 / (high - low)) + 0.5).astype(np.uint8)  # [h, w]
    else:
        levels = np.full(evidence.shape, 128, np.uint8)
    colours = Image.fromarray(_COLOUR_TABLE[levels])  # [h, w, 3]
    grey = Image.fromarray(pixels).convert("L").convert("RGB")
    return np.asarray(Image.blend(grey, colours, OPACITY))
