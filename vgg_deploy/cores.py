"""How many cores this process may use: of the machine's, those that its affinity and its container's quota leave."""

from __future__ import annotations

import math
import os
from pathlib import Path

# Linux control groups, version 2 (one file: quota and period in microseconds, or "max") and version 1 (-1: no quota).
_CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Cores that this process may keep busy, at least 1.

    Runtimes count the machine's cores: in a container that may use 2 of 64 they would start 64 threads for 2 cores' time.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """Cores' worth of time that the control group grants; None: no limit, or none that can be read."""
    try:
        if (cgroup / "cpu.max").exists():
            limit, period = (cgroup / "cpu.max").read_text().split()
        else:
            limit = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text().strip()
        quota = math.inf if limit in ("max", "-1") else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return quota if 0 < quota < math.inf else None
