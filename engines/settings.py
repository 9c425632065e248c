"""How an ONNX file is to be run: where, on how many threads, and how many calls side by side."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vgg_deploy.cores import usable_cores
from vgg_deploy.errors import UsageError

# More than one keeps the cores busy where a call by itself would wait: between layers, and for the slowest of its threads, which
# decoding makes wait. VGG-16 on two cores: as fast as one call of two threads where nothing else runs, 20 % faster where much does.
STREAMING_REQUESTS = 2

NO_BF16 = "this CPU does not compute in bfloat16: --allow-bf16 has no effect"


@dataclass(frozen=True, slots=True)
class Settings:
    """How an ONNX file is to be run.

    Attributes:
        device: cpu, cuda or cuda:N.
        threads: of computation on the CPU, of all requests together; None: one for each core that may be used.
        requests: calls of `run` that are computed side by side; on the CPU they share the threads.
        bf16: whether bfloat16 may be computed in where the file has floating point.
    """

    device: str = "cpu"
    threads: int | None = None
    requests: int = 1
    bf16: bool = False

    def __post_init__(self) -> None:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device, re.ASCII):
            raise UsageError(f"device is {self.device!r}; expected cpu, cuda or cuda:N")
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads is {self.threads}; expected 1 or more")
        if self.requests < 1:
            raise UsageError(f"requests is {self.requests}; expected 1 or more")
        if self.kind == "cpu" and self.requests > self.total_threads:
            raise UsageError(
                f"requests is {self.requests}, and they share {self.total_threads} threads; expected at most as many requests as threads"
            )
        if self.bf16 and self.kind != "cpu":
            raise UsageError(f"bfloat16 is for CPUs here, and device is {self.device}: leave --allow-bf16 out")

    @property
    def kind(self) -> str:
        """cpu or cuda."""
        return self.device.partition(":")[0]

    @property
    def index(self) -> int:
        """Of the GPU."""
        return int(self.device.partition(":")[2] or 0)

    @property
    def total_threads(self) -> int:
        return self.threads or usable_cores()

    @property
    def pool_threads(self) -> int:
        """Of a pool that all requests share, one of whose threads is each caller's own."""
        return self.total_threads - self.requests + 1 if self.kind == "cpu" else self.total_threads


def streaming_requests(device: str | None, threads: int | None, images: int | None = None) -> int:
    """How many requests suit so many images on a device: `STREAMING_REQUESTS` on the CPU, if it has the threads; for one or two
    images, of which there may be a single view, one request with all of them."""
    if device not in (None, "cpu") or (images is not None and images < 3):
        return 1
    return min(STREAMING_REQUESTS, max(1, threads or usable_cores()))
