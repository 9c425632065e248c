"""Keeps the memory of a long run flat."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

_INTERVAL_S = 1.0


def with_memory_trimmed(items: Iterable[Item], clock: Callable[[], float] = time.monotonic) -> Iterator[Item]:
    """The items as they come. Once a second, between two items, freed memory goes back to the system.

    glibc keeps freed memory in an arena for each thread. Batches of many shapes break it into pieces, and the process
    grows through its first thousands of images. Other C libraries need nothing, and nothing is done with them.
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
