"""The GPU of this machine, according to the driver. Whether there is one decides what can be built."""

from __future__ import annotations

import ctypes

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*


def compute_capability() -> tuple[int, int] | None:
    """Compute capability of the first GPU that CUDA shows, such as (8, 9); None: no GPU, or no driver for it."""
    driver = _driver()
    if driver is None or driver.cuInit(0) != 0:
        return None
    device, values = ctypes.c_int(), (ctypes.c_int(), ctypes.c_int())
    if driver.cuDeviceGet(ctypes.byref(device), 0) != 0:
        return None
    for attribute, value in zip((_MAJOR, _MINOR), values, strict=True):
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) != 0:
            return None
    return values[0].value, values[1].value


def _driver() -> ctypes.CDLL | None:
    for name in ("libcuda.so.1", "nvcuda.dll"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
