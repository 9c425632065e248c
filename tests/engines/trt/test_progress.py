"""Progress and interruption of builds."""

from __future__ import annotations

import _thread
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engines.trt.build import build
from engines.trt.build_options import BuildOptions
from engines.trt.progress import serialized, stoppable

SMALL = BuildOptions(scales=(64,), max_batch=2)


class PhaseWitness:
    """Records the phases, and calls an action at step `at`."""

    def __init__(self, at: int | None = None, then: Callable[[], None] = lambda: None) -> None:
        self.open: list[str] = []
        self.seen: list[tuple[str, str | None, int]] = []
        self.steps = 0
        self._at, self._then = at, then

    def begin(self, name: str, parent: str | None, steps: int) -> None:
        assert parent is None or parent in self.open
        self.open.append(name)
        self.seen.append((name, parent, steps))

    def step(self, name: str) -> None:
        assert name in self.open
        self.steps += 1
        if self.steps == self._at:
            self._then()

    def end(self, name: str) -> None:
        self.open.remove(name)


@pytest.mark.usefixtures("rtx", "without_gpu")
def test_phases_nest_have_steps_and_end(model: Callable[..., Path]) -> None:
    witness = PhaseWitness()
    build(model(), options=SMALL, phases=witness)
    assert witness.open == []
    assert witness.seen[0][1] is None
    assert any(parent is not None for _, parent, _ in witness.seen)
    assert 0 < witness.steps <= sum(steps for _, _, steps in witness.seen)


@pytest.mark.usefixtures("rtx", "without_gpu")
@pytest.mark.parametrize("at", [1, 100])
def test_ctrl_c_stops_the_build_and_leaves_no_file(at: int, model: Callable[..., Path], tmp_path: Path) -> None:
    path, witness = model(), PhaseWitness(at, _thread.interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        build(path, options=SMALL, phases=witness)
    # No phase is reported after that. How soon the main thread learns of Ctrl-C may vary.
    assert witness.steps >= at
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]
    assert not [thread for thread in threading.enumerate() if thread.name == "tensorrt-build"]


@pytest.mark.usefixtures("rtx", "without_gpu")
def test_ctrl_c_leaves_an_older_plan(model: Callable[..., Path]) -> None:
    path = model()
    plan = build(path, options=SMALL).path
    before = plan.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        build(path, options=BuildOptions(scales=(96,)), phases=PhaseWitness(5, _thread.interrupt_main))
    assert plan.read_bytes() == before
    assert build(path, options=SMALL).path.is_file()  # the next build works


@pytest.mark.usefixtures("rtx", "without_gpu")
def test_an_error_of_phases_ends_the_build_and_is_raised(model: Callable[..., Path], tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("the terminal has gone")

    with pytest.raises(RuntimeError, match="the terminal has gone"):
        build(model(), options=SMALL, phases=PhaseWitness(3, fail))
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


def test_ctrl_c_waits_until_the_work_has_ended() -> None:
    ended = threading.Event()

    def work(stop: threading.Event) -> None:
        _thread.interrupt_main()
        assert stop.wait(10)
        for _ in range(3):  # more of them change nothing
            time.sleep(0.1)
            _thread.interrupt_main()
        time.sleep(0.2)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        stoppable(work)
    assert ended.is_set()


def test_work_gives_its_result_or_its_error() -> None:
    def fail(_stop: threading.Event) -> None:
        raise ValueError("no")

    assert stoppable(lambda stop: stop.is_set()) is False
    with pytest.raises(ValueError, match="no"):
        stoppable(fail)


def test_a_monitor_never_raises_into_tensorrt() -> None:
    config, answers = SimpleNamespace(progress_monitor=None), []

    class Builder:
        def build_serialized_network(self, _network: Any, config: Any) -> None:
            monitor = config.progress_monitor
            monitor.phase_start("a", None, 2)
            answers.append(monitor.step_complete("a", 0))
            monitor.phase_finish("a")

    class Failing(PhaseWitness):
        def begin(self, name: str, parent: str | None, steps: int) -> None:
            raise OSError("no")

    trt: Any = SimpleNamespace(IProgressMonitor=object)
    with pytest.raises(OSError, match="no"):
        serialized(trt, Builder(), None, config, Failing(), threading.Event())
    assert answers == [False]
    stopped = threading.Event()
    stopped.set()
    assert serialized(trt, Builder(), None, config, None, stopped) is None
    assert serialized(trt, Builder(), None, config, None, threading.Event()) is None
    assert answers == [False, False, True]
