"""Where an engine's time goes: a runtime's own profile by node, merged into the paper's layers."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.network.spec import NetworkSpec

INPUT, OTHER = "input", "other"
# A runtime names a fused node after one of its nodes, with its own prefix and suffix. We look for the first name of a
# node of our graph. relu1_1 belongs to conv1_1.
_NAMES = re.compile(
    r"(?P<input>cast|subtract_mean|divide_std|transpose)|relu(?P<relu>\d(_\d)?)"
    r"|conv\d_\d|fc[678]|pool\d|lrn\d|(?P<map>score_map)"
)


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Time of a layer in one call.

    Attributes:
        layer: the paper's name; `input` for cast, mean and transposition; `other` for the spatial mean, the soft-max
            and what the runtime adds between layers.
        ms: the time of all its nodes.
        share: of the sum over layers, 0..1.
        gflop: its work; None if it has no products.
    """

    layer: str
    ms: float
    share: float
    gflop: float | None

    @property
    def gflops_per_s(self) -> float | None:
        return None if self.gflop is None or self.ms == 0 else 1000 * self.gflop / self.ms


def layer_of(node: str) -> str:
    """The layer that a runtime's node belongs to: 'conv1_2/WithoutBiases' and 'relu1_2_nchwc' to conv1_2."""
    name = _NAMES.search(node)
    if name is None:
        return OTHER
    if name["input"]:
        return INPUT
    if name["map"]:
        return "fc8"
    relu = name["relu"]
    if relu is None:
        return name[0]
    return f"conv{relu}" if "_" in relu else f"fc{relu}"


def by_layer(
    runs: Sequence[Mapping[str, float]], spec: NetworkSpec | None, shape: BatchShape, *, score_map: bool = False
) -> tuple[LayerTime, ...]:
    """Medians over several runs: the input, the layers in the network's order, and the rest.

    A layer that a runtime fused into another has no separate time, and is left out.

    Args:
        runs: for each run, milliseconds by node name.
        score_map: whether the model has this output. fc8 then runs at every position, otherwise once, on their mean.
    """
    merged: list[dict[str, float]] = []
    for run in runs:
        times: dict[str, float] = {}
        for node, ms in run.items():
            layer = layer_of(node)
            times[layer] = times.get(layer, 0.0) + ms
        merged.append(times)
    medians = {
        layer: statistics.median(run.get(layer, 0.0) for run in merged)
        for layer in dict.fromkeys(layer for run in merged for layer in run)
    }
    work: dict[str, float] = {}
    names = [layer for layer in medians if layer not in (INPUT, OTHER)]
    if spec is not None:
        rows = spec.statistics(shape.height, shape.width)
        names = [row.layer.name for row in rows]
        work = {row.layer.name: 2 * shape.images * row.macs / 1e9 for row in rows if row.macs}
        _channels, map_rows, map_columns = rows[-1].output
        work["fc8"] /= 1 if score_map else map_rows * map_columns
    total = sum(medians.values()) or 1.0
    return tuple(
        LayerTime(layer, medians[layer], medians[layer] / total, work.get(layer))
        for layer in (INPUT, *names, OTHER)
        if layer in medians
    )
