"""Progress and interruption of a build. TensorRT works in a thread of its own, and Ctrl-C reaches the main thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

Returned = TypeVar("Returned")


class Phases(Protocol):
    """Receives the progress of a build, in the thread that builds. A phase may begin inside another."""

    def begin(self, name: str, parent: str | None, steps: int) -> None: ...

    def step(self, name: str) -> None: ...

    def end(self, name: str) -> None: ...


def stoppable(work: Callable[[threading.Event], Returned]) -> Returned:
    """Runs `work(stop)` in another thread and returns its result. Ctrl-C sets `stop`; `work` should then end soon.

    TensorRT calls Python while it parses and builds, and would swallow the exception of Ctrl-C.

    Raises:
        KeyboardInterrupt: Ctrl-C, after `work` has ended.
        Exception: what `work` raised.
    """
    begin, stop, done = threading.Event(), threading.Event(), threading.Event()
    results, faults = list[Returned](), list[BaseException]()

    def run() -> None:
        begin.wait()
        try:
            if not stop.is_set():
                results.append(work(stop))
        except BaseException as fault:  # noqa: BLE001 - raised again below
            faults.append(fault)
        finally:
            done.set()

    thread = threading.Thread(target=run, name="tensorrt-build")
    try:
        thread.start()
    except KeyboardInterrupt:  # nothing has begun yet
        stop.set()
        begin.set()
        raise
    interrupted = ended = False
    while not ended:
        try:
            begin.set()
            if interrupted:
                stop.set()  # inside the try, so that a second Ctrl-C is caught too
            # Not `thread.join`: before Python 3.13, an interrupted join considers the thread ended.
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
    """Builds the plan, as TensorRT's `IHostMemory`. None if TensorRT failed or was stopped.

    Raises:
        Exception: an error of `phases`, which stops the build.
    """
    faults: list[Exception] = []

    def report(method: str, *arguments: Any) -> None:
        """Calls `phases` without raising: an exception in a monitor makes TensorRT end the process."""
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
            report("begin", phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            report("step", phase_name)
            return not (stop.is_set() or faults)

        def phase_finish(self, phase_name: str) -> None:
            report("end", phase_name)

    monitor = Monitor()  # kept alive here until the build ends: TensorRT holds a bare pointer to it
    config.progress_monitor = monitor
    memory = builder.build_serialized_network(network, config)
    if faults:
        raise faults[0]
    return memory
