"""Whether a runtime answers as the file says: its posteriors beside those of the file's exact evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from export.proof.layer_limits import answer_limit
from export.proof.simulation import Simulation
from vgg_deploy.evaluation.proof import Table
from vgg_deploy.inference.engine import EngineInfo
from vgg_deploy.network.tensors import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Fidelity:
    """How far a runtime's posteriors are from those of the file's exact evaluation.

    Attributes:
        runtime: its name and version.
        views: names of the views.
        max_dp: the largest difference of a posterior on each view.
        limit: for each of them.
        rounded: whether FP16 activations were rounded in the evaluation. A CPU runtime may compute either way.
    """

    runtime: str
    views: tuple[str, ...]
    differences: tuple[float, ...]
    limit: float
    rounded: bool

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
            "activations_rounded": self.rounded,
        }


def fidelity_of(info: EngineInfo, simulation: Simulation, received: Floats) -> Fidelity:
    """Compares posteriors with those of the nearer of the two ways in which a runtime may compute FP16.

    Args:
        info: of the runtime.
        simulation: the exact answers.
        received: its answers on the same views, float32 [views, classes].
    """
    rounded = _differences(simulation.rounded, received)  # [views]
    others = rounded if simulation.unrounded is None else _differences(simulation.unrounded, received)  # [views]
    nearer = rounded if not others.max() < rounded.max() else others
    return Fidelity(
        runtime=info.runtime,
        views=simulation.views,
        differences=tuple(map(float, nearer)),
        limit=answer_limit(info.runtime.partition(" ")[0], info.manifest.precision, bf16=info.bf16),
        rounded=nearer is rounded,
    )


def _differences(exact: np.ndarray[Any, Any], received: Floats) -> np.ndarray[Any, Any]:
    differences: np.ndarray[Any, Any] = np.abs(exact - received.astype(np.float64)).max(axis=1)  # [views]
    return differences
