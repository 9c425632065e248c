"""Where in an image a class was seen: its score map, laid over the picture."""

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

# Dark blue, blue, green, yellow, red at 0, 1/4, 1/2, 3/4 and 1: low scores to high.
_COLOURS = np.array([[20, 20, 90], [30, 110, 220], [60, 190, 110], [250, 220, 60], [220, 30, 30]], np.float64)
_COLOUR_TABLE = np.stack(
    [np.interp(np.arange(256) / 255, np.linspace(0, 1, len(_COLOURS)), channel) for channel in _COLOURS.T], axis=1
).astype(np.uint8)
OPACITY = 0.5


def class_evidence(prediction: Prediction, class_index: int, manifest: Manifest) -> Floats:
    """A class's score at each pixel of the image, float32 [height, width]: the mean over the views.

    Each position of a score map stands for the crop x crop window of the rescaled view that it sees, and is placed at the
    window's centre; between centres it is interpolated, beyond the outermost it stays as there.

    Raises:
        UsageError: the prediction has no score maps.
    """
    if not prediction.score_maps:
        raise UsageError(
            f"{prediction.path} was predicted without score maps: predict(..., keep_score_maps=True) keeps them"
        )
    evidence = np.zeros(prediction.size, np.float32)
    for score_map in prediction.score_maps:
        evidence += _over_image(score_map, class_index, prediction.size, manifest)
    evidence /= len(prediction.score_maps)
    return evidence


def _over_image(score_map: ScoreMap, class_index: int, size: tuple[int, int], manifest: Manifest) -> Floats:
    view, scores = score_map.view, score_map.scores[class_index]
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
            # Windows begin at the mirrored view's left edge, which is the picture's right one.
            positions = (2 * top_left[axis] + extent) - positions[::-1]
        pixels = (np.arange(size[axis]) + 0.5) * rescaled[axis] / size[axis]
        weights = np.stack([np.interp(pixels, positions, unit) for unit in np.eye(len(positions))], axis=1)
        along.append(weights.astype(np.float32))
    laid: Floats = along[0] @ scores @ along[1].T
    return laid


def overlay(pixels: Images, evidence: Floats) -> Images:
    """The picture, uint8 [h, w, 3], greyed, with `evidence` [h, w] over it from blue (its lowest) to red (its highest)."""
    low, high = float(evidence.min()), float(evidence.max())
    if high > low:
        levels = ((evidence - low) * (255 / (high - low)) + 0.5).astype(np.uint8)
    else:
        levels = np.full(evidence.shape, 128, np.uint8)
    colours = Image.fromarray(_COLOUR_TABLE[levels])
    grey = Image.fromarray(pixels).convert("L").convert("RGB")
    return np.asarray(Image.blend(grey, colours, OPACITY))
