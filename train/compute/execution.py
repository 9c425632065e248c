"""Where a training computes, and how fast."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vgg_deploy.errors import UsageError

SAVE_MINUTES = 10.0


@dataclass(frozen=True, slots=True)
class Execution:
    """Where training computes; it decides how fast, and not what, but for rounding.

    Attributes:
        device: a torch device, cpu or cuda.
        workers: processes that decode images; 0: the training process itself.
        micro_batch: images that are computed at once in each process; gradients add up to the batch. None: all.
        channels_last: whether activations lie in memory with channels last, as tensor cores take them.
        compiled: whether torch.compile writes kernels for the network.
        bf16: whether products are computed in bfloat16; weights, sums and validation stay float32.
        save_minutes: minutes between saves of the training state within an epoch; 0: after each step.

    Raises:
        UsageError: a field is out of its range.
    """

    device: str = "cpu"
    workers: int = 0
    micro_batch: int | None = None
    channels_last: bool = False
    compiled: bool = False
    bf16: bool = False
    save_minutes: float = SAVE_MINUTES

    def __post_init__(self) -> None:
        if self.micro_batch is not None and self.micro_batch < 1:
            raise UsageError(f"micro_batch is {self.micro_batch}; expected a whole number of at least 1")
        if not self.save_minutes >= 0:
            raise UsageError(f"save_minutes is {self.save_minutes}; expected a number of at least 0")

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def __str__(self) -> str:
        fast = {"channels_last": self.channels_last, "compiled": self.compiled, "bf16": self.bf16}
        switches = "".join(f", {name}" for name, on in fast.items() if on)
        return f"{self.device} with {self.workers} data workers{switches}"
