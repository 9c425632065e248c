"""A view: part of an image at one scale, mirrored or not. Also the boxes that the crop protocols cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from vgg_deploy.network.manifest import Rescaling
from vgg_deploy.network.tensors import Images
from vgg_deploy.views.images import centre_box, rescaled_size, resize

Box = tuple[int, int, int, int]  # top, left, height, width

GRID = 5  # positions of the regular grid along each side (section 3.2: "a regular grid", 5 x 5)


@dataclass(frozen=True, slots=True)
class View:
    """One view of an image.

    Attributes:
        short_side: Q. The image is first rescaled so that its short side has this length.
        box: top, left, height and width within the rescaled image; None: the whole image.
        mirror: whether the view is flipped left to right.
        side: the length to which the sides of a square box are resized; None: the box keeps its size.
        weight: how much the view's posterior counts in the mean over the image's views.
    """

    short_side: int
    box: Box | None
    mirror: bool
    side: int | None = None
    weight: float = 1.0

    def size(self, height: int, width: int, rescaling: Rescaling) -> tuple[int, int]:
        """The view's rows and columns, for an image of height x width pixels."""
        if self.side is not None:
            return self.side, self.side
        return rescaled_size(height, width, self.short_side, rescaling.rounding) if self.box is None else self.box[2:]

    def cut(self, rescaled: Images, rescaling: Rescaling) -> Images:
        """The view's pixels, uint8 [h, w, 3], not mirrored yet.

        Args:
            rescaled: the image with its short side at `short_side`, uint8 [rows, columns, 3].
            rescaling: its filter resizes a box that has a `side`.
        """
        if self.box is None:
            return rescaled
        top, left, height, width = self.box
        pixels = rescaled[top : top + height, left : left + width]
        return pixels if self.side is None else resize(pixels, self.side, self.side, rescaling)


def merged(views: Iterable[View]) -> tuple[View, ...]:
    """Each view once, in order, with the weights of equal views added up.

    The three squares of a square image are equal, for example.
    """
    weights: dict[View, float] = {}
    for view in views:
        unweighted = replace(view, weight=1.0)
        weights[unweighted] = weights.get(unweighted, 0.0) + view.weight
    return tuple(replace(view, weight=weight) for view, weight in weights.items())


def corners_and_centre(area: Box, crop: int) -> Iterator[Box]:
    """The crops at the four corners of an area and at its centre."""
    top, left, height, width = area
    for row in (top, top + height - crop):
        for column in (left, left + width - crop):
            yield row, column, crop, crop
    row, column = centre_box(height, width, crop)
    yield top + row, left + column, crop, crop


def centre_square(rows: int, columns: int) -> Box:
    """The largest square at the centre."""
    side = min(rows, columns)
    top, left = centre_box(rows, columns, side)
    return top, left, side, side


def three_squares(rows: int, columns: int) -> Iterator[Box]:
    """The largest squares: left, centre and right in a landscape; top, centre and bottom in a portrait."""
    side = min(rows, columns)
    yield 0, 0, side, side
    yield centre_square(rows, columns)
    yield rows - side, columns - side, side, side


def regular_grid(rows: int, columns: int, crop: int) -> Iterator[Box]:
    """GRID x GRID crops at equal distances, from corner to corner."""
    for row in range(GRID):
        for column in range(GRID):
            top, left = (round((size - crop) * step / (GRID - 1)) for size, step in ((rows, row), (columns, column)))
            yield top, left, crop, crop
