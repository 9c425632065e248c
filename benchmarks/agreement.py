"""How far the answers of what was timed are from PyTorch's: what stands beside the speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.straightforward import Run
from vgg_deploy.evaluation.parity import Parity, compare, furthest
from vgg_deploy.inference.prediction import Failure, predict
from vgg_deploy.network.classes import ClassName
from vgg_deploy.network.tensors import Floats
from vgg_deploy.views.protocols import Protocol

REFERENCE = "PyTorch in FP32 (train/network/reference.py)"
COLUMNS = ("top-1 agreement", "max dp")
NOTHING = ("-", "-")  # where there is no answer to compare


def reference(checkpoint: Path) -> Run:
    """For `ours.Turn`: what is right of a batch."""
    from train.network.checkpoint import read
    from train.network.reference import Reference

    engine = Reference(read(checkpoint))
    return lambda images: engine.run(images).probabilities


class Judge:
    """For a `Contestant`: image files and a protocol -> what is right of them, posteriors [n, classes]."""

    def __init__(self, checkpoint: Path) -> None:
        from train.network.checkpoint import read
        from train.network.reference import Reference

        self._engine = Reference(read(checkpoint))

    def __call__(self, paths: Sequence[Path], protocol: Protocol) -> Floats:
        results = list(predict(self._engine, paths, protocol))
        failed = [result for result in results if isinstance(result, Failure)]
        if failed:
            raise ValueError(f"{failed[0].path}: {failed[0].reason}")
        return np.stack([result.probabilities for result in results if not isinstance(result, Failure)])


def compared(wanted: Floats, answers: Sequence[Floats], classes: Sequence[ClassName]) -> Parity:
    """Of the answers that one configuration gave to the same images, time after time, those that are furthest from what is right."""
    return compare(wanted, furthest(wanted, answers), [str(index) for index in range(len(wanted))], classes)


def cells(parity: Parity) -> tuple[str, str]:
    """For `COLUMNS`: "11 of 12 (lead lost: 0.02)", "0.03"."""
    if math.isnan(parity.agreement):
        return "NaN", "NaN"
    agreed = f"{round(parity.agreement * parity.views)} of {parity.views}"
    if parity.flips:
        agreed += f" (lead lost: {max(flip.margin for flip in parity.flips):.2g})"
    return agreed, f"{parity.max_dp:.1g}"
