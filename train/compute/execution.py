"""How a training is executed: its device, its processes, and where it reports progress."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from rich.console import Console

from train.compute.processes import ALONE, Processes
from vgg_deploy.errors import UsageError

SAVE_MINUTES = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """How a training is executed. This changes the speed, and the result only by rounding.

    Attributes:
        device: a torch device, cpu or cuda.
        workers: processes that decode images. 0: the training process decodes them itself.
        micro_batch: images that each process computes at once; gradients add up to the batch. None: the whole batch.
        channels_last: store activations with channels last, the layout of tensor cores.
        compiled: let torch.compile write kernels for the network.
        bf16: compute products in bfloat16. Weights, sums and validation stay float32.
        save_minutes: minutes between saves of the training state within an epoch. 0: after each step.
        processes: this process among those that train together.
        console: shows progress and one line an epoch.

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
    processes: Processes = ALONE
    console: Console = field(default_factory=lambda: Console(stderr=True))

    def __post_init__(self) -> None:
        if self.micro_batch is not None and self.micro_batch < 1:
            raise UsageError(f"micro_batch is {self.micro_batch}; expected a whole number of at least 1")
        if not self.save_minutes >= 0:
            raise UsageError(f"save_minutes is {self.save_minutes}; expected a number of at least 0")

    @property
    def on_gpu(self) -> bool:
        return torch.device(self.device).type == "cuda"

    def among(self, processes: Processes) -> Execution:
        """This execution in one of several processes: on its own device, and silent in all but the first."""
        device = processes.device if processes.size > 1 else self.device
        console = self.console if processes.first else Console(stderr=True, quiet=True)
        return replace(self, device=device, processes=processes, console=console)

    def __str__(self) -> str:
        modes = {"channels_last": self.channels_last, "compiled": self.compiled, "bf16": self.bf16}
        switched_on = "".join(f", {name}" for name, on in modes.items() if on)
        workers = f"{self.workers} data worker{'' if self.workers == 1 else 's'}"
        return f"{self.device} with {workers}{switched_on}"
