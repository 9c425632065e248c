"""Whether a runtime answers as the file says: its posteriors beside those of the file's exact evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from export.proof.simulation import Simulation
from vgg_deploy.evaluation.proof import Table
from vgg_deploy.inference.engine import EngineInfo
from vgg_deploy.network.precision import FLOAT16, FLOAT32, INT8
from vgg_deploy.network.tensors import Floats

# The largest difference of a posterior from the exact evaluation of the same file. In INT8, a value between two
# levels may be rounded either way, and the difference grows from layer to layer.
ANSWER_LIMITS = {FLOAT32: 1e-5, FLOAT16: 1e-5, INT8: 0.02}
_BF16_LIMIT = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How far a runtime's posteriors are from those of the file's exact evaluation.

    Attributes:
        runtime: its name and version.
        views: names of the views.
        differences: the largest difference of a posterior on each view.
        limit: for each of them.
        reading: what the nearest evaluation rounds to FP16. CPU runtimes compute FP16 in FP32 between casts.
    """

    runtime: str
    views: tuple[str, ...]
    differences: tuple[float, ...]
    limit: float
    reading: str

    @property
    def max_dp(self) -> float:
        """The largest difference; NaN if one is NaN."""
        return float(np.max(self.differences))

    @property
    def failures(self) -> tuple[str, ...]:
        """What is wrong, as text; empty if nothing is."""
        if self.max_dp <= self.limit:  # false for NaN
            return ()
        worst = self.views[int(np.argmax(np.nan_to_num(self.differences, nan=np.inf)))]
        return (
            f"{self.runtime} does not answer as the file says: a posterior is {self.max_dp:.1e} from the exact "
            f"evaluation, limit {self.limit:g} ({worst}); try another --runtime",
        )

    @property
    def table(self) -> Table:
        """The differences, by view."""
        rows = tuple(
            (view, f"{difference:.1e}", f"{self.limit:g}")
            for view, difference in zip(self.views, self.differences, strict=True)
        )
        return Table("posteriors beside the exact evaluation of the file", ("view", "max |dp|", "limit"), rows)

    def as_json(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return {
            "max_dp": self.max_dp,
            "limit": self.limit,
            "views": dict(zip(self.views, self.differences, strict=True)),
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
    (reading,) = (rounding.name.lower() for rounding, rows in simulation.readings.items() if rows is nearest)
    return Fidelity(
        runtime=info.runtime,
        views=simulation.views,
        differences=tuple(map(float, differences)),
        limit=_BF16_LIMIT if info.bf16 else ANSWER_LIMITS[info.manifest.precision.lowest],
        reading=reading,
    )
