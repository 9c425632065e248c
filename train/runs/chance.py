"""Whether a network has learned: whether its validation accuracy could be guessing."""

from __future__ import annotations

import math

LUCK = 0.01  # a network has learned if guessing gets as many images right in fewer validations than this


def beats_chance(top1: float, images: int, largest_share: float) -> bool:
    """Whether guessing would get as many images right in less than one of a hundred validations.

    Guessing means to be right for each image with the probability `largest_share`, as a network is that always answers
    the largest class. The number of right answers is then binomial. A network that is right everywhere has learned,
    even if the images are too few for that bound.

    Args:
        top1: fraction of the validation images that the network gets right, 0..1.
        images: the number of validation images.
        largest_share: fraction of them in the largest class, 0..1.
    """
    right = round(top1 * images)
    return right == images or _tail(right, images, largest_share) < LUCK


def _tail(right: int, images: int, share: float) -> float:
    """The probability of at least `right` successes in `images` trials."""
    if right <= images * share:
        return 1.0
    return math.fsum(math.exp(_log_probability(count, images, share)) for count in range(right, images + 1))


def _log_probability(count: int, images: int, share: float) -> float:
    ways = math.lgamma(images + 1) - math.lgamma(count + 1) - math.lgamma(images - count + 1)
    return ways + count * math.log(share) + (images - count) * math.log1p(-share)
