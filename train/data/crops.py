"""What training and validation see of an image: uint8 crops, and the shift of its colours (section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset

from train.data.folder import ImageSet
from train.recipe import Recipe
from vgg_deploy.errors import ImageError
from vgg_deploy.network.manifest import Rescaling, Triple
from vgg_deploy.network.tensors import Images
from vgg_deploy.views.images import MAX_DECODED_PIXELS, centre_box, decode, mirrored, rescale

Key = tuple[int, int]  # epoch, index: all that the chance of a crop depends on, apart from the seed
Sample = tuple[npt.NDArray[Any], int, int, Triple]  # view, class, index, RGB shift

NO_SHIFT = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Colours:
    """Of all pixels of a training set, in RGB.

    Attributes:
        mean: in units of 0..255.
        eigenvalues: of the covariance of pixels in units of 0..1, the largest first.
        components: the unit vectors that belong to them.
    """

    mean: Triple
    eigenvalues: Triple
    components: tuple[Triple, Triple, Triple]

    def shift(self, alphas: npt.NDArray[np.float64]) -> Triple:
        """What is added to an image's RGB, in units of 0..255: the sum over components of alpha * eigenvalue * component.

        Krizhevsky et al. 2012, section 4.1. The sum is not linear in the unit of pixels; theirs is 0..1, in which ImageNet's
        eigenvalues are 0.2175, 0.0188 and 0.0045: in 0..255 a shift would be of hundreds of grey levels.
        """
        red, green, blue = 255 * (alphas * np.array(self.eigenvalues)) @ np.array(self.components)
        return float(red), float(green), float(blue)


class ImageDataset(Dataset[Any]):
    """What is made of each image. A broken image is returned, not raised: torch would wrap it into a traceback as text."""

    def __init__(self, images: ImageSet, recipe: Recipe, rescaling: Rescaling) -> None:
        self.images, self.recipe, self.rescaling = images, recipe, rescaling

    def __getitem__(self, key: Key) -> Sample | ImageError:
        epoch, index = key
        path = self.images.path(index)
        try:
            view, shift = self.view(decode(path), epoch, index)
            return view, int(self.images.targets[index]), index, shift
        except ImageError as error:
            return ImageError(f"{path}: {error}; repair or remove it")

    def view(self, pixels: Images, epoch: int, index: int) -> tuple[npt.NDArray[Any], Triple]:
        """The view, and the RGB shift that belongs to it."""
        raise NotImplementedError

    def rescaled(self, pixels: Images, short_side: int) -> Images:
        # Only a crop goes through the network, so the limit that inference puts on a view's size does not hold here.
        return rescale(pixels, short_side, self.rescaling, MAX_DECODED_PIXELS)


class TrainCrops(ImageDataset):
    """uint8 [crop, crop, 3]: S fixed or drawn, a random crop, mirrored half of the time, its colours shifted (section 3.1).

    The shift comes beside the crop: added to bytes it would be rounded and cut off.
    """

    def __init__(self, images: ImageSet, recipe: Recipe, rescaling: Rescaling, colours: Colours | None = None) -> None:
        super().__init__(images, recipe, rescaling)
        self.colours = colours

    def view(self, pixels: Images, epoch: int, index: int) -> tuple[Images, Triple]:
        scale, crop = self.recipe.train_scale, self.recipe.spec.crop
        chance = np.random.default_rng((self.recipe.seed, epoch, 1 + index))
        scaled = self.rescaled(pixels, int(chance.integers(scale.minimum, scale.maximum, endpoint=True)))
        top, left = (int(chance.integers(side - crop, endpoint=True)) for side in scaled.shape[:2])
        window = scaled[top : top + crop, left : left + crop]
        view = mirrored(window) if self.recipe.mirror and chance.random() < 0.5 else window
        if self.colours is None or not self.recipe.rgb_shift:
            return view, NO_SHIFT
        return view, self.colours.shift(chance.normal(0.0, self.recipe.rgb_shift, 3))


class CentreCrops(ImageDataset):
    """uint8 [crop, crop, 3]: the centre of the image rescaled to S, or to the middle of its range."""

    def view(self, pixels: Images, epoch: int, index: int) -> tuple[Images, Triple]:
        crop = self.recipe.spec.crop
        scaled = self.rescaled(pixels, self.recipe.train_scale.middle)
        top, left = centre_box(scaled.shape[0], scaled.shape[1], crop)
        return scaled[top : top + crop, left : left + crop], NO_SHIFT
