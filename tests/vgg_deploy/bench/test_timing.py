"""Measured times, and figures that can be computed by hand."""

from __future__ import annotations

import time

import pytest

from vgg_deploy.bench.timing import Latency, Ratio, Stopwatch


def test_a_ratio_is_the_median_of_pairs_and_not_the_ratio_of_medians() -> None:
    first, other = [10.0, 20.0, 90.0], [5.0, 20.0, 30.0]
    assert Ratio.of(first, other) == Ratio(2.0, 1.0, 3.0)
    assert str(Ratio(2.0, 1.0, 3.0)) == "2.00x (1.00 to 3.00)"


def test_a_ratio_of_unequal_numbers_of_repetitions_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        Ratio.of([1.0, 2.0], [1.0])


def test_latencies_are_in_milliseconds_and_rates_are_at_the_median() -> None:
    latency = Latency(8, (0.5, 0.1, 0.2))
    assert (latency.p50_ms, latency.lowest_ms, latency.highest_ms) == pytest.approx((200, 100, 500))
    assert (latency.p90_ms, latency.p99_ms) == pytest.approx((440, 494))  # 0.2 + 0.8 * 0.3, 0.2 + 0.98 * 0.3
    assert latency.images_per_s == pytest.approx(40)
    assert latency.gflops_per_s(10) == pytest.approx(50)


def test_a_latency_needs_a_sample() -> None:
    with pytest.raises(ValueError, match="without a sample"):
        Latency(1, ())


def test_a_stopwatch_measures_wall_time_and_the_cpu_time_of_the_process() -> None:
    watch = Stopwatch()
    with watch.sample():
        time.sleep(0.05)
    assert watch.seconds[0] >= 0.05
    assert watch.cpu_s < 0.04  # sleep uses no core
    with watch.sample():
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass
    assert len(watch.seconds) == 2
    assert watch.cpu_s >= 0.05
