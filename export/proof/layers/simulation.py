"""The posteriors of exactly one file, computed in numpy: what a runtime without any fault would answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.proof.layers.chain import Chain
from export.proof.layers.operators import Doubles
from export.proof.layers.pieces import CutFile
from export.proof.layers.value import Rounding
from vgg_deploy.evaluation.parity import NamedView


@dataclass(frozen=True, slots=True)
class Simulation:
    """The answers of one file in exact evaluation.

    Attributes:
        views: their names.
        readings: float64 [views, classes] for each right reading of the file. They differ in what is rounded to FP16. A
            file without FP16 has one.
    """

    views: tuple[str, ...]
    readings: Mapping[Rounding, Doubles]

    @property
    def rounded(self) -> Doubles:
        """With every FP16 tensor rounded, as the file says."""
        return self.readings[Rounding.FILE]

    def nearest(self, posteriors: npt.NDArray[Any]) -> Doubles:
        """The reading that is nearest to a runtime's posteriors, [views, classes]."""
        return min(self.readings.values(), key=lambda reading: _distance(reading, posteriors))


@np.errstate(over="ignore", invalid="ignore")  # damaged weights give infinity and NaN, which are compared
def _distance(reading: Doubles, posteriors: npt.NDArray[Any]) -> float:
    if reading.shape != posteriors.shape:
        return math.inf
    return float(np.nan_to_num(np.abs(reading - posteriors), nan=math.inf).max(initial=0))


@np.errstate(over="ignore", invalid="ignore")  # damaged weights give infinity and NaN, which are compared
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
    readings = {
        rounding: np.concatenate([rows[view] for view in range(len(views))])  # [views, classes]
        for rounding, rows in chain.posteriors.items()
    }
    return Simulation(tuple(view.name for view in views), readings)
