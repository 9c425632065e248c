"""Whether a runtime answers as the file says: its posteriors beside those of the file's exact evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from export.proof.answers.limits import answer_limit
from export.proof.layers.simulation import Simulation
from vgg_deploy.evaluation.proof import Table
from vgg_deploy.inference.engine import EngineInfo
from vgg_deploy.network.tensors import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How far a runtime's posteriors are from those of the file's exact evaluation.

    Attributes:
        runtime: its name and version.
        views: names of the views.
        differences: the largest difference of a posterior on each view.
        limits: for each of them; see `export.proof.answers.limits`.
        reading: what the nearest evaluation rounds to FP16. CPU runtimes compute FP16 in FP32 between casts.
    """

    runtime: str
    views: tuple[str, ...]
    differences: tuple[float, ...]
    limits: tuple[float, ...]
    reading: str

    @property
    def max_dp(self) -> float:
        """The largest difference; NaN if one is NaN."""
        return float(np.max(self.differences))

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong, as text; empty if nothing is."""
        worst = int(np.argmax([math.inf if math.isnan(share) else share for share in self._shares]))
        if self._shares[worst] <= 1:  # false for NaN
            return ()
        return (
            f"{self.runtime} does not answer as the file says: a posterior is {self.differences[worst]:.1e} from the "
            f"exact evaluation, limit {self.limits[worst]:.1g} ({self.views[worst]}); try another --runtime",
        )

    @property
    def _shares(self) -> list[float]:
        """Each view's difference as a share of its limit."""
        return [difference / limit for difference, limit in zip(self.differences, self.limits, strict=True)]

    @property
    def table(self) -> Table:
        """The differences, by view."""
        rows = tuple(
            (view, f"{difference:.1e}", f"{limit:.1e}")
            for view, difference, limit in zip(self.views, self.differences, self.limits, strict=True)
        )
        return Table("posteriors beside the exact evaluation of the file", ("view", "max |dp|", "limit"), rows)

    def as_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return {
            "max_dp": self.max_dp,
            "views": list(self.views),
            "differences": list(self.differences),
            "limits": list(self.limits),
            "reading": self.reading,
        }


@np.errstate(over="ignore", invalid="ignore")  # damaged weights give infinity and NaN, which are compared
def fidelity_of(info: EngineInfo, simulation: Simulation, received: Floats) -> Fidelity:
    """Compares posteriors with those of the nearest reading of the file.

    Args:
        info: of the runtime.
        simulation: the exact answers.
        received: its answers on the same views, float32 [views, classes].
    """
    nearest = simulation.nearest(received)  # [views, classes]
    differences = np.abs(nearest - received.astype(np.float64)).max(axis=1)  # [views]
    limit = answer_limit(info.manifest.precision.lowest, bf16=info.bf16, gpu=info.device.startswith("cuda"))
    (reading,) = (rounding.name.lower() for rounding, rows in simulation.readings.items() if rows is nearest)
    return Fidelity(
        runtime=info.runtime,
        views=simulation.views,
        differences=tuple(map(float, differences)),
        limits=tuple(map(float, limit.of(nearest))),
        reading=reading,
    )
