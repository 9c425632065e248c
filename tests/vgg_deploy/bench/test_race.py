"""Contests of engines: who gets what when, and what is made of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vgg_deploy.bench.contest import Contestant, Effort, thresholds_between
from vgg_deploy.bench.peak import PeakProbe, Product
from vgg_deploy.bench.race import race, race_protocol
from vgg_deploy.bench.timing import BatchShape
from vgg_deploy.errors import UsageError
from vgg_deploy.evaluation.parity import THRESHOLDS
from vgg_deploy.inference.engine import Scores
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import Precision
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Images
from vgg_deploy.testing import FakeEngine
from vgg_deploy.views.protocols import Protocol

SHAPE = BatchShape(2, 64, 96)
TWICE = Effort(repetitions=2)


@pytest.fixture
def manifest(manifest_for: Callable[..., Manifest], narrow_spec: Callable[..., NetworkSpec]) -> Manifest:
    """Configuration A, crop 64, S 73, 5 classes."""
    return manifest_for(narrow_spec("A"))


@pytest.fixture
def batches() -> list[Images]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (2, 64, 96, 3), dtype=np.uint8) for _ in range(3)]


class Witness(FakeEngine):
    """Takes 30 ms, and tells of each call who it was and the first byte it saw."""

    def __init__(self, name: str, calls: list[tuple[str, int]], manifest: Manifest, **options: object) -> None:
        super().__init__(manifest, latency_s=0.03, **options)  # type: ignore[arg-type]
        self._name, self._calls = name, calls

    def run(self, images: Images) -> Scores:
        self._calls.append((self._name, int(images[0, 0, 0, 0])))
        return super().run(images)


def shifted(difference: float) -> Callable[[Images], np.ndarray]:
    """Posteriors of 5 classes that never depend on the image; `difference` is moved from the first class to the last."""
    row = np.array([0.6, 0.1, 0.1, 0.1, 0.1], np.float32) + np.array([-difference, 0, 0, 0, difference], np.float32)
    return lambda images: np.tile(row, (len(images), 1))


def test_each_repetition_gives_every_contestant_the_same_batch_in_turn(
    manifest: Manifest, batches: list[Images]
) -> None:
    calls: list[tuple[str, int]] = []
    contestants = [Contestant(name, Witness(name, calls, manifest)) for name in "ab"]
    race(contestants, SHAPE, batches, TWICE)
    seen = [int(batch[0, 0, 0, 0]) for batch in batches]
    # All batches once for the answers and the first again, then turns: a call that settles, and the timed ones.
    comparing = [(name, byte) for name in "ab" for byte in (*seen, seen[0])]
    assert calls[: len(comparing)] == comparing
    turns = list(dict.fromkeys(calls[len(comparing) :]))
    assert turns == [("a", seen[0]), ("b", seen[0]), ("a", seen[1]), ("b", seen[1])]


def test_figures_are_of_what_was_timed(manifest: Manifest, batches: list[Images]) -> None:
    slow, quick = FakeEngine(manifest, latency_s=0.06), FakeEngine(manifest, latency_s=0.02)
    first, second = race([Contestant("slow", slow), Contestant("quick", quick)], SHAPE, batches, TWICE)
    assert (first.contestant, first.work, second.contestant) == ("slow", "2x64x96", "quick")
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
    assert second.parity.views == 6


def test_calls_side_by_side_count_as_many_images(manifest: Manifest, batches: list[Images]) -> None:
    double = FakeEngine(manifest, latency_s=0.05, concurrency=2)
    single = FakeEngine(manifest, latency_s=0.05)
    one, two = race([Contestant("single", single), Contestant("double", double)], SHAPE, batches, TWICE)
    assert (one.latency.images, two.latency.images) == (2, 4)
    assert two.gflop == pytest.approx(2 * one.gflop)  # type: ignore[operator]
    assert min(two.latency.seconds) / 4 <= min(two.turns) <= max(two.turns) <= max(two.latency.seconds) / 4


def test_of_calls_side_by_side_the_one_furthest_off_is_compared(manifest: Manifest, batches: list[Images]) -> None:
    answered: list[int] = []

    def third_is_wrong(images: Images) -> np.ndarray:
        answered.append(len(images))
        return shifted(0.3 if len(answered) == 7 else 0)(images)  # three batches alone, the first again, then pairs

    double = FakeEngine(manifest, third_is_wrong, concurrency=2)
    right = FakeEngine(manifest, shifted(0))
    _first, second = race([Contestant("right", right), Contestant("double", double)], SHAPE, batches, TWICE)
    assert second.parity.max_dp == pytest.approx(0.3)
    assert second.failures


def test_images_that_fill_up_the_last_batch_are_not_compared(manifest: Manifest, batches: list[Images]) -> None:
    (result,) = race([Contestant("a", FakeEngine(manifest))], SHAPE, batches, TWICE, pictures=5)
    assert result.parity.views == 5


def test_the_peak_is_measured_in_the_same_repetitions(manifest: Manifest, batches: list[Images]) -> None:
    def open_product(_path: Path, **_options: object) -> FakeEngine:
        small = manifest.with_(spec=None, normalization=None)
        return FakeEngine(small, latency_s=0.05)

    with PeakProbe(open_product, Product(8, 8), "float32") as probe:
        (result,) = race(
            [Contestant("a", FakeEngine(manifest, latency_s=0.05))], SHAPE, batches, TWICE, probes={"float32": probe}
        )
    assert result.peak is not None
    assert result.peak.product == Product(8, 8)
    assert result.share_of_peak == pytest.approx(result.gflops_per_s / result.peak.gflops_per_s)  # type: ignore[operator]


@pytest.mark.parametrize(("difference", "fails"), [(2e-6, False), (2e-5, True), (0.4, True), (math.nan, True)])
def test_who_disagrees_has_failed(difference: float, fails: bool, manifest: Manifest, batches: list[Images]) -> None:
    contestants = [
        Contestant("right", FakeEngine(manifest, shifted(0))),
        Contestant("other", FakeEngine(manifest, shifted(difference))),
    ]
    right, other = race(contestants, SHAPE, batches, TWICE)
    assert right.failures == ()
    assert bool(other.failures) == fails
    if math.isnan(difference):
        assert "max_dp is nan" in other.failures
        assert math.isnan(other.parity.agreement)


def test_a_first_that_gives_nan_has_failed_itself(manifest: Manifest, batches: list[Images]) -> None:
    (result,) = race([Contestant("broken", FakeEngine(manifest, shifted(math.nan)))], SHAPE, batches, TWICE)
    assert "max_dp is nan" in result.failures


def test_a_reference_judges_the_first_too(manifest: Manifest, batches: list[Images]) -> None:
    reference = FakeEngine(manifest, shifted(0.4))
    (result,) = race([Contestant("a", FakeEngine(manifest, shifted(0)))], SHAPE, batches, TWICE, reference=reference)
    assert result.parity.max_dp == pytest.approx(0.4)
    assert result.failures
    assert reference.batches == [(2, 64, 96, 3)] * 3


def test_the_lower_precision_of_the_two_sets_the_thresholds(manifest: Manifest) -> None:
    single = FakeEngine(manifest).info
    half = FakeEngine(manifest.with_(precision=Precision("float16", range="measured"))).info
    brain = dataclasses.replace(single, bf16=True)
    assert thresholds_between(single, single) == THRESHOLDS["float32"]
    for pair in ((single, half), (half, single), (brain, single), (half, brain)):
        assert thresholds_between(*pair) == THRESHOLDS["float16"]


@pytest.mark.parametrize(
    ("effort", "one_s", "expected"),
    [
        (Effort(repetitions=7), 100.0, 7),
        (Effort(seconds=10), 0.5, 20),
        (Effort(seconds=10), 60.0, 3),
        (Effort(seconds=10), 0.0, 1000),
    ],
)
def test_time_is_spent_as_it_was_asked_for(effort: Effort, one_s: float, expected: int) -> None:
    assert effort.count(one_s) == expected


@pytest.mark.parametrize("values", [{"repetitions": 0}, {"seconds": 0.0}, {"seconds": math.nan}, {"seconds": math.inf}])
def test_no_time_is_no_effort(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"repetitions is 0|seconds is (0|nan|inf)"):
        Effort(**values)  # type: ignore[arg-type]


# ---- whole images ----

PROTOCOL = Protocol("multiscale", (64, 72), None, True)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(1)
    for index, size in enumerate([(80, 100), (100, 80), (64, 64)]):
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{index}.png")
    return sorted(tmp_path.glob("*.png"))


def test_a_protocol_is_timed_from_the_files_on(manifest: Manifest, photos: list[Path]) -> None:
    contestants = [Contestant(name, FakeEngine(manifest, latency_s=0.01)) for name in "ab"]
    sizes = [(80, 100), (100, 80), (64, 64)]
    first, second = race_protocol(contestants, photos, sizes, PROTOCOL, TWICE)
    assert first.work == str(PROTOCOL)
    assert first.latency.images == 3
    assert second.parity.views == 3
    assert second.failures == ()
    # Each view twice, whole and mirrored: 80 x 100 becomes 64 x 80 and 72 x 90.
    spec = manifest.spec
    assert spec is not None
    work = 2 * (2 * (spec.macs(64, 80) + spec.macs(72, 90)) + spec.macs(64, 64) + spec.macs(72, 72))
    assert first.gflop == pytest.approx(2 * work / 1e9)


def test_an_answer_that_changes_in_a_later_pass_is_a_failure(manifest: Manifest, photos: list[Path]) -> None:
    calls: list[int] = []

    def drifting(images: Images) -> np.ndarray:
        calls.append(len(images))
        return shifted(0.3 if len(calls) > 12 else 0)(images)

    contestants = [
        Contestant("right", FakeEngine(manifest, shifted(0))),
        Contestant("b", FakeEngine(manifest, drifting)),
    ]
    _first, second = race_protocol(contestants, photos, [(80, 100), (100, 80), (64, 64)], PROTOCOL, TWICE)
    assert second.parity.max_dp == pytest.approx(0.3)


def test_who_gives_no_answer_for_an_image_has_failed(manifest: Manifest, photos: list[Path]) -> None:
    def sometimes(images: Images) -> np.ndarray:
        rows = shifted(0)(images)
        return rows * np.nan if images.shape[1] == images.shape[2] else rows

    contestants = [
        Contestant("right", FakeEngine(manifest, shifted(0))),
        Contestant("other", FakeEngine(manifest, sometimes)),
    ]
    right, other = race_protocol(contestants, photos, [(80, 100), (100, 80), (64, 64)], PROTOCOL, TWICE)
    assert right.failures == ()
    assert any(text.startswith("2.png: the model gave NaN") for text in other.failures)
