"""How long a contest will take."""

from __future__ import annotations

import time

import numpy as np
import pytest

from vgg_deploy.bench.batches import ImageBatch
from vgg_deploy.bench.contest import Contest, Contestant, Terms
from vgg_deploy.bench.duration import Pace, batches_s, in_words, passes_s
from vgg_deploy.bench.effort import Effort
from vgg_deploy.bench.turns import Calls

ANSWER = np.ones((1, 2), np.float32) / 2


@pytest.mark.parametrize("call_s", [0.01, 0.3])
@pytest.mark.parametrize("effort", [Effort(repetitions=2), Effort(seconds=0.4)])
def test_the_forecast_of_a_contest_is_near_the_time_that_it_takes(call_s: float, effort: Effort) -> None:
    def run(images: np.ndarray) -> np.ndarray:
        time.sleep(call_s)
        return ANSWER

    batch = ImageBatch(np.zeros((1, 4, 4, 3), np.uint8), 1)
    with Calls(run, settles=True) as calls:
        contest = Contest([Contestant("sleeper", calls)], [batch, batch], Terms(effort=effort))
        began = time.perf_counter()
        contest.hold()
        took = time.perf_counter() - began
    assert batches_s([Pace(16, call_s, call_s)], 16, 2, effort) == pytest.approx(took, rel=0.5)


def test_twice_the_work_takes_twice_the_time_and_the_first_call_has_its_own_cost() -> None:
    pace = Pace(100, 3.0, 1.0)
    assert pace.seconds(200) == 2
    assert pace.first_seconds(200) == 4


def test_three_slow_repetitions_take_longer_than_the_seconds_that_were_asked_for() -> None:
    # One pass before them, and then three: the reason why --seconds 2 may take minutes.
    pace = Pace(1, 20.0, 20.0)
    assert passes_s([pace, pace], 1, Effort(seconds=2), decoding_s=0) == 160
    assert passes_s([pace, pace], 1, Effort(repetitions=1), decoding_s=5, probes_s=10) == 110


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "1 s"), (9.4, "9 s"), (44, "40 s"), (167, "3 minutes"), (3000, "50 minutes"), (9000, "2 hours")],
)
def test_a_time_is_rounded_to_what_a_user_wants_to_know(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
