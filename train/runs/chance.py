"""Whether a network has learned: whether its validation accuracy could be guessing."""

from __future__ import annotations

from vgg_deploy.evaluation.binomial import at_least

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
    guessed = images * largest_share  # at or below this, luck is the rule
    return right == images or (right > guessed and at_least(right, images, largest_share) < LUCK)
