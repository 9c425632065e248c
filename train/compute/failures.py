"""Reports a failure of one process to all processes of a training.

torch's own error recording (`torch.distributed.elastic.multiprocessing.errors.record`) does not replace this. It writes
a traceback for each process, into a file that only the torchrun of the same machine reads, after the process has ended.
The first process then fails too, with "Connection closed by peer" instead of the cause, and that is what run.json would
hold.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import NoReturn

import click
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from vgg_deploy.errors import TrainingError, VGGDeployError, exit_code_of, one_line

POLL_S = 0.25  # between checks for a failure of another process
GRACE_S = 1.0  # a process that knows the cause of the same failure better may report it within this time
# A failed process waits this long. When one process ends, torchrun ends all, but the first has to print the cause.
REPORT_S = 5.0
CONTINUES = "the same command continues from the last checkpoint"

# Parts of torch's messages after another process has ended (gloo and NCCL, torch 2.4 to 2.15).
_BROKEN = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "gloo")


class Failures:
    """Reports a failure to all processes, and ends this one when any of them fails.

    The report goes through torchrun's own store. The collective operations hang or break when a process is gone.

    Args:
        rank: the rank of this process.
        timeout: how long to wait for an answer of the store.

    Attributes:
        record: called with the cause before another process's failure ends this one.
    """

    def __init__(self, rank: int, timeout: timedelta) -> None:
        self.record: Callable[[str], None] = lambda cause: None
        self._rank, self._over = rank, threading.Event()
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        server = TCPStore(host, port, None, False, timeout, wait_for_workers=False)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"vgg_deploy/{attempt}", server)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def close(self) -> None:
        """Stops listening."""
        self._over.set()

    def end(self, error: BaseException) -> NoReturn:
        """Reports this process's failure and ends the process: the first raises the error, the others exit."""
        if isinstance(error, RuntimeError) and any(part in str(error) for part in _BROKEN):
            time.sleep(GRACE_S)
            error = TrainingError(f"another process of this training ended (killed, or out of memory?); {CONTINUES}")
        if self._rank == 0:
            self._over.set()
            self._report(error)
            raise error
        if not isinstance(error, KeyboardInterrupt):
            time.sleep(GRACE_S)  # if all processes fail, the first one reports, because it knows the most
            self._report(error)
            self._listener.join()  # it receives the report as every process does, and ends this one
        os._exit(exit_code_of(error))  # torch's process group would wait for the others in a normal exit

    def _report(self, error: BaseException) -> None:
        """Stores a failure, unless another process has stored one."""
        machine = f" on {platform.node()}" if os.environ.get("GROUP_RANK", "0") != "0" else ""
        process = f" (rank {self._rank}{machine})" if self._rank else ""
        failure = json.dumps({"cause": _cause(error) + process, "code": exit_code_of(error)})
        with contextlib.suppress(RuntimeError):  # the store ended with its machine; the listener notices that too
            self._store.compare_set("failure", "", failure)

    def _listen(self) -> None:
        while not self._over.wait(POLL_S):
            try:
                failure = json.loads(self._store.get("failure")) if self._store.check(["failure"]) else None
            except RuntimeError:  # the store ends with the torchrun that keeps it
                owner = "torchrun" if self._rank == 0 else "the first machine's torchrun"
                failure = {"cause": f"{owner} ended before its processes; {CONTINUES}", "code": 1}
            if failure is not None and not self._over.is_set():
                self._stop(**failure)

    def _stop(self, cause: str, code: int) -> NoReturn:
        # Only the first process of each machine has a stderr; see `train.__main__`.
        print(f"Error: {cause}", file=sys.stderr, flush=True)
        with contextlib.suppress(VGGDeployError):  # the failure may be a full disk
            self.record(cause)
        if self._rank != 0:
            time.sleep(REPORT_S)
        os._exit(code)


def _cause(error: BaseException) -> str:
    text = one_line(error.format_message() if isinstance(error, click.ClickException) else str(error))
    known = isinstance(error, (click.ClickException, VGGDeployError))
    return text if known else f"{type(error).__name__}: {text}".removesuffix(": ")
