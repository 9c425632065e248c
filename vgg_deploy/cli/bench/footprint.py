"""What an engine costs in its own process: load time, time of the first call, and peak memory."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vgg_deploy.errors import EngineError

if TYPE_CHECKING:
    from vgg_deploy.bench.batch_shape import BatchShape
    from vgg_deploy.cli.bench.contestants import UnopenedContestant

_HOME = str(Path(__file__).resolve().parents[3])  # the folder of the package
_SCRIPT = "from vgg_deploy.cli.bench.footprint import main; main()"


@dataclass(frozen=True, slots=True)
class Footprint:
    """An engine's costs in a fresh process.

    Attributes:
        load_s: seconds to import the runtime and open the file.
        first_run_s: seconds of the first call after that.
        second_run_s: seconds of the same call again.
        peak_bytes: peak resident memory; None if the system does not report it.
    """

    load_s: float
    first_run_s: float
    second_run_s: float
    peak_bytes: int | None


def footprint_of(contestant: UnopenedContestant, shape: BatchShape, requests: int = 1) -> Footprint:
    """Opens a contestant in its own process, and runs one batch of `shape` there twice.

    Raises:
        EngineError: the process failed; gives its reason.
    """
    paths = os.pathsep.join(path for path in (_HOME, os.environ.get("PYTHONPATH", "")) if path)
    finished = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        input=pickle.dumps((contestant, shape, requests)),
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        check=False,
    )
    try:
        return Footprint(**json.loads(finished.stdout.splitlines()[-1]))
    except (ValueError, TypeError, IndexError):
        lines = finished.stderr.decode(errors="replace").strip().splitlines()
        reason = re.sub(r"^vgg_deploy\.errors\.\w+: ", "", lines[-1]) if lines else f"exit code {finished.returncode}"
        raise EngineError(f"{contestant.name} failed in its own process: {reason}") from None


def main() -> None:
    """Runs in the new process: reads a contestant and a shape from stdin, and writes the figures to stdout."""
    contestant, shape, requests = pickle.loads(sys.stdin.buffer.read())  # written by footprint_of
    began = time.perf_counter()
    engine = contestant.open(requests, lambda _text: None)
    loaded = time.perf_counter()
    import numpy as np

    images = np.full((shape.images, shape.height, shape.width, 3), 127, np.uint8)
    started = time.perf_counter()
    engine.run(images)
    between = time.perf_counter()
    engine.run(images)
    ended = time.perf_counter()
    figures = {"load_s": loaded - began, "first_run_s": between - started, "second_run_s": ended - between}
    print(json.dumps({**figures, "peak_bytes": _peak_bytes()}))


def _peak_bytes() -> int | None:
    """Peak memory of this process. On Linux, ru_maxrss would start at what the parent held when it forked."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None
