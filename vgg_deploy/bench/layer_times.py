"""Where an engine's time goes: a runtime's own profile by node, merged to the paper's layers."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vgg_deploy.bench.timing import BatchShape
from vgg_deploy.network.spec import NetworkSpec

INPUT, OTHER = "input", "other"
# Runtimes name what they fuse after one of the nodes in it, with words of their own before and behind: the first name that is
# one of our graph's counts. relu1_1 is conv1_1's.
_NAMES = re.compile(
    r"(?P<input>cast|subtract_mean|divide_std|transpose)|relu(?P<relu>\d(_\d)?)|conv\d_\d|fc[678]|pool\d|lrn\d|(?P<map>score_map)"
)


@dataclass(frozen=True, slots=True)
class LayerTime:
    """Time of a layer in one call.

    Attributes:
        layer: the paper's name; `input` for cast, mean and transposition; `other` for the spatial mean, soft-max and what the
            runtime adds between layers.
        ms: of all its nodes.
        share: of the sum over layers, 0..1.
        gflop: of the work in it; None where it has no products.
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
    found = _NAMES.search(node)
    if found is None:
        return OTHER
    if found["input"]:
        return INPUT
    if found["map"]:
        return "fc8"
    relu = found["relu"]
    if relu is None:
        return found[0]
    return f"conv{relu}" if "_" in relu else f"fc{relu}"


def by_layer(
    runs: Sequence[Mapping[str, float]], spec: NetworkSpec | None, shape: BatchShape, *, score_map: bool = False
) -> tuple[LayerTime, ...]:
    """Milliseconds by node's name, of several runs: the medians of the input, of the layers in the network's order, and of the rest.

    Layers that a runtime made part of others have no time of their own, and are left out.

    Args:
        score_map: whether the model gives it; fc8 then runs on every position, otherwise on their mean.
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
        _channels, high, wide = rows[-1].output
        work["fc8"] /= 1 if score_map else high * wide
    total = sum(medians.values()) or 1.0
    return tuple(
        LayerTime(layer, medians[layer], medians[layer] / total, work.get(layer))
        for layer in (INPUT, *names, OTHER)
        if layer in medians
    )
