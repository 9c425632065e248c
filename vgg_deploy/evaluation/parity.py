"""Whether two engines give the same posteriors on the same views, within one table of thresholds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vgg_deploy.errors import UsageError
from vgg_deploy.evaluation.binomial import at_least
from vgg_deploy.inference.engine import Engine
from vgg_deploy.inference.posteriors import agreement, divergence, margins, top_k
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.tensors import Floats, Images


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Limits on the figures of a comparison. NaN exceeds every limit.

    Attributes:
        max_dp: largest difference of any posterior of any view, in 0..1.
        mean_dp: mean absolute difference of the posteriors.
        divergence: mean Kullback-Leibler divergence, in nats.
        agreement: smallest share of views with the same most probable class, in 0..1. It fails only if the clear
            changes are more than chance gives at this share; see `Parity.failures`.
    """

    max_dp: float
    mean_dp: float
    divergence: float
    agreement: float


THRESHOLDS = {
    # Both sides compute the same sums in different orders. On 600 views of trained networks this moves a posterior by
    # up to 2.5e-6, and by up to 4.5e-6 with Winograd's convolutions. The limit is too small to change the top-1 class,
    # except in a tie.
    "float32": Thresholds(max_dp=2e-5, mean_dp=1e-6, divergence=1e-6, agreement=0.995),
    # An 11-bit significand through 16 layers: each rounds by up to 2^-11 = 5e-4 of its value, and most errors cancel. A
    # posterior near 0.5 moves most. If the first two classes are closer than that, they may swap, so the top-1 class of
    # 1 view in 200 may change.
    "float16": Thresholds(max_dp=0.03, mean_dp=2e-3, divergence=1e-3, agreement=0.995),
    # Eight bits for each activation and weight: steps of 0.4 to 0.8 % of a tensor's largest value, in every layer. The
    # posteriors of a trained VGG-16 move by up to 0.21 on 400 images, by 9e-4 on average, with a divergence of 1e-3.
    # Networks with random weights are never sure of a class, so their posteriors move ten times as much on average.
    # The largest change of a single posterior says more of the image than of the file, so it has no limit.
    "int8": Thresholds(max_dp=1.0, mean_dp=0.015, divergence=0.02, agreement=0.985),
}


_BY_LOOSENESS = tuple(THRESHOLDS)


def looser(*precisions: str) -> str:
    """The row of `THRESHOLDS` for a comparison of files in these precisions: that of the lowest of them."""
    return max(precisions, key=_BY_LOOSENESS.index)


# A view is a near-tie if its first class leads by less than both this and `Thresholds.max_dp`: rounding may flip it.
NEAR_TIE = 0.1
# The agreement fails if so many clear changes have less than this probability in a file that just meets the limit.
SIGNIFICANCE = 0.01


@dataclass(frozen=True, slots=True)
class NamedView:
    """An image to compare on: its pixels, uint8 [h, w, 3], and its name in reports."""

    name: str
    pixels: Images


@dataclass(frozen=True, slots=True)
class Flip:
    """A view whose most probable class changed. `margin` is that class's lead in the reference, in 0..1."""

    view: str
    reference: ClassName
    candidate: ClassName
    margin: float


@dataclass(frozen=True, slots=True)
class Parity:
    """How far the posteriors of a candidate are from those of a reference. `Thresholds` describes the other figures.

    Attributes:
        view_count: how many views were compared.
        worst: index of the view with the largest difference, or of the first view with NaN.
        flips: views whose most probable class changed, except views with NaN.
    """

    view_count: int
    max_dp: float
    mean_dp: float
    divergence: float
    agreement: float
    worst: int
    flips: tuple[Flip, ...]

    def failures(self, thresholds: Thresholds) -> tuple[str, ...]:
        """The limits that are exceeded, as text; empty if none is.

        A change of the most probable class is clear unless the view is a near-tie. On a few views, one clear change is
        no evidence against an agreement of 98.5 %: one of 16 is 6 %, for any network.
        """
        failed = []
        for name in ("max_dp", "mean_dp", "divergence"):
            value, limit = getattr(self, name), getattr(thresholds, name)
            if not value <= limit:  # true for NaN too
                failed.append(f"{name} {above(value, limit)}" if math.isfinite(value) else f"{name} is {value}")
        clear = sum(flip.margin >= min(NEAR_TIE, thresholds.max_dp) for flip in self.flips)
        if not math.isfinite(self.agreement):
            failed.append(f"top-1 agreement {self.agreement:.2%} < {thresholds.agreement:.1%}")
        elif at_least(clear, self.view_count, 1 - thresholds.agreement) < SIGNIFICANCE:
            failed.append(f"top-1 agreement {self.agreement:.2%} < {thresholds.agreement:.1%}, {clear} clear changes")
        return tuple(failed)


def above(value: float, limit: float) -> str:
    """A figure and the limit that it exceeds, as text, with enough digits to tell them apart."""
    texts = (f"{value:.{digits}g}" for digits in range(2, 18))
    return f"{next((text for text in texts if float(text) > limit), value)} > {limit:g}"


def posteriors(engine: Engine, views: Sequence[NamedView], progress: Callable[[], None] = lambda: None) -> Floats:
    """An engine's posteriors, float32 [views, classes]. It runs one view per call, and calls `progress` after each."""
    rows = []
    for view in views:
        rows.append(engine.run(view.pixels[None]).probabilities[0])  # [1, h, w, 3] -> [classes]
        progress()
    return np.stack(rows)


def compare(reference: Floats, candidate: Floats, names: Sequence[str], classes: Sequence[ClassName]) -> Parity:
    """The figures of two sets of posteriors.

    Args:
        reference, candidate: float32 [views, classes].
        names: of the views, for reports.
        classes: of both networks.

    Raises:
        UsageError: the numbers of classes differ, or there is no view.
    """
    if reference.shape != candidate.shape:
        raise UsageError(
            f"the reference gives {reference.shape[1]} classes and the candidate {candidate.shape[1]}; "
            "they are different networks"
        )
    if len(reference) == 0:
        raise UsageError("there is no view to compare; give at least one image")
    difference = np.abs(reference.astype(np.float64) - candidate)  # [views, classes]
    per_view = difference.max(axis=1)  # [views]
    broken = ~np.isfinite(per_view)  # [views]
    worst = int(broken.argmax()) if broken.any() else int(per_view.argmax())
    before, after = top_k(reference, 1)[:, 0], top_k(candidate, 1)[:, 0]  # [views]
    lead = margins(reference)  # [views]
    flips = tuple(
        Flip(names[view], classes[before[view]], classes[after[view]], float(lead[view]))
        for view in np.flatnonzero((before != after) & ~broken).tolist()
    )
    return Parity(
        view_count=len(reference),
        max_dp=float(difference.max()),
        mean_dp=float(difference.mean()),
        divergence=divergence(reference, candidate) if not broken.any() else float("nan"),
        agreement=agreement(reference, candidate) if not broken.any() else float("nan"),
        worst=worst,
        flips=flips,
    )


def furthest(reference: Floats, candidates: Sequence[Floats]) -> Floats:
    """The candidate with the largest difference from the reference; NaN counts as the largest.

    Args:
        reference: float32 [views, classes].
        candidates: at least one, each float32 [views, classes].
    """

    def distance(rows: Floats) -> float:
        if rows.shape != reference.shape:
            return math.inf
        return float(np.nan_to_num(np.abs(reference - rows), nan=math.inf).max())

    return max(candidates, key=distance)
