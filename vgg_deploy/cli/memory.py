"""Memory of a command that scores many images, kept flat."""

from __future__ import annotations

import ctypes
import os

_M_MMAP_THRESHOLD = -3  # glibc's malloc.h
_BYTES = 65536


def give_back_what_is_freed(runtime: str) -> None:
    """Has glibc give freed arrays back to the system at once, where `runtime` (an engine's) is ONNX Runtime.

    By itself glibc raises the size from which it does so to that of the largest array that was freed, and keeps the smaller ones
    in pieces, in an arena for each thread: memory then grows for a thousand images. ONNX Runtime keeps its own memory and loses no
    time; OpenVINO allocates in each run and would become several times slower, so this is
    for processes of one engine. A setting from outside (MALLOC_*) stays.
    """
    if not runtime.startswith("onnxruntime") or any(
        name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ
    ):
        return
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _BYTES)
    except (OSError, AttributeError, TypeError):  # another C library: musl, macOS, Windows
        return
