"""The views of real images on which a file is compared with its reference."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vgg_deploy.errors import ImageError, UsageError
from vgg_deploy.evaluation.error_rates import label_by_folder
from vgg_deploy.evaluation.parity import NamedView
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.tensors import Floats
from vgg_deploy.views.images import centre_box, decode, rescale

# Short sides at which images are compared, in pixels above the crop. All but the crop itself are no multiples of 32,
# and no sizes used at export.
SIZES_ABOVE_CROP = (0, 37, 101)
TRIMMED_COLUMNS = 13  # cut from the long side of the largest view, so square images give views that are not square


@dataclass(frozen=True, slots=True)
class ComparisonViews:
    """The views on which engines are compared: whole images at several sizes, and crops for engines of a fixed size.

    Attributes:
        whole: whole images, for engines with free height and width.
        crops: crop x crop.
        unreadable: images that were skipped, with the reason.
        truth: int64 [images], the class of each image that was read, by its folder; None if the folders name none.
    """

    whole: tuple[NamedView, ...]
    crops: tuple[NamedView, ...]
    unreadable: tuple[str, ...]
    truth: npt.NDArray[np.int64] | None = None

    def chosen(self, free: bool) -> tuple[NamedView, ...]:
        """The views for an engine: whole images if it takes any size."""
        return self.whole if free else self.crops

    def few(self, free: bool) -> tuple[NamedView, ...]:
        """Two views for what takes long. The larger comes first: runtimes were wrong when a smaller one followed."""
        if not free:
            return self.crops[:2]
        first, last = self.whole[0], self.whole[-1]
        return (last, first)

    def by_image(self, posteriors: Floats) -> Floats:
        """The mean over each image's views: float32 [views, classes] -> [images, classes]."""
        mean: Floats = posteriors.reshape(len(self.crops), -1, posteriors.shape[1]).mean(axis=1)
        return mean


def read_views(paths: Iterable[Path], manifest: Manifest) -> ComparisonViews:
    """Rescales each image to several sizes, as inference does.

    Raises:
        UsageError: none of the images can be read.
    """
    whole: list[NamedView] = []
    crops: list[NamedView] = []
    read: list[Path] = []
    unreadable: list[str] = []
    crop = manifest.crop
    for path in paths:
        try:
            pixels = decode(path)
            views = [rescale(pixels, crop + above, manifest.rescaling) for above in SIZES_ABOVE_CROP]
        except ImageError as error:
            unreadable.append(f"{path}: {error}")
            continue
        read.append(path)
        top, left = centre_box(views[0].shape[0], views[0].shape[1], crop)
        crops.append(NamedView(f"{path.name} {crop}x{crop}", views[0][top : top + crop, left : left + crop]))
        height, width = views[-1].shape[:2]
        views[-1] = views[-1][:-TRIMMED_COLUMNS] if height > width else views[-1][:, :-TRIMMED_COLUMNS]
        whole.extend(NamedView(f"{path.name} {view.shape[1]}x{view.shape[0]}", view) for view in views)
    if not crops:
        raise UsageError("none of the images can be read: " + "; ".join(unreadable[:3]))
    try:
        truth = label_by_folder(read, manifest).truth
    except UsageError:  # the folders need not name classes, and the classes need not have names
        truth = None
    return ComparisonViews(tuple(whole), tuple(crops), tuple(unreadable), truth)
