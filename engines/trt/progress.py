"""A build that shows how far it is and can be stopped: TensorRT works in a thread, Ctrl-C reaches the main one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")


class Phases(Protocol):
    """What is told of a build's phases, from the thread that builds. A phase may begin within another."""

    def begin(self, name: str, parent: str | None, steps: int) -> None: ...

    def step(self, name: str) -> None: ...

    def end(self, name: str) -> None: ...


def stoppable(work: Callable[[threading.Event], Result]) -> Result:
    """The result of `work(stop)`, run in a thread of its own. Ctrl-C sets `stop`, upon which `work` should soon end.

    TensorRT calls Python while it parses and builds; an exception of Ctrl-C would be lost in there.

    Raises:
        KeyboardInterrupt: Ctrl-C, after `work` has ended.
        Exception: what `work` raised.
    """
    begin, stop, done = threading.Event(), threading.Event(), threading.Event()
    results, faults = list[Result](), list[BaseException]()

    def run() -> None:
        begin.wait()
        try:
            if not stop.is_set():
                results.append(work(stop))
        except BaseException as fault:  # noqa: BLE001 - raised again where it is waited for
            faults.append(fault)
        finally:
            done.set()

    thread = threading.Thread(target=run, name="tensorrt-build")
    try:
        thread.start()
    except KeyboardInterrupt:  # before anything has begun
        stop.set()
        begin.set()
        raise
    interrupted = ended = False
    while not ended:
        try:
            begin.set()
            if interrupted:
                stop.set()  # here, where a second Ctrl-C is caught too
            # Not `thread.join`: before Python 3.13, one that Ctrl-C interrupts takes the thread for ended.
            while not done.wait(0.1):
                pass
            ended = True
        except KeyboardInterrupt:
            interrupted = True
    thread.join()
    if interrupted:
        raise KeyboardInterrupt
    if faults:
        raise faults[0]
    return results[0]


def serialized(
    trt: Any, builder: Any, network: Any, config: Any, phases: Phases | None, stop: threading.Event
) -> Any | None:
    """The plan as TensorRT's `IHostMemory`; None where TensorRT failed, or was stopped.

    Raises:
        Exception: what `phases` raised; it stops the build.
    """
    faults: list[Exception] = []

    def tell(method: str, *arguments: Any) -> None:
        """Nothing may be raised out of a monitor: TensorRT would end the process."""
        if phases is None or stop.is_set() or faults:
            return
        try:
            getattr(phases, method)(*arguments)
        except Exception as fault:  # noqa: BLE001 - raised again below
            faults.append(fault)

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tell("begin", phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            tell("step", phase_name)
            return not (stop.is_set() or faults)

        def phase_finish(self, phase_name: str) -> None:
            tell("end", phase_name)

    monitor = Monitor()  # held here until the build has ended: TensorRT has a bare pointer to it
    config.progress_monitor = monitor
    memory = builder.build_serialized_network(network, config)
    if faults:
        raise faults[0]
    return memory
