"""How many cores this process may use, given its affinity and the quota of its container."""

from __future__ import annotations

import math
import os
from pathlib import Path

# Linux control groups. Version 2 has one file with quota and period in microseconds; a quota of "max" means no limit.
# Version 1 has a file for each; a quota of -1 means no limit.
_CGROUP = Path("/sys/fs/cgroup")


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Cores that this process may keep busy, at least 1.

    Runtimes count the cores of the machine: in a container that may use 2 of 64 cores, they would start 64 threads.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return max(1, affinity if quota is None else min(affinity, math.ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """Cores that the control group grants, as a share of time; None if there is no limit or it cannot be read."""
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
