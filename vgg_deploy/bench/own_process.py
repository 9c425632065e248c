"""Contestants in separate processes, so that no runtime's threads disturb another's turn."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from types import ModuleType
from typing import Any, cast

from vgg_deploy.bench.contest import Contestant, short_reason
from vgg_deploy.inference.context_managed import ContextManaged

# A pause before each turn. Threads of ONNX Runtime and OpenMP spin for a few ms after their work; then they sleep.
PAUSE_S = 0.05

_play: Callable[..., Any]


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _initialize() -> None:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # Importing OpenVINO (2026.4) sends a telemetry event, unless this module cannot be imported.
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))
    # A parent that is killed closes nothing, so its contestants would wait forever.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_initialize)


def _run(function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Runs a function in this process. An error that the parent could not unpickle would break the pool."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:  # noqa: BLE001 - an error class may raise anything here
            raise RuntimeError(str(error)) from None
        raise


def _begin(make: Callable[..., Callable[..., Any]], *arguments: Any) -> None:
    global _play
    _play = make(*arguments)


def _call(*arguments: Any, **options: Any) -> Any:
    return _play(*arguments, **options)


class OwnProcess(ContextManaged):
    """A function that runs in its own process.

    Args:
        make: called once in that process; returns the function.
        arguments: the arguments of `make`.
    """

    def __init__(self, make: Callable[..., Callable[..., Any]], *arguments: Any) -> None:
        self._pool = _process()
        try:
            self._pool.submit(_run, _begin, (make, *arguments), {}).result()
        except BaseException:
            self._pool.shutdown()
            raise

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        time.sleep(PAUSE_S)
        return self._pool.submit(_run, _call, arguments, options).result()

    def close(self) -> None:
        self._pool.shutdown()


@dataclass(frozen=True, slots=True)
class UnstartedContestant:
    """A contestant that has not been started.

    Attributes:
        name: in reports.
        make: called with `arguments` in the contestant's process; returns what plays its turns (`Contestant.play`).
        precision: float32, bfloat16 or int8, the precision of most of its products; selects the peak to compare with.
        group, every: as in `Contestant`.
    """

    name: str
    make: Callable[..., Callable[..., Any]]
    arguments: tuple[Any, ...]
    precision: str = ""
    group: str | None = None
    every: int = 1


def start(stack: ExitStack, unstarted: Iterable[UnstartedContestant]) -> tuple[list[Contestant[Any]], dict[str, str]]:
    """Starts each contestant in its own process, which ends when the stack closes.

    Returns:
        The contestants, and the reasons of those that could not start, by name.
    """
    contestants, reasons = [], {}
    for contestant in unstarted:
        try:
            process = stack.enter_context(OwnProcess(contestant.make, *contestant.arguments))
        except Exception as error:  # noqa: BLE001 - a runtime that is not installed may raise anything
            reasons[contestant.name] = short_reason(error)
            continue
        contestants.append(Contestant(contestant.name, process, contestant.group, contestant.every))
    return contestants, reasons


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function that runs in a new process, which then ends and frees all that it loaded."""
    with _process() as pool:
        return pool.submit(_run, function, arguments, {}).result()
