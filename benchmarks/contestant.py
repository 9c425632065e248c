"""A contestant in a process of its own, so that no runtime's threads disturb another's turn."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from types import ModuleType
from typing import Any, cast

from vgg_deploy.inference.engine import ContextManaged

# Before a contestant's turn: threads that spin after work have gone to sleep by then (ONNX Runtime's and OpenMP's do in a few ms).
PAUSE_S = 0.05

HOW = (
    "Each contestant has a process of its own, which sleeps while another has its turn; they take turns, repetition by "
    "repetition. A figure is the median, with the lowest and the highest in brackets; a ratio is the median of the ratios within "
    "each repetition, ± its standard error."
)

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # inherited by the contestants

_work: Callable[..., Any]


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _begin(make: Callable[..., Callable[..., Any]], arguments: tuple[Any, ...]) -> None:
    global _work
    # OpenVINO's import would send an event to its maker (2026.4), unless this cannot be imported.
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))
    # A parent that is killed closes nothing: its contestants would wait for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _work = make(*arguments)


def _do(arguments: tuple[Any, ...]) -> Any:
    return _work(*arguments)


class Contestant(ContextManaged):
    """Work prepared and done in another process.

    Args:
        make: called once over there; gives what is then called with the arguments of each turn.
        arguments: of `make`.
    """

    def __init__(self, make: Callable[..., Callable[..., Any]], *arguments: Any) -> None:
        self._pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        try:
            self._pool.submit(_begin, make, arguments).result()
        except BaseException:
            self._pool.shutdown()
            raise

    def __call__(self, *arguments: Any) -> Any:
        time.sleep(PAUSE_S)
        return self._pool.submit(_do, arguments).result()

    def close(self) -> None:
        self._pool.shutdown()


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """A function's result, computed in a process that then ends, with all that it loaded."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
