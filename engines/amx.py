"""Whether INT8 may run on AMX, the matrix unit of newer Intel CPUs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ISA_VARIABLE = "ONEDNN_MAX_CPU_ISA"  # limits the instructions that oneDNN uses, and so OpenVINO


def amx_in_use() -> bool | None:
    """Whether OpenVINO computes INT8 with AMX on this machine. None: unknown, since Windows lists no CPU features."""
    limit = os.environ.get(ISA_VARIABLE, "DEFAULT").upper()
    if limit not in ("ALL", "DEFAULT") and "AMX" not in limit:
        return False
    try:
        return "amx_int8" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None if sys.platform == "win32" else False
