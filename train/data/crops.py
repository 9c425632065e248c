"""What training and validation see of an image: a uint8 crop, and a random shift of its colours (section 3.1)."""

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

Key = tuple[int, int]  # epoch, index: the randomness of a crop depends on these and the seed only

RESCALING = Rescaling()
NO_SHIFT = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Example:
    """What a dataset makes of one image.

    Attributes:
        values: a crop, uint8 [crop, crop, 3], or other numbers of the image.
        target: the class.
        index: the image's place in its set.
        shift: what training adds to RGB, in units of 0..255.
    """

    values: npt.NDArray[Any]
    target: int
    index: int
    shift: Triple


@dataclass(frozen=True, slots=True)
class Colours:
    """The distribution of RGB over all pixels of a training set.

    Attributes:
        mean: in units of 0..255.
        eigenvalues: of the covariance of pixels in units of 0..1, largest first.
        components: the unit eigenvectors, in the same order.
    """

    mean: Triple
    eigenvalues: Triple
    components: tuple[Triple, Triple, Triple]

    def shift(self, alphas: npt.NDArray[np.float64]) -> Triple:
        """The sum over components of alpha * eigenvalue * component, in units of 0..255, to add to an image's RGB.

        Krizhevsky et al. 2012, section 4.1. Eigenvalues grow with the square of the unit of pixels. The paper's unit is
        0..1, in which ImageNet's are 0.2175, 0.0188 and 0.0045. In 0..255, shifts would be hundreds of grey levels.
        """
        red, green, blue = 255 * (alphas * np.array(self.eigenvalues)) @ np.array(self.components)  # [3] @ [3, 3]
        return float(red), float(green), float(blue)


class ImageDataset(Dataset[Any]):
    """The samples of a set of images. ImageError is returned, not raised: torch would add a traceback."""

    def __init__(self, images: ImageSet, recipe: Recipe) -> None:
        self.images, self.recipe = images, recipe

    def __getitem__(self, key: Key) -> Example | ImageError:
        epoch, index = key
        path = self.images.path(index)
        try:
            values, shift = self.values_and_shift(decode(path), epoch, index)
            return Example(values, int(self.images.targets[index]), index, shift)
        except ImageError as error:
            return ImageError(f"{path}: {error}; repair or remove it")

    def values_and_shift(self, pixels: Images, epoch: int, index: int) -> tuple[npt.NDArray[Any], Triple]:
        """A sample's values and its RGB shift, from uint8 [height, width, 3]."""
        raise NotImplementedError

    def rescaled(self, pixels: Images, short_side: int) -> Images:
        # Only a crop goes through the network, so the size limit of inference does not apply.
        return rescale(pixels, short_side, RESCALING, MAX_DECODED_PIXELS)


class TrainCrops(ImageDataset):
    """uint8 [crop, crop, 3]: a random crop of the image rescaled to S, mirrored half of the time (section 3.1).

    The colour shift is kept apart from the crop, because adding it to bytes would round and clip it.
    """

    def __init__(self, images: ImageSet, recipe: Recipe, colours: Colours | None = None) -> None:
        super().__init__(images, recipe)
        self.colours = colours

    def values_and_shift(self, pixels: Images, epoch: int, index: int) -> tuple[Images, Triple]:
        scale, crop = self.recipe.train_scale, self.recipe.spec.crop
        random = np.random.default_rng((self.recipe.seed, epoch, 1 + index))
        scaled = self.rescaled(pixels, int(random.integers(scale.minimum, scale.maximum, endpoint=True)))
        top, left = (int(random.integers(side - crop, endpoint=True)) for side in scaled.shape[:2])
        window = scaled[top : top + crop, left : left + crop]  # [crop, crop, 3]
        view = mirrored(window) if self.recipe.mirror and random.random() < 0.5 else window
        if self.colours is None or not self.recipe.rgb_shift:
            return view, NO_SHIFT
        return view, self.colours.shift(random.normal(0.0, self.recipe.rgb_shift, 3))


class CentreCrops(ImageDataset):
    """uint8 [crop, crop, 3]: the centre of the image rescaled to S, or to the middle of its range."""

    def values_and_shift(self, pixels: Images, epoch: int, index: int) -> tuple[Images, Triple]:
        crop = self.recipe.spec.crop
        scaled = self.rescaled(pixels, self.recipe.train_scale.middle)
        top, left = centre_box(scaled.shape[0], scaled.shape[1], crop)
        return scaled[top : top + crop, left : left + crop], NO_SHIFT
