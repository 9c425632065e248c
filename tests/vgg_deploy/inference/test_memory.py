"""Long runs return freed memory to the system."""

from __future__ import annotations

import ctypes
import itertools
from types import SimpleNamespace

import pytest

from vgg_deploy.inference.memory import with_memory_trimmed


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The arguments of each call of malloc_trim."""
    asked: list[int] = []
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: SimpleNamespace(malloc_trim=lambda pad: asked.append(pad)))
    return asked


def test_items_pass_one_by_one() -> None:
    source = iter(range(5))
    passing = with_memory_trimmed(source)
    assert next(passing) == 0
    assert next(source) == 1  # nothing was taken ahead
    assert list(passing) == [2, 3, 4]
    assert list(with_memory_trimmed([])) == []


@pytest.mark.parametrize(("step", "times"), [(0.1, 10), (3.0, 100)])
def test_memory_is_trimmed_at_most_once_a_second(step: float, times: int, calls: list[int]) -> None:
    ticks = itertools.count()
    list(with_memory_trimmed(range(100), lambda: next(ticks) * step))
    assert len(calls) == pytest.approx(times, abs=1)
    assert set(calls) <= {0}


@pytest.mark.parametrize("failure", [OSError, AttributeError])
def test_other_c_libraries_are_left_alone(failure: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_name: object) -> None:
        raise failure

    monkeypatch.setattr(ctypes, "CDLL", missing)
    ticks = itertools.count()
    assert list(with_memory_trimmed([1, 2, 3], lambda: float(next(ticks)))) == [1, 2, 3]
