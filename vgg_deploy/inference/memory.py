"""Keeps the memory of a long run flat."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_INTERVAL_S = 1.0


def with_memory_trimmed(items: Iterable[Item], clock: Callable[[], float] = time.monotonic) -> Iterator[Item]:
    """Yields the items. Once a second, between two items, it returns freed memory to the system.

    glibc keeps freed memory in an arena per thread. Batches of many shapes fragment it, and the process grows during
    its first thousands of images. Other C libraries do not need this.
    """
    trim, last = _trim(), clock()
    for item in items:
        yield item
        if clock() - last >= _INTERVAL_S:
            trim(0)
            last = clock()


def _trim() -> Callable[[int], object]:
    """glibc's malloc_trim. Elsewhere (musl, macOS, Windows) a function that does nothing."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
        trim.argtypes = [ctypes.c_size_t]
    except (OSError, AttributeError, TypeError):
        return lambda _pad: None
    return trim
