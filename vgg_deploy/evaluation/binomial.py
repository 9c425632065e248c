"""The binomial distribution: how often something happens by chance in independent trials."""

from __future__ import annotations

import math


def at_least(count: int, trials: int, share: float) -> float:
    """The probability of `count` or more successes.

    Args:
        count, trials: 0 or more; `count` is not above `trials`.
        share: the probability of one success, above 0.
    """
    if share >= 1 or count == 0:
        return 1.0

    def exactly(successes: int) -> float:
        ways = math.lgamma(trials + 1) - math.lgamma(successes + 1) - math.lgamma(trials - successes + 1)
        return math.exp(ways + successes * math.log(share) + (trials - successes) * math.log1p(-share))

    return math.fsum(map(exactly, range(count, trials + 1)))
