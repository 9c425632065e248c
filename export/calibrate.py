"""Ranges for INT8, measured on real images with histograms, so memory does not grow with the number of images."""

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

BINS = 4096  # at least half of them are in use, because their range only doubles
LEVELS = 128  # of a symmetric INT8 range, on each side of 0
PERCENTILE = 99.99  # of the values other than 0


def observe(model: onnx.ModelProto, spec: NetworkSpec, score_map: bool, *, largest: bool) -> None:
    """Adds outputs to an FP32 graph: the input of each node whose range is measured, as the activation `NAME.input`.

    With `largest`, it also adds the largest absolute value of each layer with weights, before its ReLU, as the
    activation of that layer.
    """
    nodes = {node.name: node for node in model.graph.node}

    def add_output(name: str, operators: tuple[str, ...], tensor: str) -> None:
        for operator in operators:
            output = ACTIVATION + name if operator == operators[-1] else f"{name}/{operator}"
            options: dict[str, Any] = {"keepdims": 0} if operator == "ReduceMax" else {}
            model.graph.node.append(helper.make_node(operator, [tensor], [output], name=output, **options))
            tensor = output
        model.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))

    for name in observed_inputs(spec, score_map):
        add_output(f"{name}{_INPUT}", ("Identity",), nodes[name].input[0])
    for layer in spec.weight_layers if largest else ():
        add_output(layer.name, ("Abs", "ReduceMax"), nodes[layer.name].output[0])


class Extremes:
    """The largest values below and above 0 so far."""

    def __init__(self) -> None:
        self.largest = (0.0, 0.0)  # below and above 0, both as positive numbers

    def add(self, values: Floats) -> None:
        """Adds float32 values of any shape.

        Raises:
            VGGDeployError: a value is NaN or infinite.
        """
        low, high = float(values.min()), float(values.max())
        for value in (low, high):
            if not np.isfinite(value):
                raise VGGDeployError(f"{value} on a calibration image even in float32: the weights are damaged")
        self.largest = (max(self.largest[0], -low), max(self.largest[1], high))

    def within(self, limit: float) -> Span:
        """From -limit to limit, or closer to 0 on a side whose values stay below the limit."""
        below, above = self.largest
        return (-min(below, limit) if below else 0.0, min(above, limit))


class Histogram(Extremes):
    """Counts of absolute values in equal bins, whose range doubles when a value exceeds it.

    Zeros are not counted: every range represents 0 exactly, and after a ReLU most values are 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.limit = 2.0**-100  # the end of the last bin; a power of two, so doubling is exact
        self.counts = np.zeros(BINS, np.int64)

    def add(self, values: Floats) -> None:
        super().add(values)
        while max(self.largest) >= self.limit:
            merged = self.counts.reshape(-1, 2).sum(1)  # [BINS / 2]
            self.counts = np.concatenate((merged, np.zeros(BINS // 2, np.int64)))  # [BINS]
            self.limit *= 2
        bins = (np.abs(values[values != 0]) * np.float32(BINS / self.limit)).astype(np.int32)
        self.counts += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)

    def edge(self, bins: int) -> float:
        """The upper edge of the first `bins` bins, but at most the largest value so far."""
        return min(bins * self.limit / BINS, max(self.largest))


def percentile(histogram: Histogram) -> float:
    """The limit below which 99.99 % of the values other than 0 lie."""
    count = histogram.counts.sum() * PERCENTILE / 100
    return histogram.edge(int(np.searchsorted(histogram.counts.cumsum(), count)) + 1)


def entropy(histogram: Histogram) -> float:
    """The limit whose 128 levels lose the least information, measured by the Kullback-Leibler divergence.

    As in S. Migacz, 8-bit inference with TensorRT, GTC 2017: values beyond the limit are counted in the last bin before
    it, and these bins are compared with their approximation by 128 levels.
    """
    occupied = np.flatnonzero(histogram.counts)
    used = int(occupied[-1]) + 1 if occupied.size else 0
    step = max(1, used // 512)
    candidates = [*range(LEVELS, used, step), used]
    return histogram.edge(min(candidates, key=lambda bins: _divergence_at(histogram.counts, bins) if bins else 0.0))


def _divergence_at(counts: npt.NDArray[np.int64], bins: int) -> float:
    """Divergence of the first `bins` bins, the last of which counts all values beyond, from 128 levels."""
    inside = counts[:bins].astype(np.float64)  # [bins]
    clipped = inside.copy()
    clipped[-1] += counts[bins:].sum()
    level = np.arange(bins) * LEVELS // bins  # [bins], the level of each bin
    sums = np.bincount(level, weights=inside, minlength=LEVELS)  # [LEVELS]
    occupied = np.bincount(level, weights=inside > 0, minlength=LEVELS)  # [LEVELS]
    spread = np.where(inside > 0, (sums / np.maximum(occupied, 1))[level], 0.0)  # [bins]
    p, q = clipped / clipped.sum(), spread / max(spread.sum(), 1.0)
    nonzero = p > 0
    return float((p[nonzero] * np.log(p[nonzero] / np.maximum(q[nonzero], 1e-12))).sum())


@dataclass(frozen=True, slots=True)
class MeasuredRanges:
    """What calibration measured.

    Attributes:
        spans: the range of each observed input, by its node's name.
        largest: the largest absolute value of each layer with weights, before its ReLU; empty if it was not requested.
    """

    spans: Mapping[str, Span]
    largest: Mapping[str, float]


def measure(run: Callable[[Images], Scores], views: Iterable[Images], method: str) -> MeasuredRanges:
    """Runs a graph with the outputs of `observe` over views.

    Args:
        run: the `run` of its engine.
        views: uint8 [n, h, w, 3], one call each. A view is dropped before the next is read.
        method: minmax, entropy or percentile.

    Raises:
        VGGDeployError: an activation is NaN or infinite.
    """
    statistics: dict[str, Extremes] = {}
    for images in views:
        for name, values in run(images).activations.items():
            counted = name.endswith(_INPUT) and method != "minmax"
            try:
                statistics.setdefault(name, Histogram() if counted else Extremes()).add(values)
            except VGGDeployError as error:
                raise VGGDeployError(f"{name} is {error}") from error
    inputs = {name.removesuffix(_INPUT): values for name, values in statistics.items() if name.endswith(_INPUT)}
    spans = {name: _span(values, method) for name, values in inputs.items()}
    largest = {name: max(values.largest) for name, values in statistics.items() if not name.endswith(_INPUT)}
    return MeasuredRanges(spans, largest)


def _span(values: Extremes, method: str) -> Span:
    if not isinstance(values, Histogram) or not values.counts.any():
        return values.within(max(values.largest))
    return values.within({"entropy": entropy, "percentile": percentile}[method](values))
