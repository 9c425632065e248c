"""Memory of a long run, kept flat."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_INTERVAL_S = 1.0


def with_memory_trimmed(items: Iterable[Item], clock: Callable[[], float] = time.monotonic) -> Iterator[Item]:
    """The items; between them, once a second, what was freed is given back to the system.

    Batches of many shapes leave glibc's memory in pieces that it keeps, in an arena for each thread, and a process grows
    through its first thousands of images. With other C libraries nothing is done.
    """
    trim, last = _trim(), clock()
    for item in items:
        yield item
        if clock() - last >= _INTERVAL_S:
            trim(0)
            last = clock()


def _trim() -> Callable[[int], object]:
    """glibc's malloc_trim, or nothing: musl, macOS and Windows have none."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
        trim.argtypes = [ctypes.c_size_t]
    except (OSError, AttributeError, TypeError):
        return lambda _pad: None
    return trim
