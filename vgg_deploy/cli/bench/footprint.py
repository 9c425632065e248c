"""What an engine costs a process of its own: time to load it, to its first answer, and peak memory."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vgg_deploy.bench.timing import BatchShape
    from vgg_deploy.cli.bench.entries import Entry

_SCRIPT = "from vgg_deploy.cli.bench.footprint import main; main()"


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of a fresh process.

    Attributes:
        load_s: importing the runtime and opening the file, in seconds.
        first_run_s: the first call after that.
        peak_bytes: most memory that was resident at once; None where the system does not tell.
    """

    load_s: float
    first_run_s: float
    peak_bytes: int | None


def footprint_of(entry: Entry, shape: BatchShape, requests: int = 1) -> Footprint:
    """Opens an entry in a process of its own, which runs one batch of `shape` and tells.

    Raises:
        EngineError: it could not; says why.
    """
    import vgg_deploy
    from vgg_deploy.errors import EngineError

    home = str(Path(vgg_deploy.__file__).resolve().parent.parent)
    paths = os.pathsep.join(word for word in (home, os.environ.get("PYTHONPATH", "")) if word)
    finished = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        input=pickle.dumps((entry, shape, requests)),
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        check=False,
    )
    try:
        return Footprint(**json.loads(finished.stdout.splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        lines = finished.stderr.decode(errors="replace").strip().splitlines()
        reason = (
            re.sub(r"^vgg_deploy\.errors\.\w+: ", "", lines[-1]) if lines else f"it ended with {finished.returncode}"
        )
        raise EngineError(f"{entry.name} failed in a process of its own: {reason}") from None


def main() -> None:
    """The process: reads an entry and a shape from stdin, writes the figures to stdout."""
    import time

    entry, shape, requests = pickle.loads(sys.stdin.buffer.read())  # of our own parent
    began = time.perf_counter()
    engine = entry.open(requests, lambda _text: None)
    loaded = time.perf_counter()
    import numpy as np

    images = np.full((shape.images, shape.height, shape.width, 3), 127, np.uint8)
    started = time.perf_counter()
    engine.run(images)
    ended = time.perf_counter()
    print(json.dumps({"load_s": loaded - began, "first_run_s": ended - started, "peak_bytes": _peak_bytes()}))


def _peak_bytes() -> int | None:
    """Of this process. The kernel's other count, ru_maxrss, begins with what the parent had when it forked."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None
