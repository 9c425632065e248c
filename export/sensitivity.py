"""What INT8 costs layer by layer, and the fewest layers that must stay in floating point to meet a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.int8 import Calibration, Progress, Variants
from export.sample import Sample
from vgg_deploy.errors import UsageError, VGGDeployError
from vgg_deploy.evaluation.error_rates import label_by_folder as by_folders
from vgg_deploy.evaluation.parity import NamedView, posteriors
from vgg_deploy.inference.posteriors import agreement, divergence, top_k_error
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import Quantization
from vgg_deploy.network.tensors import Floats

_ROUNDING = 1e-9  # percent: 29 of 100 images are 28.999999999999996 %

RANKING_IMAGES = 32  # on which layers are ranked; the budget is judged on all that are held out


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What quantizing one layer alone does to the answers.

    Attributes:
        layer: its name.
        divergence: mean Kullback-Leibler divergence from FP32, in nats.
        agreement: share of images with the same top-1, in 0..1.
    """

    layer: str
    divergence: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Budget:
    """What quantization may cost; one of the two is set.

    Attributes:
        max_drop: of top-1 accuracy, in percentage points.
        min_agreement: of top-1 with FP32, in percent.
    """

    max_drop: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        if (self.max_drop is None) == (self.min_agreement is None):
            raise UsageError("a budget is --max-drop or --min-agreement, one of the two")
        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise UsageError(f"--max-drop is {self.max_drop:g}; expected percentage points of top-1, such as 0.5")
        if self.min_agreement is not None and not 1 < self.min_agreement <= 100:
            raise UsageError(f"--min-agreement is {self.min_agreement:g}; expected percent, such as 99.5")

    def judge(self, reference: Floats, candidate: Floats, truth: npt.NDArray[np.int64] | None) -> tuple[bool, str]:
        """Whether posteriors [n, classes] meet it, and what they reach, in words. NaN meets nothing."""
        images = f"on {len(reference)} images"
        if self.min_agreement is not None:
            percent = 100 * agreement(reference, candidate) if np.isfinite(candidate).all() else float("nan")
            return (
                percent >= self.min_agreement - _ROUNDING,
                f"agreement {percent:.2f} % (at least {self.min_agreement:g}) {images}",
            )
        assert self.max_drop is not None
        assert truth is not None
        drop = 100 * (top_k_error(candidate, truth, 1) - top_k_error(reference, truth, 1))
        if not np.isfinite(candidate).all():
            drop = float("nan")
        return drop <= self.max_drop + _ROUNDING, f"top-1 drop {drop:.2f} points (at most {self.max_drop:g}) {images}"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Images not used for calibration, in the order of the sample.

    Attributes:
        views: one of each image.
        truth: their classes' indices; None where the budget does not need them.
    """

    views: tuple[NamedView, ...]
    truth: npt.NDArray[np.int64] | None

    @staticmethod
    def of(sample: Sample, manifest: Manifest, *, labelled: bool) -> HeldOut:
        """Reads a sample whose protocol has one view.

        Raises:
            UsageError: with `labelled`, an image's folder names no class.
        """
        truth = by_folders(sample.paths, manifest.classes).truth if labelled else None
        views = (NamedView(path.name, view[0]) for path, view in zip(sample.paths, sample.views(), strict=True))
        return HeldOut(tuple(views), truth)


class Judge:
    """Holds networks with some layers in INT8 against the same network in FP32.

    Args:
        variants: the networks.
        calibration: their ranges.
        held_out: what is compared on.
        progress: a progress bar's maker: what is done, and of how many steps.
    """

    def __init__(self, variants: Variants, calibration: Calibration, held_out: HeldOut, progress: Progress) -> None:
        self._variants, self._calibration, self._held_out = variants, calibration, held_out
        self._progress = progress
        self._reference: Floats | None = None

    def _expected(self, count: int) -> Floats:
        """FP32's posteriors of the first `count` images; computed once, for all."""
        if self._reference is None:
            with self._progress("FP32 reference", len(self._held_out.views)) as advance:
                self._reference = self._posteriors(None, len(self._held_out.views), advance)
        return self._reference[:count]

    def _posteriors(self, quantization: Quantization | None, count: int, advance: Callable[[], None]) -> Floats:
        with self._variants.open(quantization) as engine:
            return posteriors(engine, self._held_out.views[:count], advance)

    def sensitivities(self, images: int = RANKING_IMAGES) -> tuple[Sensitivity, ...]:
        """Each layer quantized alone, in the network's order, on at most so many images."""
        layers = self._calibration.candidates
        count = min(images, len(self._held_out.views))
        expected, found = self._expected(count), []
        with self._progress("quantizing each layer alone", count * len(layers)) as advance:
            for layer in layers:
                received = self._posteriors(self._calibration.quantization({layer}), count, advance)
                if not np.isfinite(received).all():
                    raise VGGDeployError(f"{layer} alone in INT8 gives NaN")
                found.append(Sensitivity(layer, divergence(expected, received), agreement(expected, received)))
        return tuple(found)

    def fewest_kept(self, ranked: Sequence[Sensitivity], budget: Budget) -> Quantization:
        """The quantization that keeps the fewest layers in floating point, the most sensitive first, and meets the budget.

        Raises:
            VGGDeployError: even one layer in INT8 passes it.
        """
        order = [row.layer for row in sorted(ranked, key=lambda row: row.divergence, reverse=True)]
        expected = self._expected(len(self._held_out.views))
        reached = ""
        for count in range(len(order)):
            quantization = self._calibration.quantization(order[count:])
            what = f"{count} layers in floating point" if count else "every layer in INT8"
            with self._progress(what, len(expected)) as advance:
                received = self._posteriors(quantization, len(expected), advance)
            met, reached = budget.judge(expected, received, self._held_out.truth)
            if met:
                return self._calibration.quantization(order[count:], reached)
        raise VGGDeployError(f"no layer can be INT8 within the budget: with {order[-1]} alone, {reached}")
