"""One turn: calls on a batch, and passes over files."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest

from vgg_deploy.bench.batches import ImageBatch
from vgg_deploy.bench.turn_length import MOST_SAMPLES
from vgg_deploy.bench.turns import Calls, Turn
from vgg_deploy.network.tensors import Floats, Images

BATCH = ImageBatch(np.zeros((3, 8, 8, 3), np.uint8), 2)


class FakeNetwork:
    """Gives its calls their numbers as posteriors; each takes some seconds."""

    def __init__(self, seconds: float = 0.0) -> None:
        self._seconds, self.calls = seconds, 0

    def __call__(self, images: Images) -> Floats:
        self.calls += 1
        time.sleep(self._seconds)
        return np.full((len(images), 1), self.calls, np.float32)


def test_a_turn_repeats_its_batch_until_its_time_has_passed_and_keeps_the_last_answer() -> None:
    network = FakeNetwork(0.02)
    turn = Calls(network, least_s=0.05)(BATCH)
    assert network.calls == len(turn.seconds)
    assert sum(turn.seconds[:-1]) < 0.05 <= sum(turn.seconds)
    assert turn.images == 3
    assert [rows.tolist() for rows in turn.answers] == [[[network.calls]] * 2]  # of the two distinct images
    assert turn.image_s == pytest.approx(np.median(turn.seconds) / 3)


def test_a_turn_of_quick_calls_has_an_end() -> None:
    assert len(Calls(FakeNetwork(), least_s=10.0)(BATCH).seconds) == MOST_SAMPLES


def test_once_is_one_call() -> None:
    network = FakeNetwork()
    assert len(Calls(network, least_s=10.0, settles=True)(BATCH, once=True).seconds) == 1
    assert network.calls == 1


@pytest.mark.parametrize(("seconds", "calls"), [(0.01, 2), (0.25, 1)])
def test_the_first_call_of_a_turn_does_not_count_if_it_is_short(seconds: float, calls: int) -> None:
    network = FakeNetwork(seconds)
    turn = Calls(network, least_s=0.0, settles=True)(BATCH)
    assert (network.calls, len(turn.seconds)) == (calls, 1)


def test_calls_at_once_are_computed_side_by_side_and_are_one_sample_with_an_answer_each() -> None:
    both = threading.Barrier(2, timeout=10)

    def run(images: Images) -> Floats:
        both.wait()  # fails if a call is alone
        return np.zeros((len(images), 1), np.float32)

    with Calls(run, at_once=2, queued=2, least_s=0.0) as calls:
        turn = calls(BATCH)
    assert (turn.images, len(turn.answers), len(turn.seconds)) == (12, 4, 1)


def test_cores_busy_are_cpu_seconds_by_wall_seconds() -> None:
    assert Turn(1, (1.0, 3.0), 6.0).cores_busy == 1.5
    assert math.isnan(Turn(1, (1.0,)).cores_busy)
    assert Calls(FakeNetwork(0.2), least_s=0.0)(BATCH).cores_busy < 0.5  # asleep
