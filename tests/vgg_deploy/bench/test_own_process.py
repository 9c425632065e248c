"""Contestants in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from vgg_deploy.bench.own_process import OwnProcess, UnstartedContestant, in_own_process, start
from vgg_deploy.bench.turns import Turn


def counting(first: int) -> Callable[..., tuple[int, int]]:
    """Returns a function that counts its calls from `first` on, beside its process's id."""
    count = first - 1

    def call(step: int = 1) -> tuple[int, int]:
        nonlocal count
        count += step
        return count, os.getpid()

    return call


def playing(seconds: float) -> Callable[[str, bool], Turn]:
    return lambda _task, _once: Turn(1, (seconds,))


def refusing(reason: str) -> Callable[[str, bool], Turn]:
    raise ValueError(reason)


def test_a_process_keeps_its_state_between_calls() -> None:
    with OwnProcess(counting, 5) as process:
        (first, pid), (second, again), (third, _pid) = process(), process(), process(step=10)
    assert (first, second, third) == (5, 6, 16)
    assert pid == again != os.getpid()


class TwoPartError(Exception):
    """Cannot be unpickled: it has one argument of the two that its class takes."""

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what}: {why}")


def refusing_in_two_parts() -> Callable[[str, bool], Turn]:
    raise TwoPartError("openvino", "too narrow")


def test_an_error_that_cannot_be_unpickled_arrives_as_its_text() -> None:
    with pytest.raises(RuntimeError, match=r"^openvino: too narrow$"):
        OwnProcess(refusing_in_two_parts)


def test_a_process_that_cannot_start_raises_its_own_error() -> None:
    with pytest.raises(ValueError, match="no such runtime"):
        OwnProcess(refusing, "no such runtime")


def test_entrants_become_contestants_or_have_a_reason() -> None:
    unstarted = [
        UnstartedContestant("a", playing, (2.0,), group="pair", every=2),
        UnstartedContestant("absent", refusing, ("not installed",)),
    ]
    with ExitStack() as stack:
        (contestant,), reasons = start(stack, unstarted)
        assert contestant.play("x", True).seconds == (2.0,)
    assert (contestant.name, contestant.group, contestant.every) == ("a", "pair", 2)
    assert reasons == {"absent": "not installed"}


def test_a_function_can_run_in_a_process_that_then_ends() -> None:
    assert in_own_process(os.getpid) != os.getpid()
