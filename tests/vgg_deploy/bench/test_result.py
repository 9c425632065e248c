"""Contests of engines: what each does when, and the figures that result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.bench.batches import ImageBatch
from vgg_deploy.bench.contest import Terms
from vgg_deploy.bench.effort import Effort
from vgg_deploy.bench.peak import PeakProbe
from vgg_deploy.bench.product import Product
from vgg_deploy.bench.result import thresholds_between, time_batches, time_protocol
from vgg_deploy.errors import UsageError
from vgg_deploy.evaluation.parity import THRESHOLDS
from vgg_deploy.inference.engine import Scores
from vgg_deploy.inference.engine_options import EngineOptions
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import Precision
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Images
from vgg_deploy.testing import FakeEngine
from vgg_deploy.views.protocols import Protocol

SHAPE = BatchShape(2, 64, 96)
TWICE = Terms(effort=Effort(repetitions=2))


@pytest.fixture
def manifest(manifest_for: Callable[..., Manifest], narrow_spec: Callable[..., NetworkSpec]) -> Manifest:
    """Configuration A, crop 64, S 73, 5 classes."""
    return manifest_for(narrow_spec("A"))


@pytest.fixture
def batches() -> list[ImageBatch]:
    random = np.random.default_rng(0)
    return [ImageBatch(random.integers(0, 256, (2, 64, 96, 3), dtype=np.uint8), 2) for _ in range(3)]


class WitnessEngine(FakeEngine):
    """Takes 30 ms, and notes its name and the first byte of each call."""

    def __init__(self, name: str, calls: list[tuple[str, int]], manifest: Manifest, **options: object) -> None:
        super().__init__(manifest, latency_s=0.03, **options)  # type: ignore[arg-type]
        self._name, self._calls = name, calls

    def run(self, images: Images) -> Scores:
        self._calls.append((self._name, int(images[0, 0, 0, 0])))
        return super().run(images)


def shifted(difference: float) -> Callable[[Images], np.ndarray]:
    """Posteriors of 5 classes that never depend on the image; `difference` is moved from the first to the last."""
    row = np.array([0.6, 0.1, 0.1, 0.1, 0.1], np.float32) + np.array([-difference, 0, 0, 0, difference], np.float32)
    return lambda images: np.tile(row, (len(images), 1))


def test_each_repetition_gives_every_contestant_the_same_batch_in_turn(
    manifest: Manifest, batches: list[ImageBatch]
) -> None:
    calls: list[tuple[str, int]] = []
    time_batches({name: WitnessEngine(name, calls, manifest) for name in "ab"}, SHAPE, batches, TWICE)
    seen = [int(batch.images[0, 0, 0, 0]) for batch in batches]
    # All batches once for the answers, then turns: a call that settles, and the timed ones.
    comparing = [(name, byte) for name in "ab" for byte in seen]
    assert calls[: len(comparing)] == comparing
    turns = list(dict.fromkeys(calls[len(comparing) :]))
    assert turns == [("a", seen[0]), ("b", seen[0]), ("a", seen[1]), ("b", seen[1])]


def test_figures_follow_from_the_times(manifest: Manifest, batches: list[ImageBatch]) -> None:
    slow, quick = FakeEngine(manifest, latency_s=0.06), FakeEngine(manifest, latency_s=0.02)
    first, second = time_batches({"slow": slow, "quick": quick}, SHAPE, batches, TWICE)
    assert (first.contestant, first.workload, second.contestant) == ("slow", "2x64x96", "quick")
    assert (first.latency.images, len(first.turns)) == (2, 2)
    assert first.latency.p50_ms >= 60
    assert first.ratio.median == first.ratio.lowest == first.ratio.highest == 1
    assert second.ratio.median == pytest.approx(
        np.median([a / b for a, b in zip(first.turns, second.turns, strict=True)])
    )
    assert first.gflop == pytest.approx(SHAPE.gflop(manifest.spec))  # type: ignore[arg-type]
    assert first.gflops_per_s == pytest.approx(first.gflop * 1000 / first.latency.p50_ms)
    assert (first.peak, first.share_of_peak) == (None, None)
    assert (second.parity.agreement, second.parity.max_dp, second.failures) == (1, 0, ())
    assert second.parity.view_count == 6


def test_calls_side_by_side_count_as_many_images(manifest: Manifest, batches: list[ImageBatch]) -> None:
    double = FakeEngine(manifest, latency_s=0.05, concurrency=2)
    single = FakeEngine(manifest, latency_s=0.05)
    one, two = time_batches({"single": single, "double": double}, SHAPE, batches, TWICE)
    assert (one.latency.images, two.latency.images) == (2, 4)
    assert two.gflop == pytest.approx(2 * one.gflop)  # type: ignore[operator]
    assert min(two.latency.seconds) / 4 <= min(two.turns) <= max(two.turns) <= max(two.latency.seconds) / 4


def test_of_calls_side_by_side_the_one_furthest_off_is_compared(manifest: Manifest, batches: list[ImageBatch]) -> None:
    answered: list[int] = []

    def third_is_wrong(images: Images) -> np.ndarray:
        answered.append(len(images))
        return shifted(0.3 if len(answered) == 5 else 0)(images)  # pairs of three batches

    double = FakeEngine(manifest, third_is_wrong, concurrency=2)
    right = FakeEngine(manifest, shifted(0))
    _first, second = time_batches({"right": right, "double": double}, SHAPE, batches, TWICE)
    assert second.parity.max_dp == pytest.approx(0.3)
    assert second.failures


def test_images_that_fill_up_the_last_batch_are_not_compared(manifest: Manifest, batches: list[ImageBatch]) -> None:
    batches[-1] = ImageBatch(batches[-1].images, 1)
    (result,) = time_batches({"a": FakeEngine(manifest)}, SHAPE, batches, TWICE)
    assert result.parity.view_count == 5


def test_the_peak_is_measured_in_the_same_repetitions(manifest: Manifest, batches: list[ImageBatch]) -> None:
    def open_product(_path: Path, _options: EngineOptions) -> FakeEngine:
        small = manifest.with_(spec=None, normalization=None)
        return FakeEngine(small, latency_s=0.05)

    with PeakProbe(open_product, Product(8, 8), "float32") as probe:
        terms = Terms(effort=Effort(repetitions=2), probes={"float32": probe})
        (result,) = time_batches({"a": FakeEngine(manifest, latency_s=0.05)}, SHAPE, batches, terms)
    assert result.peak.product == Product(8, 8)
    assert result.share_of_peak == pytest.approx(result.gflops_per_s / result.peak.gflops_per_s)  # type: ignore[operator]


@pytest.mark.parametrize(("difference", "fails"), [(2e-6, False), (2e-5, True), (0.4, True), (math.nan, True)])
def test_a_contestant_that_disagrees_has_failed(
    difference: float, fails: bool, manifest: Manifest, batches: list[ImageBatch]
) -> None:
    engines = {"right": FakeEngine(manifest, shifted(0)), "other": FakeEngine(manifest, shifted(difference))}
    right, other = time_batches(engines, SHAPE, batches, TWICE)
    assert right.failures == ()
    assert bool(other.failures) == fails
    if math.isnan(difference):
        assert "max_dp is nan" in other.failures
        assert math.isnan(other.parity.agreement)


def test_a_first_contestant_that_gives_nan_has_failed_itself(manifest: Manifest, batches: list[ImageBatch]) -> None:
    (result,) = time_batches({"broken": FakeEngine(manifest, shifted(math.nan))}, SHAPE, batches, TWICE)
    assert "max_dp is nan" in result.failures


def test_the_first_contestant_is_compared_with_the_reference_too(manifest: Manifest, batches: list[ImageBatch]) -> None:
    reference = FakeEngine(manifest, shifted(0.4))
    (result,) = time_batches({"a": FakeEngine(manifest, shifted(0))}, SHAPE, batches, TWICE, reference)
    assert result.parity.max_dp == pytest.approx(0.4)
    assert result.failures
    assert reference.batches == [(2, 64, 96, 3)] * 3


def test_the_lower_precision_of_the_two_sets_the_thresholds(manifest: Manifest) -> None:
    single = FakeEngine(manifest).info
    half = FakeEngine(manifest.with_(precision=Precision("float16", range="measured"))).info
    bfloat16 = dataclasses.replace(single, bf16=True)
    assert thresholds_between(single, single) == THRESHOLDS["float32"]
    for pair in ((single, half), (half, single), (bfloat16, single), (half, bfloat16)):
        assert thresholds_between(*pair) == THRESHOLDS["float16"]


@pytest.mark.parametrize(
    ("effort", "repetition_s", "expected"),
    [
        (Effort(repetitions=7), 100.0, 7),
        (Effort(seconds=10), 0.5, 20),
        (Effort(seconds=10), 60.0, 3),
        (Effort(seconds=10), 0.0, 1000),
    ],
)
def test_the_number_of_repetitions_follows_from_the_effort(effort: Effort, repetition_s: float, expected: int) -> None:
    assert effort.count(repetition_s) == expected


@pytest.mark.parametrize("values", [{"repetitions": 0}, {"seconds": 0.0}, {"seconds": math.nan}, {"seconds": math.inf}])
def test_an_effort_of_no_time_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"repetitions is 0|seconds is (0|nan|inf)"):
        Effort(**values)  # type: ignore[arg-type]


# ---- whole images ----

PROTOCOL = Protocol("multiscale", (64, 72), None, True)


@pytest.fixture
def photos(tmp_path: Path) -> dict[Path, tuple[int, int]]:
    """Image files and their sizes."""
    random = np.random.default_rng(1)
    sizes = [(80, 100), (100, 80), (64, 64)]
    for index, size in enumerate(sizes):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    return dict(zip(sorted(tmp_path.glob("*.png")), sizes, strict=True))


def test_a_protocol_is_timed_from_the_files_on(manifest: Manifest, photos: dict[Path, tuple[int, int]]) -> None:
    engines = {name: FakeEngine(manifest, latency_s=0.01) for name in "ab"}
    first, second = time_protocol(engines, photos, PROTOCOL, TWICE)
    assert first.workload == str(PROTOCOL)
    assert first.latency.images == 3
    assert second.parity.view_count == 3
    assert second.failures == ()
    # Each view twice, whole and mirrored: 80 x 100 becomes 64 x 80 and 72 x 90.
    spec = manifest.spec
    work = 2 * (2 * (spec.macs(64, 80) + spec.macs(72, 90)) + spec.macs(64, 64) + spec.macs(72, 72))
    assert first.gflop == pytest.approx(2 * work / 1e9)


def test_an_answer_that_changes_in_a_later_pass_is_a_failure(
    manifest: Manifest, photos: dict[Path, tuple[int, int]]
) -> None:
    calls: list[int] = []

    def drifting(images: Images) -> np.ndarray:
        calls.append(len(images))
        return shifted(0.3 if len(calls) > 12 else 0)(images)

    engines = {"right": FakeEngine(manifest, shifted(0)), "b": FakeEngine(manifest, drifting)}
    _first, second = time_protocol(engines, photos, PROTOCOL, TWICE)
    assert second.parity.max_dp == pytest.approx(0.3)


def test_a_contestant_without_an_answer_for_an_image_has_failed(
    manifest: Manifest, photos: dict[Path, tuple[int, int]]
) -> None:
    def sometimes(images: Images) -> np.ndarray:
        rows = shifted(0)(images)
        return rows * np.nan if images.shape[1] == images.shape[2] else rows

    engines = {"right": FakeEngine(manifest, shifted(0)), "other": FakeEngine(manifest, sometimes)}
    right, other = time_protocol(engines, photos, PROTOCOL, TWICE)
    assert right.failures == ()
    assert any(text.startswith("2.png: the model gave NaN") for text in other.failures)
