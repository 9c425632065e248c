"""Training in several processes that torchrun starts, on one machine or several (gloo on CPUs, NCCL on GPUs)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, distributed

from train.compute.failures import Failures
from vgg_deploy.errors import UsageError

TIMEOUT = timedelta(hours=6)  # of one wait for the other processes; `Failures` reports their failures sooner

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that train one network.

    Attributes:
        rank: 0 ... size - 1. Only rank 0 writes files and prints.
        size: the number of processes.
        device: the torch device of this process, cpu or cuda:N. Exchanged tensors are on it.
        failures: reports failures among the processes. None: this is the only process.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    failures: Failures | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agreed(self, make: Callable[[], Value]) -> Value:
        """The result of `make` in the first process, for all processes."""
        made: list[Value | None] = [make() if self.first else None]
        if self.size > 1:
            distributed.broadcast_object_list(made, 0, device=torch.device(self.device))
        return made[0]  # type: ignore[return-value]

    def summed(self, values: Tensor) -> Tensor:
        """The sum of a tensor over the processes, on the CPU. It is bit for bit the same in each process."""
        if self.size > 1:
            values = values.to(self.device)
            distributed.all_reduce(values)
        return values.cpu()

    def broadcast(self, tensors: list[Tensor]) -> None:
        """Overwrites tensors with those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                distributed.broadcast(tensor, 0)

    def on_failure(self, record: Callable[[str], None]) -> None:
        """If another process fails, `record` is called with the cause before this process ends."""
        if self.failures is not None:
            self.failures.record = record


ALONE = Processes()


@contextmanager
def joined_processes(device: str) -> Iterator[Processes]:
    """Joins the processes that torchrun started. A failure in one of them ends all, with one line that gives the cause.

    Args:
        device: cpu or cuda.

    Raises:
        UsageError: this machine has more processes than GPUs.
    """
    rank, size, local = (int(os.environ.get(name, "0")) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if size <= 1:
        yield ALONE
        return
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"torchrun started a process for GPU {local}, but this machine has {torch.cuda.device_count()} GPUs; "
                "set --nproc-per-node to the number of GPUs"
            )
        torch.cuda.set_device(local)
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=TIMEOUT)
    failures = Failures(rank, TIMEOUT)
    try:
        yield Processes(rank, size, f"cuda:{local}" if device == "cuda" else "cpu", failures)
        distributed.barrier()
    except BaseException as error:  # noqa: BLE001 - any error must be reported to the other processes
        failures.end(error)
    failures.close()
    distributed.destroy_process_group()
