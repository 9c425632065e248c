"""Contests of any contestants: the order of turns, failures, and which answers are compared."""

from __future__ import annotations

import numpy as np
import pytest

from vgg_deploy.bench.contest import Contest, Contestant, Terms
from vgg_deploy.bench.effort import Effort
from vgg_deploy.bench.peak import Peak
from vgg_deploy.bench.product import Product
from vgg_deploy.bench.turns import Turn
from vgg_deploy.network.classes import numbered_classes

CLASSES = numbered_classes(2)
Played = list[tuple[str, str, bool]]


class Player:
    """Notes its turns: its name, the task, and whether it answers only once."""

    def __init__(self, name: str, played: Played, seconds: float = 1.0, answer: float = 0.9) -> None:
        self._name, self._played, self._seconds, self._answer = name, played, seconds, answer

    def __call__(self, task: str, once: bool) -> Turn:
        self._played.append((self._name, task, once))
        rows = np.array([[self._answer, 1 - self._answer]], np.float32)
        return Turn(2, (self._seconds,), answers=(rows,))


def terms(repetitions: int, **others: object) -> Terms:
    return Terms(effort=Effort(repetitions=repetitions), **others)  # type: ignore[arg-type]


def test_every_task_is_answered_once_and_then_repetitions_go_round_the_timed_tasks() -> None:
    played: Played = []
    contestants = [Contestant(name, Player(name, played)) for name in "ab"]
    contest = Contest(contestants, ["x", "y"], terms(3), checked=["z"])
    contest.first_turns()
    assert played == [(name, task, True) for name in "ab" for task in "xyz"]
    contest.take_turns()
    assert played[6:] == [(name, task, False) for task in "xyx" for name in "ab"]
    assert [len(contest["a"].answers[task]) for task in range(3)] == [3, 2, 1]


def test_a_group_plays_together_in_reverse_every_other_time_and_some_play_less_often() -> None:
    played: Played = []
    contestants = [
        Contestant("a", Player("a", played), group="pair"),
        Contestant("slow", Player("slow", played), every=2),
        Contestant("b", Player("b", played), group="pair"),
    ]
    contest = Contest(contestants, ["x"], terms(3))
    contest.hold()
    assert [name for name, _task, once in played if not once] == ["a", "b", "slow", "b", "a", "a", "b", "slow"]
    assert list(contest["slow"].turns) == [0, 2]


def test_a_ratio_is_of_the_repetitions_in_which_both_took_part() -> None:
    played: Played = []
    contestants = [Contestant("a", Player("a", played, 4.0)), Contestant("b", Player("b", played, 1.0), every=2)]
    contest = Contest(contestants, ["x"], terms(3))
    contest.hold()
    ratio = contest["b"].ratio_to(contest["a"])
    assert (ratio.median, ratio.lowest, ratio.highest) == (4, 4, 4)
    assert contest["a"].image_s == [2.0] * 3


def test_of_each_tasks_answers_the_furthest_is_compared_and_of_longer_answers_the_first_rows() -> None:
    answers = iter([0.9, 0.6, 0.9, 0.8, 0.9])

    def play(_task: str, _once: bool) -> Turn:
        first = next(answers)
        rows = np.array([[first, 1 - first], [0.5, 0.5]], np.float32)
        return Turn(2, (1.0,), answers=(rows,))

    contest = Contest([Contestant("a", play)], ["x", "y"], terms(3))
    contest.hold()  # 0.9 and 0.6 at first, then x: 0.9, y: 0.8, x: 0.9
    right = np.array([[0.9, 0.1]], np.float32)
    parity = contest["a"].parity([right, right], CLASSES)
    assert parity.view_count == 2
    assert parity.max_dp == pytest.approx(0.3)


def test_a_contestant_that_fails_drops_out_with_a_reason_but_never_the_first() -> None:
    def fails(_task: str, _once: bool) -> Turn:
        raise RuntimeError("\n  no | compiler\nmore")

    played: Played = []
    works = Contestant("works", Player("works", played))
    contest = Contest([works, Contestant("fails", fails)], ["x"], terms(2, tolerant=True))
    contest.hold()
    assert contest["fails"].reason == "no / compiler"
    assert [record.name for record in contest.running] == ["works"]
    assert len(contest["works"].turns) == 2
    with pytest.raises(RuntimeError, match="compiler"):
        Contest([Contestant("fails", fails), works], ["x"], terms(2, tolerant=True)).hold()
    with pytest.raises(RuntimeError, match="compiler"):
        Contest([works, Contestant("fails", fails)], ["x"], terms(2)).hold()


def test_the_peak_is_measured_once_in_each_repetition() -> None:
    calls: Played = []

    def probe() -> Peak:
        calls.append(("peak", "", False))
        return Peak("float32", "fake", Product(8, 8), (1.0,))

    contest = Contest([Contestant("a", Player("a", calls))], ["x"], terms(2, probes={"float32": probe}))
    contest.hold()
    assert [name for name, _task, _once in calls] == ["a", "peak", "a", "peak", "a"]
    assert len(contest.peaks["float32"]) == 2


def test_an_effort_in_seconds_counts_repetitions_of_all_contestants() -> None:
    contest = Contest([Contestant("a", Player("a", []))], ["x"], Terms(effort=Effort(seconds=1000.0)))
    contest.hold()  # a turn takes no time, so it makes the most repetitions
    assert len(contest["a"].turns) == 1000
