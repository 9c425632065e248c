"""Several training processes as one: torchrun's, on one machine or several (gloo on CPUs, NCCL on GPUs)."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TextIO, TypeVar

import click
import torch
from torch import Tensor, distributed
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from vgg_deploy.errors import TrainingError, UsageError, VGGDeployError

TIMEOUT = timedelta(hours=6)  # of one wait for the others; a failure is heard of by other means
HEARING_S = 0.25  # between looks for a failure elsewhere
TELLING_S = 10.0  # that a failed process waits for the first one to say so

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that train one network.

    Attributes:
        rank: 0 ... size - 1; rank 0 alone writes and prints.
        size: how many there are.
        device: where tensors must lie that are exchanged.
        failures: what they hear of each other's; None where this is the only process.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    failures: _Failures | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agreed(self, make: Callable[[], Value]) -> Value:
        """What `make` gives in the first process, in all of them."""
        made: list[Value | None] = [make() if self.first else None]
        if self.size > 1:
            distributed.broadcast_object_list(made, 0, device=torch.device(self.device))
        return made[0]  # type: ignore[return-value]

    def summed(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the processes, bit for bit the same in each; on the CPU."""
        if self.size > 1:
            values = values.to(self.device)
            distributed.all_reduce(values)
        return values.cpu()

    def spread(self, tensors: list[Tensor]) -> None:
        """Overwrites tensors with those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def on_failure(self, record: Callable[[str], None]) -> None:
        """Has `record` told the reason where another process fails, before this one ends."""
        if self.failures is not None:
            self.failures.record = record


ALONE = Processes()


def launched() -> tuple[int, int, int]:
    """Rank, number of processes, and rank on this machine, as torchrun says them; 0, 1, 0 without it."""
    rank, size, local = (int(os.environ.get(name, default)) for name, default in _VARIABLES.items())
    return rank, size, local


_VARIABLES = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Joins the processes that torchrun started; a failure in one of them ends all, with one line from the first.

    Args:
        device: cpu or cuda.

    Raises:
        UsageError: there are more processes on this machine than GPUs.
    """
    rank, size, local = launched()
    if size == 1:
        yield ALONE
        return
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"torchrun started a process for GPU {local}, and this machine has {torch.cuda.device_count()}: "
                "give --nproc-per-node the number of GPUs"
            )
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    failures = _Failures(rank)
    try:
        yield Processes(rank, size, f"cuda:{local}" if device == "cuda" else "cpu", failures)
        distributed.barrier()
    except BaseException as error:  # noqa: BLE001 - whatever it is, the others must hear of it
        failures.end(error)
    failures.over.set()
    distributed.destroy_process_group()


class _Failures:
    """What the processes tell each other of a failure, past the network that computes, which then hangs or breaks."""

    def __init__(self, rank: int) -> None:
        self._rank, self.over = rank, threading.Event()
        self.record: Callable[[str], None] = lambda reason: None
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        server = TCPStore(host, port, None, False, TIMEOUT, wait_for_workers=False)
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._store = PrefixStore(f"vgg_deploy/{attempt}", server)
        self._lock, self._unsaid = threading.Lock(), threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def end(self, error: BaseException) -> NoReturn:
        """Tells the others, and ends this process: the first one with the error, those of other machines with its line."""
        if isinstance(error, RuntimeError) and any(word in str(error) for word in _BROKEN):
            time.sleep(4 * HEARING_S)  # in which a process that failed for a reason of its own tells it
            error = TrainingError(
                "another process of this training ended without a word (killed, or out of memory?); "
                "the same command goes on from the last checkpoint"
            )
        if self._rank == 0:
            self._tell(error, told=True)
            self.over.set()
            raise error
        if not isinstance(error, KeyboardInterrupt):
            time.sleep(4 * HEARING_S)  # what fails in all, the first one tells: it knows the most
            ours = self._tell(error)
            deadline = time.monotonic() + TELLING_S
            while not (ours and self._told()) and time.monotonic() < deadline:
                time.sleep(HEARING_S)  # torchrun ends all when one ends; the first has yet to say why
            self._say(_line(error), sys.stderr if self._told() else sys.__stderr__)
        os._exit(_code(error))  # without the exit of torch's process group, which would wait for the others

    def _tell(self, error: BaseException, told: bool = False) -> bool:
        """Whether it is this failure that all end for."""
        elsewhere = f" (on {platform.node()})" if os.environ.get("GROUP_RANK", "0") != "0" else ""
        failure = json.dumps({"rank": self._rank, "line": _line(error) + elsewhere, "code": _code(error)})
        try:
            with self._lock:
                ours = bool(self._store.compare_set("failure", "", failure) == failure.encode())
                if told:
                    self._store.set("told", "1")
                return ours
        except RuntimeError:  # the store has gone with the machine that kept it
            self.over.set()
            return True

    def _told(self) -> bool:
        try:
            with self._lock:
                return bool(self._store.check(["told"]))
        except RuntimeError:  # the store has gone: nobody will
            return True

    def _listen(self) -> None:
        while not self.over.wait(HEARING_S):
            try:
                with self._lock:
                    failure = json.loads(self._store.get("failure")) if self._store.check(["failure"]) else None
            except RuntimeError:  # with the torchrun that kept it
                if not self.over.is_set():
                    whose = "torchrun" if self._rank == 0 else "the first machine's torchrun"
                    self._say(f"{whose} ended before its processes; the same command goes on from the last checkpoint")
                    os._exit(1)
                return
            if failure is not None and failure["rank"] == self._rank:
                return
            if failure is not None:
                self._stop(failure["line"], failure["code"])

    def _stop(self, line: str, code: int) -> NoReturn:
        self._say(line)
        if self._rank == 0:
            with contextlib.suppress(RuntimeError), self._lock:
                self._store.set("told", "1")
        else:
            time.sleep(TELLING_S)  # torchrun ends all when one ends; the first has yet to say why
        os._exit(code)

    def _say(self, line: str, stderr: TextIO | None = None) -> None:
        """Once. Of each machine's processes the first alone has a stderr; see `train.__main__`."""
        if not self._unsaid.acquire(blocking=False):
            return
        print(f"Error: {line}", file=stderr or sys.stderr, flush=True)
        with contextlib.suppress(VGGDeployError):  # a full disk, perhaps the very failure
            self.record(line)


# Words of what torch raises where another process has gone (gloo and NCCL, torch 2.4 to 2.15).
_BROKEN = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "gloo")


def _line(error: BaseException) -> str:
    if isinstance(error, click.ClickException):
        return " ".join(error.format_message().split())
    what = " ".join(str(error).split())
    return what if isinstance(error, VGGDeployError) else f"{type(error).__name__}: {what}".removesuffix(": ")


def _code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 130
    if isinstance(error, (VGGDeployError, click.ClickException)):
        return error.exit_code
    return 1
