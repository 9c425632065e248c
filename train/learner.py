"""A network and its optimizer: one step of SGD at a time, in one process or several (section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from train.compute.execution import Execution
from train.compute.processes import Processes
from train.data.loader import WORKER_DIED, Batch, worker_error
from train.network.dropout import masks
from train.network.model import VGG
from train.network.reference import normalize
from train.recipe import Recipe
from vgg_deploy.errors import TrainingError
from vgg_deploy.network.manifest import Normalization


class Learner:
    """Learns from batches, and answers for validation.

    Args:
        recipe: of the network, the optimizer and the dropout.
        weights: of all layers, in FC form; those of the first process count.
        normalization: of pixels.
        execution: where it computes.
        processes: with whom it computes each step.
    """

    def __init__(
        self,
        recipe: Recipe,
        weights: Mapping[str, Tensor],
        normalization: Normalization,
        execution: Execution,
        processes: Processes,
    ) -> None:
        self._recipe, self._normalization, self._execution, self._processes = (
            recipe,
            normalization,
            execution,
            processes,
        )
        self._layout = torch.channels_last if execution.channels_last else torch.contiguous_format
        self._network = VGG(recipe.spec)
        self._network.load_state_dict(dict(weights))
        self._network.to(execution.device, memory_format=self._layout)  # type: ignore[call-overload]
        frozen = {layer.name for layer in recipe.spec.convolutions} if recipe.freeze_features else set()
        for name, parameter in self._network.named_parameters():
            parameter.requires_grad_(name.rpartition(".")[0] not in frozen)
        processes.spread([parameter.data for parameter in self._network.parameters()])
        self._learning = {name: value for name, value in self._network.named_parameters() if value.requires_grad}
        self._optimizer = torch.optim.SGD(
            self._learning.values(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
        )
        self._together: DistributedDataParallel | None = None
        if processes.size > 1:
            devices = [torch.device(execution.device)] if execution.on_gpu else None
            self._together = DistributedDataParallel(self._network, device_ids=devices)
        training: nn.Module = self._together or self._network
        self._training = torch.compile(training) if execution.compiled else training

    def step(self, batch: Batch, epoch: int, learning_rate: float) -> Tensor:
        """One step of SGD over the batch of all processes; gives float64 [3], on the device, of this process's images: the
        sum of cross-entropies, and how many classes are the first answer, or among the first five."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        # The processes' gradients are averaged, so each counts as many times as there are processes.
        weight = self._processes.size / batch.total if batch.counts else 0.0
        figures = torch.zeros(3, dtype=torch.float64, device=self._execution.device)
        parts = self._parts(batch)
        for part in parts:
            wait = self._together is not None and part is not parts[-1]
            with self._together.no_sync() if wait and self._together else nullcontext():
                loss, hits = self._forward(batch, part, epoch)
                (loss * weight).backward()  # type: ignore[no-untyped-call]
            if batch.counts:
                figures += torch.stack((loss.detach().double(), *hits))
        self._optimizer.step()
        return figures

    def _forward(self, batch: Batch, part: slice, epoch: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        device, recipe = self._execution.device, self._recipe
        images, targets = self._images(batch, part), batch.targets[part].to(device, non_blocking=True)
        if recipe.rgb_shift:
            shifts = batch.shifts[part].to(device, non_blocking=True)
            images = images + (shifts / torch.tensor(self._normalization.std, device=device))[:, :, None, None]
        indices = batch.indices[part].to(device, non_blocking=True)
        # Outside of what torch.compile compiles, which overflows on their 64-bit constants (torch 2.15).
        dropout = masks(recipe.seed, epoch, indices, recipe.spec.fc_width, recipe.dropout)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=self._execution.bf16):
            scores = self._training(images, dropout).float()
        return functional.cross_entropy(scores, targets, reduction="sum"), _hits(scores.detach(), targets)

    def _images(self, batch: Batch, part: slice) -> Tensor:
        pixels = batch.views[part].to(self._execution.device, non_blocking=True)
        return normalize(pixels, self._normalization).contiguous(memory_format=self._layout)

    @torch.inference_mode()
    def judge(self, batch: Batch) -> Tensor:
        """What `step` gives, without dropout and without learning, in float32."""
        figures = torch.zeros(3, dtype=torch.float64, device=self._execution.device)
        for part in self._parts(batch) if batch.counts else ():
            scores, targets = self._network(self._images(batch, part)), batch.targets[part].to(self._execution.device)
            loss = functional.cross_entropy(scores, targets, reduction="sum")
            figures += torch.stack((loss.double(), *_hits(scores, targets)))
        return figures

    def _parts(self, batch: Batch) -> list[slice]:
        """What is computed at once of a batch."""
        count = len(batch.indices)
        part = min(self._execution.micro_batch or count, count)
        return [slice(start, start + part) for start in range(0, count, part)]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's, where they are."""
        return self._network.state_dict()

    def tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU of all that changes with a step: weights/NAME, and momentum/NAME after the first."""
        found = {f"weights/{name}": value for name, value in self.weights.items()}
        for name, parameter in self._learning.items():
            momentum = self._optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                found[f"momentum/{name}"] = momentum
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in found.items()}

    def restore(self, momentum: Mapping[str, Tensor]) -> None:
        """Takes up the momentum of the first process's `tensors`, by name."""
        if not self._processes.agreed(lambda: bool(momentum)):
            return
        for name, parameter in self._learning.items():
            buffer = torch.zeros_like(parameter)
            if self._processes.first:
                buffer.copy_(momentum[name])
            self._processes.spread([buffer])
            self._optimizer.state[parameter]["momentum_buffer"] = buffer


def _hits(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    hits = scores.topk(min(5, scores.shape[1])).indices == targets[:, None]
    return hits[:, 0].sum().double(), hits.sum().double()


@contextmanager
def torch_errors(recipe: Recipe, execution: Execution) -> Iterator[None]:
    """Translates torch's errors where memory ran out (a type of its own for CUDA, a RuntimeError's text on the CPU), a data
    worker died, or torch.compile failed."""
    try:
        yield
    except RuntimeError as error:
        if WORKER_DIED in str(error):
            raise worker_error(execution.workers) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TrainingError(f"torch.compile failed ({reason}); give --no-compile") from error
        if not isinstance(error, torch.cuda.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        batch = execution.micro_batch or recipe.batch
        raise TrainingError(
            f"out of memory at {batch} images at once; give --micro-batch {max(1, batch // 2)}, which leaves the batch as it is"
        ) from error
