"""Ranges for INT8, measured on real images: of each tensor a histogram that grows with what it meets, so that memory does not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from export.qdq import observed_inputs
from vgg_deploy.errors import VGGDeployError
from vgg_deploy.inference.engine import Scores
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import ACTIVATION, Floats, Images

Span = tuple[float, float]

_INPUT = ".input"

BINS = 4096  # at least half of them are in use, since the range that they cover only ever doubles
LEVELS = 128  # of a symmetric INT8 range, on each side of 0
PERCENTILE = 99.99  # of the values other than 0


def observe(model: onnx.ModelProto, spec: NetworkSpec, score_map: bool, *, largest: bool) -> None:
    """Adds outputs to an FP32 graph: the input of each node whose range is measured, as the activation `NAME.input`.

    With `largest`, also the largest absolute value of each layer with weights, before its ReLU, as its activation.
    """
    nodes = {node.name: node for node in model.graph.node}

    def give(name: str, operators: tuple[str, ...], tensor: str) -> None:
        for operator in operators:
            output = ACTIVATION + name if operator == operators[-1] else f"{name}/{operator}"
            options: dict[str, Any] = {"keepdims": 0} if operator == "ReduceMax" else {}
            model.graph.node.append(helper.make_node(operator, [tensor], [output], name=output, **options))
            tensor = output
        model.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))

    for name in observed_inputs(spec, score_map):
        give(f"{name}{_INPUT}", ("Identity",), nodes[name].input[0])
    for layer in spec.weight_layers if largest else ():
        give(layer.name, ("Abs", "ReduceMax"), nodes[layer.name].output[0])


class Extremes:
    """The largest values below and above 0."""

    def __init__(self) -> None:
        self.largest = (0.0, 0.0)  # below, above; both as positive numbers

    def add(self, values: Floats) -> None:
        """Takes float32 values of any shape into account.

        Raises:
            VGGDeployError: one is NaN or infinite.
        """
        low, high = float(values.min()), float(values.max())
        for value in (low, high):
            if not np.isfinite(value):
                raise VGGDeployError(f"{value} on a calibration image in float32 already: the weights are damaged")
        self.largest = (max(self.largest[0], -low), max(self.largest[1], high))

    def within(self, limit: float) -> Span:
        """From -limit to limit, less where nothing that large was met."""
        below, above = self.largest
        return (-min(below, limit) if below else 0.0, min(above, limit))


class Histogram(Extremes):
    """How often absolute values fall into equal bins, whose range doubles when a value passes it; zeros are left out.

    Zeros are left out since every range represents 0 exactly, and after a ReLU they are most of what there is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.limit = 2.0**-100  # where the last bin ends; a power of two, so that bins double without rounding
        self.counts = np.zeros(BINS, np.int64)

    def add(self, values: Floats) -> None:
        super().add(values)
        while max(self.largest) >= self.limit:
            self.counts = np.concatenate((self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)))
            self.limit *= 2
        bins = (np.abs(values[values != 0]) * np.float32(BINS / self.limit)).astype(np.int32)
        self.counts += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)

    def edge(self, bins: int) -> float:
        """The value where the first `bins` bins end, no larger than the largest that was met."""
        return min(bins * self.limit / BINS, max(self.largest))


def percentile(histogram: Histogram) -> float:
    """The limit within which all but the largest 0.01 % of the values other than 0 lie."""
    wanted = histogram.counts.sum() * PERCENTILE / 100
    return histogram.edge(int(np.searchsorted(histogram.counts.cumsum(), wanted)) + 1)


def entropy(histogram: Histogram) -> float:
    """The limit whose 128 levels lose the least information: the smallest Kullback-Leibler divergence.

    As S. Migacz describes it (8-bit inference with TensorRT, GTC 2017): what lies beyond the limit is counted in the last bin
    before it, and these bins are compared with what 128 levels make of them.
    """
    occupied = np.flatnonzero(histogram.counts)
    used = int(occupied[-1]) + 1 if occupied.size else 0
    step = max(1, used // 512)
    candidates = [*range(LEVELS, used, step), used]
    return histogram.edge(min(candidates, key=lambda bins: _divergence_at(histogram.counts, bins) if bins else 0.0))


def _divergence_at(counts: npt.NDArray[np.int64], bins: int) -> float:
    """Divergence of the first `bins` bins, with what lies beyond in the last, from what 128 levels make of them."""
    inside = counts[:bins].astype(np.float64)
    clipped = inside.copy()
    clipped[-1] += counts[bins:].sum()
    level = np.arange(bins) * LEVELS // bins
    sums = np.bincount(level, weights=inside, minlength=LEVELS)
    occupied = np.bincount(level, weights=inside > 0, minlength=LEVELS)
    spread = np.where(inside > 0, (sums / np.maximum(occupied, 1))[level], 0.0)
    p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1.0)
    met = p > 0
    return float((p[met] * np.log(p[met] / np.maximum(q[met], 1e-12))).sum())


@dataclass(frozen=True, slots=True)
class Measured:
    """What calibration gives.

    Attributes:
        spans: the range of each observed input, by its node's name.
        largest: the largest absolute value of each layer with weights, before its ReLU; empty where it was not asked for.
    """

    spans: Mapping[str, Span]
    largest: Mapping[str, float]


def measure(run: Callable[[Images], Scores], views: Iterable[Images], method: str) -> Measured:
    """Runs a graph with `observe`'s outputs over views.

    Args:
        run: an engine's.
        views: uint8 [n, h, w, 3], one call each; nothing of one is kept when the next comes.
        method: minmax, entropy or percentile.

    Raises:
        VGGDeployError: an activation is NaN or infinite.
    """
    met: dict[str, Extremes] = {}
    for images in views:
        for name, values in run(images).activations.items():
            counted = name.endswith(_INPUT) and method != "minmax"
            try:
                met.setdefault(name, Histogram() if counted else Extremes()).add(values)
            except VGGDeployError as error:
                raise VGGDeployError(f"{name} is {error}") from error
    spans = {name.removesuffix(_INPUT): _span(seen, method) for name, seen in met.items() if name.endswith(_INPUT)}
    largest = {name: max(seen.largest) for name, seen in met.items() if not name.endswith(_INPUT)}
    return Measured(spans, largest)


def _span(met: Extremes, method: str) -> Span:
    if not isinstance(met, Histogram) or not met.counts.any():
        return met.within(max(met.largest))
    return met.within({"entropy": entropy, "percentile": percentile}[method](met))
