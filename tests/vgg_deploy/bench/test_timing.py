"""Measured times: what is taken in turn, and figures that can be worked out by hand."""

from __future__ import annotations

import pytest

from vgg_deploy.bench.timing import BatchShape, Latency, Ratio, interleaved, paired_ratio, percentile
from vgg_deploy.errors import UsageError
from vgg_deploy.network.spec import NetworkSpec


def test_contestants_take_turns_and_their_samples_stay_together() -> None:
    order: list[str] = []

    def contestant(name: str) -> float:
        order.append(name)
        return float(len(order))

    samples = interleaved(3, lambda: contestant("a"), lambda: contestant("b"))
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert samples == [[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]


def test_a_ratio_is_the_median_of_pairs_and_not_the_ratio_of_medians() -> None:
    first, other = [10.0, 20.0, 90.0], [5.0, 20.0, 30.0]
    assert paired_ratio(first, other) == (2.0, 1.0, 3.0)
    assert Ratio.of(first, other) == Ratio(2.0, 1.0, 3.0)
    assert str(Ratio(2.0, 1.0, 3.0)) == "2.00x (1.00 to 3.00)"


def test_a_ratio_of_other_repetitions_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        Ratio.of([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, 10.0), (0.5, 30.0), (0.9, 46.0), (0.99, 49.6), (1.0, 50.0), (0.25, 20.0)],
)
def test_percentiles_lie_linearly_between_the_nearest_samples(share: float, expected: float) -> None:
    assert percentile([50.0, 10.0, 40.0, 20.0, 30.0], share) == pytest.approx(expected)


def test_the_percentile_of_one_sample_is_that_sample() -> None:
    assert percentile([7.0], 0.99) == 7.0


def test_latencies_are_told_in_milliseconds_and_rates_at_the_median() -> None:
    latency = Latency(8, (0.5, 0.1, 0.2))
    assert (latency.p50_ms, latency.lowest_ms, latency.highest_ms) == pytest.approx((200, 100, 500))
    assert (latency.p90_ms, latency.p99_ms) == pytest.approx((440, 494))  # 0.2 + 0.8 * 0.3, 0.2 + 0.98 * 0.3
    assert latency.images_per_s == pytest.approx(40)
    assert latency.gflops_per_s(10) == pytest.approx(50)


def test_a_latency_needs_a_sample() -> None:
    with pytest.raises(ValueError, match="without a sample"):
        Latency(1, ())


def test_vgg16_at_224_is_31_gflop_an_image() -> None:
    # Multiply-accumulates by hand: positions x kernel x channels in x channels out.
    convolutions = 9 * (
        224**2 * (3 * 64 + 64 * 64)
        + 112**2 * (64 * 128 + 128 * 128)
        + 56**2 * (128 * 256 + 2 * 256 * 256)
        + 28**2 * (256 * 512 + 2 * 512 * 512)
        + 14**2 * 3 * 512 * 512
    )
    fc = 49 * 512 * 4096 + 4096 * 4096 + 4096 * 1000
    spec = NetworkSpec("D")
    assert BatchShape(1, 224, 224).gflop(spec) == pytest.approx(2 * (convolutions + fc) / 1e9)
    assert BatchShape(1, 224, 224).gflop(spec) == pytest.approx(30.94, abs=0.01)
    assert BatchShape(8, 224, 224).gflop(spec) == pytest.approx(8 * 30.94, abs=0.1)


def test_a_finer_grid_costs_more_on_a_larger_image_and_the_same_on_a_crop() -> None:
    plain, fine = NetworkSpec("A"), NetworkSpec("A", fine=True)
    assert BatchShape(1, 224, 224).gflop(fine) == BatchShape(1, 224, 224).gflop(plain)
    assert BatchShape(1, 384, 512).gflop(fine) > BatchShape(1, 384, 512).gflop(plain)


def test_work_below_the_crop_is_refused() -> None:
    with pytest.raises(UsageError, match="needs at least 224x224"):
        BatchShape(1, 200, 300).gflop(NetworkSpec("D"))


def test_a_shape_is_read_as_it_is_written() -> None:
    assert BatchShape.parse(" 8x224X512") == BatchShape(8, 224, 512)
    assert str(BatchShape(8, 224, 512)) == "8x224x512"


@pytest.mark.parametrize("text", ["224x224", "1x3x224x224", "1xax224", "", "1x-2x3", "1.5x2x3", "1x²x3", "1, 2, 3"])
def test_another_text_is_no_shape(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected NxHxW.*such as 1x224x224"):
        BatchShape.parse(text)


def test_a_shape_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="a shape is 0x224x224"):
        BatchShape.parse("0x224x224")
