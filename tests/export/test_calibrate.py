"""Measured ranges: growing histograms, how each method treats outliers, and what is refused."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from engines import RUNTIMES, open_engine
from export.calibrate import BINS, LEVELS, Extremes, Histogram, entropy, measure, percentile
from export.int8 import Variants
from vgg_deploy.artifacts.export_options import ExportOptions, GraphOptions
from vgg_deploy.errors import VGGDeployError
from vgg_deploy.inference.engine import Scores
from vgg_deploy.network.precision import METHODS
from vgg_deploy.network.tensors import Images

ONE = np.ones((1, 2), np.float32)


def histogram_of(*values: Any) -> Histogram:
    histogram = Histogram()
    for part in values:
        histogram.add(np.asarray(part, np.float32))
    return histogram


def replay(*activations: Any, name: str = "conv2_1.input") -> Callable[[Images], Scores]:
    """A `run` of an engine that returns these activations in turn."""
    queue = iter(activations)
    return lambda images: Scores(ONE, activations={name: np.asarray(next(queue), np.float32)})


def views(count: int) -> Iterator[Images]:
    return (np.zeros((1, 8, 8, 3), np.uint8) for _ in range(count))


def spans_of(method: str, *activations: Any) -> tuple[float, float]:
    return measure(replay(*activations), views(len(activations)), method).spans["conv2_1"]


@pytest.fixture
def long_tail() -> np.ndarray:
    """Values as after a ReLU: half zeros, many small values, few large ones."""
    return np.maximum(np.random.default_rng(0).laplace(0, 1, 200_000), 0).astype(np.float32)


@pytest.mark.parametrize("factor", [1e-30, 1.0, 1e30])
def test_a_histogram_loses_no_count_while_its_range_doubles(factor: float) -> None:
    chance = np.random.default_rng(1)
    parts = [chance.normal(0, size, 1000).astype(np.float32) * np.float32(factor) for size in (1e-4, 3, 0.1, 700, 2)]
    histogram, total = Histogram(), 0
    for part in parts:
        histogram.add(part)
        total += np.count_nonzero(part)
        assert histogram.counts.sum() == total
        assert histogram.largest[0] < histogram.limit
        assert histogram.largest[1] < histogram.limit
    # Bins are powers of two, so counts from before a doubling are in the bins where they would be after it.
    everything = np.abs(np.concatenate(parts))
    expected, _edges = np.histogram(everything[everything > 0], bins=BINS, range=(0, histogram.limit))
    np.testing.assert_array_equal(histogram.counts, expected)
    assert max(histogram.largest) >= histogram.limit / 2  # at least half of the bins are in use


def test_the_order_of_values_changes_nothing() -> None:
    parts = [np.random.default_rng(seed).normal(0, 10.0**seed, 500).astype(np.float32) for seed in range(4)]
    forward, backward = histogram_of(*parts), histogram_of(*reversed(parts))
    np.testing.assert_array_equal(forward.counts, backward.counts)
    assert (forward.limit, forward.largest) == (backward.limit, backward.largest)
    for method in METHODS:
        assert spans_of(method, *parts) == spans_of(method, *reversed(parts))


def test_minmax_is_the_smallest_and_the_largest_value_of_all_images() -> None:
    assert spans_of("minmax", [1, 2], [-3, 0.5], [7, 0]) == (-3.0, 7.0)
    assert spans_of("minmax", [1, 2]) == (0.0, 2.0)  # 0 is always in range
    assert spans_of("minmax", [-1, -2]) == (-2.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_has_an_empty_range(method: str) -> None:
    assert spans_of(method, np.zeros(100), np.zeros((1, 3, 4, 4))) == (0.0, 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_zeros_do_not_change_the_range(method: str, long_tail: np.ndarray) -> None:
    crowded = np.concatenate([long_tail, np.zeros(10 * long_tail.size, np.float32)])
    assert spans_of(method, long_tail) == spans_of(method, crowded) == spans_of(method, long_tail[long_tail > 0])


@pytest.mark.parametrize("method", METHODS)
def test_the_range_stays_within_the_values_and_has_one_end_for_each_sign(method: str, long_tail: np.ndarray) -> None:
    low, high = spans_of(method, long_tail - 0.25)
    assert low == -0.25
    assert 0.25 < high <= long_tail.max() - 0.25


def test_percentile_leaves_out_a_ten_thousandth_of_the_values_other_than_zero(long_tail: np.ndarray) -> None:
    values = np.sort(long_tail[long_tail > 0])
    limit = spans_of("percentile", long_tail)[1]
    bin_width = 2 * values[-1] / BINS  # at most
    exact = values[int(np.ceil(0.9999 * values.size)) - 1]
    assert exact <= limit <= exact + bin_width
    assert np.count_nonzero(values > limit) <= 1e-4 * values.size
    assert np.count_nonzero(values > limit - 2 * bin_width) >= 1e-4 * values.size - 1


def test_percentile_of_few_values_is_their_largest() -> None:
    assert percentile(histogram_of([1, 2, 3, 250])) == 250.0


def migacz(counts: np.ndarray, bins: int) -> float:
    """Divergence of `bins` bins from their 128 levels, as in "8-bit inference with TensorRT", pages 38 to 40."""
    reference = counts[:bins].astype(np.float64)
    outliers = counts[bins:].sum()
    candidate = np.zeros(bins)
    for level in range(LEVELS):
        members = [index for index in range(bins) if index * LEVELS // bins == level] if bins < 2 * LEVELS else None
        if members is None:
            members = list(range(-(-level * bins // LEVELS), -(-(level + 1) * bins // LEVELS)))
        occupied = [index for index in members if reference[index] > 0]
        for index in occupied:
            candidate[index] = reference[members].sum() / len(occupied)
    reference[bins - 1] += outliers
    p, q = reference / reference.sum(), candidate / candidate.sum()
    return sum(float(a * np.log(a / max(b, 1e-12))) for a, b in zip(p, q, strict=True) if a > 0)


@pytest.mark.parametrize("seed", range(3))
def test_entropy_takes_the_limit_that_loses_the_least_information(seed: int) -> None:
    chance = np.random.default_rng(seed)
    values = [chance.laplace(0, 1, 20_000), chance.normal(0, 1, 20_000), chance.gamma(0.5, 2, 20_000)][seed]
    histogram = histogram_of(values)
    used = int(np.flatnonzero(histogram.counts)[-1]) + 1
    limit = entropy(histogram)
    width = histogram.limit / BINS
    chosen = min(round(limit / width), used)
    others = [*range(LEVELS, used, max(1, used // 60)), used]
    least = min(migacz(histogram.counts, bins) for bins in others)
    assert migacz(histogram.counts, chosen) <= least + 1e-12
    assert LEVELS <= chosen <= used


@pytest.mark.parametrize("outlier", [-100.0, 1e4])
def test_one_outlier_is_clipped_by_percentile_and_entropy_and_not_by_minmax(
    outlier: float, long_tail: np.ndarray
) -> None:
    images = [long_tail, [outlier], long_tail]
    reach = {method: max(abs(edge) for edge in spans_of(method, *images)) for method in METHODS}
    assert reach["minmax"] == abs(outlier)
    # The outlier widens the bins, so the range of the other values is known up to one bin.
    known = long_tail.max() + 2 * abs(outlier) / BINS
    assert reach["percentile"] <= known
    assert reach["entropy"] <= max(known, LEVELS * 2 * abs(outlier) / BINS)


@pytest.mark.parametrize("method", ["percentile", "entropy"])
def test_values_that_are_spread_evenly_are_hardly_clipped(method: str) -> None:
    values = np.random.default_rng(4).uniform(0, 6, 200_000)
    assert spans_of(method, values)[1] > 5.9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("name", "value"), [("conv3_2.input", np.nan), ("conv3_2.input", -np.inf), ("conv3_2", np.nan), ("conv3_2", np.inf)]
)
def test_nan_and_infinity_stop_the_calibration_and_their_layer_is_named(name: str, value: float, method: str) -> None:
    broken = np.ones((1, 4, 6, 6), np.float32)
    broken[0, 1, 2, 3] = value
    run = replay(np.ones(3), broken, name=name)
    with pytest.raises(VGGDeployError, match=rf"^{name} is (nan|-?inf) on a calibration image even in float32"):
        measure(run, views(2), method)


def test_the_largest_outputs_are_measured_beside_the_ranges() -> None:
    def run(_images: Images) -> Scores:
        return Scores(ONE, activations={"fc6.input": np.array([-1, 2], np.float32), "fc6": np.float32(812.5)})

    measured = measure(run, views(3), "entropy")
    assert dict(measured.largest) == {"fc6": 812.5}
    assert measured.spans["fc6"] == (-1.0, 2.0)


@pytest.mark.parametrize("method", METHODS)
def test_memory_does_not_grow_with_the_number_of_images(method: str) -> None:
    def peak(count: int) -> int:
        chance = np.random.default_rng(0)

        def run(_images: Images) -> Scores:
            layers = ("conv1_1", "conv1_2", "conv2_1")
            return Scores(
                ONE, activations={f"{name}.input": chance.random((1, 8, 96, 96), np.float32) for name in layers}
            )

        tracemalloc.start()
        measure(run, views(count), method)
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return reached

    peak(1)  # to load what is loaded on first use
    few, many = peak(5), peak(50)
    assert many < few + 8 * 96 * 96 * 4 / 2


@pytest.fixture
def opened(narrow_checkpoint: Callable[..., Path]) -> Iterator[Callable[..., Any]]:
    """`opened("A", runtime, score_map=..., largest=...)` -> an engine of a narrow network with calibration outputs."""
    from train.network.checkpoint import read

    entered: list[Variants] = []

    def make(configuration: str, runtime: str, *, score_map: bool = False, largest: bool = False) -> Any:
        checkpoint = read(narrow_checkpoint(configuration))
        exported = ExportOptions(graph=GraphOptions(half=largest, score_map=score_map))
        variants = Variants(checkpoint, lambda path: open_engine(path, runtime=runtime, threads=1), exported)
        entered.append(variants)
        return variants.open(observed=True)

    yield make
    for variants in entered:
        variants.close()


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])  # ncnn has no ReduceMax
@pytest.mark.parametrize("score_map", [False, True])
@pytest.mark.parametrize("configuration", ["A-LRN", "C"])
def test_ranges_are_those_of_pytorchs_activations(
    configuration: str,
    score_map: bool,
    runtime: str,
    opened: Callable[..., Any],
    batch: Callable[..., np.ndarray],
    narrow_checkpoint: Callable[..., Path],
) -> None:
    pytest.importorskip(RUNTIMES[runtime].module)
    from train.network.checkpoint import read
    from train.network.reference import Reference

    images = [batch(1, 64, 64), batch(1, 99, 131, seed=1), batch(1, 150, 70, seed=2)]
    with opened(configuration, runtime, score_map=score_map, largest=True) as engine:
        measured = measure(engine.run, iter(images), "minmax")
    inputs: dict[str, list[float]] = {}
    outputs: dict[str, list[float]] = {}
    with Reference(read(narrow_checkpoint(configuration)), keep_activations=True) as reference:
        spec, normalization = reference.info.manifest.spec, reference.info.manifest.normalization
        for pixels in images:
            activations = reference.run(pixels).activations
            x = (pixels.astype(np.float32) - normalization.mean) / normalization.std
            for layer in spec.layers:
                if layer.name == "fc8" and not score_map:
                    inputs.setdefault("spatial_mean", []).extend((x.min(), x.max()))
                    x = x.mean(axis=(2, 3))
                if layer.kind != "pool":
                    inputs.setdefault(layer.name, []).extend((x.min(), x.max()))
                x = activations[layer.name]
                if layer.has_weights:
                    outputs.setdefault(layer.name, []).append(float(np.abs(x).max()))
                if layer.has_relu:
                    x = np.maximum(x, 0)
    expected = {name: (min(0.0, *values), max(0.0, *values)) for name, values in inputs.items()}
    assert list(measured.spans) == list(expected)
    for name, span in expected.items():
        assert measured.spans[name] == pytest.approx(span, rel=1e-4, abs=1e-4), name
    assert not score_map or "spatial_mean" not in measured.spans
    if score_map:  # with its mean taken before, fc8 has no map
        assert measured.largest == pytest.approx({name: max(values) for name, values in outputs.items()}, rel=1e-4)


def test_the_observed_graph_is_the_plain_graph_with_more_outputs(
    graph: Callable[..., onnx.ModelProto], narrow_spec: Callable[..., Any]
) -> None:
    from export.calibrate import observe

    plain, model = graph("A-LRN", dynamic=True), graph("A-LRN", dynamic=True)
    observe(model, narrow_spec("A-LRN"), False, largest=True)
    known = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    largest_outputs = known.graph.output[-11:]
    assert all(len(output.type.tensor_type.shape.dim) == 0 for output in largest_outputs)
    assert list(model.graph.node)[: len(plain.graph.node)] == list(plain.graph.node)
    assert model.graph.initializer == plain.graph.initializer


def test_extremes_within_a_limit_keep_the_side_that_is_smaller() -> None:
    extremes = Extremes()
    extremes.add(np.array([-2, 30], np.float32))
    assert extremes.within(10) == (-2.0, 10.0)
    assert extremes.within(1) == (-1.0, 1.0)
