"""The posteriors of exactly one file, computed in numpy: what a runtime without any fault would answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.proof.chain import Chain
from export.proof.operators import Doubles
from export.proof.pieces import CutFile
from vgg_deploy.evaluation.parity import NamedView


@dataclass(frozen=True, slots=True)
class Simulation:
    """The answers of one file in exact evaluation.

    Attributes:
        views: their names.
        rounded: float64 [views, classes], with every FP16 tensor rounded as the file says.
        unrounded: the same without rounding FP16 activations, as CPU runtimes compute; None for a file without FP16.
    """

    views: tuple[str, ...]
    rounded: Doubles
    unrounded: Doubles | None


def simulate(path: Path, views: Sequence[NamedView], progress: Callable[[], None] = lambda: None) -> Simulation:
    """Evaluates a file on views; for a file whose layers no runtime here can compute alone, such as that of a plan.

    Args:
        progress: called after each layer.

    Raises:
        ModelFileError: the file is damaged, or has nodes that `export` does not write.
    """
    chain = Chain(CutFile(path), views)
    for cut in chain.cuts:
        for index in range(len(views)):
            chain.advance(cut, index)
        progress()
    return simulation_of(chain, views)


def simulation_of(chain: Chain, views: Sequence[NamedView]) -> Simulation:
    """The simulation of a chain that has been evaluated to its end."""
    order = range(len(views))
    rounded = np.concatenate([chain.rounded[view] for view in order])  # [views, classes]
    unrounded = np.concatenate([chain.unrounded[view] for view in order]) if chain.has_half else None
    return Simulation(tuple(view.name for view in views), rounded, unrounded)
