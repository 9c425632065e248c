"""How much the answers of timed models differ from PyTorch's. Tables show it next to every speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from vgg_deploy.bench.batches import ImageBatch
from vgg_deploy.bench.turns import timed_pass
from vgg_deploy.evaluation.parity import Parity
from vgg_deploy.network.tensors import Floats
from vgg_deploy.views.protocols import Protocol

COLUMNS = ("top-1 agreement", "max dp")
NOTHING = ("-", "-")  # if there is no answer to compare
AGREEMENT = (
    "Agreement and max dp compare the answers with PyTorch in FP32 (train/network/reference.py); max dp is the largest "
    "difference of a posterior. Shown is the turn that differs most."
)


class ReferenceAnswers:
    """PyTorch's answers to a batch, or to image files under a protocol: posteriors float32 [images, classes]."""

    def __init__(self, checkpoint: Path) -> None:
        from train.network.checkpoint import read
        from train.network.reference import Reference

        self._engine = Reference(read(checkpoint))

    def __call__(self, task: ImageBatch | Sequence[Path], protocol: Protocol | None = None) -> Floats:
        if isinstance(task, ImageBatch):
            return self._engine.run(task.images).probabilities[: task.distinct]
        assert protocol is not None
        turn = timed_pass(self._engine, task, protocol)
        if turn.failures:
            raise ValueError(turn.failures[0])
        return turn.answers[0]


def cells(parity: Parity) -> tuple[str, str]:
    """The cells for `COLUMNS`: "11 of 12 (lead lost: 0.02)", "0.03"."""
    if math.isnan(parity.agreement):
        return "NaN", "NaN"
    agreed = f"{round(parity.agreement * parity.view_count)} of {parity.view_count}"
    if parity.flips:
        agreed += f" (lead lost: {max(flip.margin for flip in parity.flips):.2g})"
    return agreed, f"{parity.max_dp:.1g}"
