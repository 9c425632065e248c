"""The cost of INT8 layer by layer, and the fewest layers that must stay in floating point to meet a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.int8 import Calibration, Progress, Variants
from export.sample import ImageSample
from vgg_deploy.errors import UsageError, VGGDeployError
from vgg_deploy.evaluation.error_rates import label_by_folder as by_folders
from vgg_deploy.evaluation.parity import NamedView, posteriors
from vgg_deploy.inference.posteriors import agreement, divergence, top_k_error
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import Quantization
from vgg_deploy.network.tensors import Floats

_ROUNDING = 1e-9  # in percent, because 29 of 100 images compute to 28.999999999999996 %

RANKING_IMAGES = 32  # for ranking layers; a budget is judged on all held-out images


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """How quantizing one layer alone changes the answers.

    Attributes:
        layer: its name.
        divergence: mean Kullback-Leibler divergence from FP32, in nats.
        agreement: share of images with the same top-1 as FP32, in 0..1.
    """

    layer: str
    divergence: float
    agreement: float


@dataclass(frozen=True, slots=True)
class Budget:
    """What quantization may cost. Exactly one of the limits is set.

    Attributes:
        max_drop: largest drop of top-1 accuracy, in percentage points.
        min_agreement: smallest share of images with the same top-1 as FP32, in percent.
    """

    max_drop: float | None = None
    min_agreement: float | None = None

    def __post_init__(self) -> None:
        if (self.max_drop is None) == (self.min_agreement is None):
            raise UsageError("a budget needs exactly one of --max-drop and --min-agreement")
        if self.max_drop is not None and not 0 <= self.max_drop < 100:
            raise UsageError(f"--max-drop is {self.max_drop:g}; expected percentage points of top-1, such as 0.5")
        if self.min_agreement is not None and not 1 < self.min_agreement <= 100:
            raise UsageError(f"--min-agreement is {self.min_agreement:g}; expected percent, such as 99.5")

    def judge(self, reference: Floats, candidate: Floats, truth: npt.NDArray[np.int64] | None) -> tuple[bool, str]:
        """Whether posteriors [n, classes] meet the budget, and what they reach, as text. NaN never meets it."""
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
    """Images that calibration does not use, in the order of the sample.

    Attributes:
        views: one view of each image.
        truth: the index of the class of each image, [n]; None if the budget does not need it.
    """

    views: tuple[NamedView, ...]
    truth: npt.NDArray[np.int64] | None

    @staticmethod
    def of(sample: ImageSample, manifest: Manifest, *, labelled: bool) -> HeldOut:
        """Reads a sample whose protocol has a single view.

        Raises:
            UsageError: with `labelled`, the folder of an image names no class.
        """
        truth = by_folders(sample.paths, manifest).truth if labelled else None
        views = (NamedView(path.name, view[0]) for path, view in zip(sample.paths, sample.views(), strict=True))
        return HeldOut(tuple(views), truth)


class Int8Trials:
    """Compares networks with some layers in INT8 with the same network in FP32.

    Args:
        variants: opens the networks.
        calibration: their ranges.
        held_out: the images on which they are compared.
        progress: opens a progress bar, given a description and the number of steps.
    """

    def __init__(self, variants: Variants, calibration: Calibration, held_out: HeldOut, progress: Progress) -> None:
        self._variants, self._calibration, self._held_out = variants, calibration, held_out
        self._progress = progress
        self._reference: Floats | None = None

    def _expected(self, count: int) -> Floats:
        """Posteriors of FP32 on the first `count` images, [count, classes]; computed once."""
        if self._reference is None:
            with self._progress("FP32 reference", len(self._held_out.views)) as advance:
                self._reference = self._posteriors(None, len(self._held_out.views), advance)
        return self._reference[:count]  # [count, classes]

    def _posteriors(self, quantization: Quantization | None, count: int, advance: Callable[[], None]) -> Floats:
        with self._variants.open(quantization) as engine:
            return posteriors(engine, self._held_out.views[:count], advance)  # [count, classes]

    def sensitivities(self, images: int = RANKING_IMAGES) -> tuple[Sensitivity, ...]:
        """The sensitivity of each layer, in the network's order, on at most `images` images."""
        layers = self._calibration.candidates
        count = min(images, len(self._held_out.views))
        expected, sensitivities = self._expected(count), []  # [count, classes]
        with self._progress("quantizing each layer alone", count * len(layers)) as advance:
            for layer in layers:
                # [count, classes]
                received = self._posteriors(self._calibration.quantization({layer}), count, advance)
                if not np.isfinite(received).all():
                    raise VGGDeployError(f"with {layer} alone in INT8, posteriors are NaN, so it cannot be ranked")
                sensitivities.append(Sensitivity(layer, divergence(expected, received), agreement(expected, received)))
        return tuple(sensitivities)

    def fewest_kept(self, ranked: Sequence[Sensitivity], budget: Budget) -> Quantization:
        """The quantization that meets the budget with the fewest layers in floating point, the most sensitive first.

        Raises:
            VGGDeployError: even a single layer in INT8 exceeds the budget.
        """
        order = [row.layer for row in sorted(ranked, key=lambda row: row.divergence, reverse=True)]
        expected = self._expected(len(self._held_out.views))  # [images, classes]
        reached = ""
        for count in range(len(order)):
            quantization = self._calibration.quantization(order[count:])
            description = f"{count} layers in floating point" if count else "every layer in INT8"
            with self._progress(description, len(expected)) as advance:
                received = self._posteriors(quantization, len(expected), advance)  # [images, classes]
            met, reached = budget.judge(expected, received, self._held_out.truth)
            if met:
                return self._calibration.quantization(order[count:], reached)
        raise VGGDeployError(
            f"no layer can be INT8 within the budget: even with {order[-1]} alone, {reached}; give a looser budget"
        )
