"""A network and its optimizer: one step of SGD at a time, in one process or several (section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from train.compute.execution import Execution
from train.data.loader import WORKER_DIED, BatchShare, worker_error
from train.network.dropout import masks
from train.network.model import VGG
from train.network.reference import normalize
from train.recipe import Recipe
from vgg_deploy.errors import TrainingError, reason_of
from vgg_deploy.network.manifest import Normalization


class Learner:
    """Trains a network batch by batch, and validates it.

    Args:
        recipe: gives the network, the optimizer and the dropout.
        weights: the weights of all layers, in FC form. All processes use those of the first process.
        normalization: how pixels are normalized.
        execution: where it computes.
    """

    def __init__(
        self, recipe: Recipe, weights: Mapping[str, Tensor], normalization: Normalization, execution: Execution
    ) -> None:
        self._recipe, self._normalization, self._execution = recipe, normalization, execution
        self._layout = torch.channels_last if execution.channels_last else torch.contiguous_format
        self._network = VGG(recipe.spec)
        self._network.load_state_dict(dict(weights))
        self._network.to(execution.device, memory_format=self._layout)  # type: ignore[call-overload]
        frozen = {layer.name for layer in recipe.spec.convolutions} if recipe.freeze_features else set()
        for name, parameter in self._network.named_parameters():
            parameter.requires_grad_(name.rpartition(".")[0] not in frozen)
        execution.processes.broadcast([parameter.data for parameter in self._network.parameters()])
        self._trained = {name: value for name, value in self._network.named_parameters() if value.requires_grad}
        self._optimizer = torch.optim.SGD(
            self._trained.values(), recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
        )
        self._parallel: DistributedDataParallel | None = None
        if execution.processes.size > 1:
            devices = [torch.device(execution.device)] if execution.on_gpu else None
            self._parallel = DistributedDataParallel(self._network, device_ids=devices)
        training: nn.Module = self._parallel or self._network
        self._training = torch.compile(training) if execution.compiled else training

    def step(self, batch: BatchShare, epoch: int, learning_rate: float) -> Tensor:
        """One step of SGD over the batch of all processes.

        Returns float64 [3] on the device, over this process's images: the sum of cross-entropies, the number of images
        whose class has the highest score, and the number whose class is among the five highest.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel averages gradients over processes; the factor makes it the mean over the batch's
        # images.
        weight = self._execution.processes.size / batch.total if batch.counts else 0.0
        sums = torch.zeros(3, dtype=torch.float64, device=self._execution.device)
        parts = self._parts(batch)
        for part in parts:
            wait = self._parallel is not None and part is not parts[-1]
            with self._parallel.no_sync() if wait and self._parallel else nullcontext():
                loss, hits = self._forward(batch, part, epoch)
                (loss * weight).backward()  # type: ignore[no-untyped-call]
            if batch.counts:
                sums += torch.stack((loss.detach().double(), *hits))
        self._optimizer.step()
        return sums

    def _forward(self, batch: BatchShare, part: slice, epoch: int) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        device, recipe = self._execution.device, self._recipe
        images = self._images(batch, part)  # [n, 3, crop, crop]
        targets = batch.targets[part].to(device, non_blocking=True)  # [n]
        if recipe.rgb_shift:
            shifts = batch.shifts[part].to(device, non_blocking=True)  # [n, 3]
            images = images + (shifts / torch.tensor(self._normalization.std, device=device))[:, :, None, None]
        indices = batch.indices[part].to(device, non_blocking=True)  # [n]
        # Not compiled: torch.compile (2.15) overflows on the 64-bit constants.
        dropout = masks(recipe.seed, epoch, indices, recipe.spec.fc_width, recipe.dropout)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=self._execution.bf16):
            scores = self._training(images, dropout).float()  # [n, classes]
        return functional.cross_entropy(scores, targets, reduction="sum"), _hits(scores.detach(), targets)

    def _images(self, batch: BatchShare, part: slice) -> Tensor:
        pixels = batch.values[part].to(self._execution.device, non_blocking=True)  # [n, crop, crop, 3]
        return normalize(pixels, self._normalization).contiguous(memory_format=self._layout)  # [n, 3, crop, crop]

    @torch.inference_mode()
    def validate(self, batch: BatchShare) -> Tensor:
        """The sums that `step` returns, without dropout and without learning, in float32."""
        sums = torch.zeros(3, dtype=torch.float64, device=self._execution.device)
        for part in self._parts(batch) if batch.counts else ():
            scores = self._network(self._images(batch, part))  # [n, classes]
            targets = batch.targets[part].to(self._execution.device)  # [n]
            loss = functional.cross_entropy(scores, targets, reduction="sum")
            sums += torch.stack((loss.double(), *_hits(scores, targets)))
        return sums

    def _parts(self, batch: BatchShare) -> list[slice]:
        """The micro-batches of a batch."""
        count = len(batch.indices)
        size = min(self._execution.micro_batch or count, count)
        return [slice(start, start + size) for start in range(0, count, size)]

    @property
    def weights(self) -> dict[str, Tensor]:
        """The network's own tensors, on its device."""
        return self._network.state_dict()

    def tensors(self) -> dict[str, Tensor]:
        """Copies on the CPU of all tensors that a step changes: weights/NAME, and after a first step momentum/NAME."""
        tensors = {f"weights/{name}": value for name, value in self.weights.items()}
        for name, parameter in self._trained.items():
            momentum = self._optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum/{name}"] = momentum
        return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()}

    def restore(self, momentum: Mapping[str, Tensor]) -> None:
        """Restores the momentum by name. All processes use that of the first process."""
        processes = self._execution.processes
        if not processes.agreed(lambda: bool(momentum)):
            return
        for name, parameter in self._trained.items():
            buffer = torch.zeros_like(parameter)
            if processes.first:
                buffer.copy_(momentum[name])
            processes.broadcast([buffer])
            self._optimizer.state[parameter]["momentum_buffer"] = buffer


def _hits(scores: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The number of targets with the highest score, and with one of the five highest. [n, classes], [n]."""
    hits = scores.topk(min(5, scores.shape[1])).indices == targets[:, None]  # [n, 5]
    return hits[:, 0].sum().double(), hits.sum().double()


@contextmanager
def torch_errors(recipe: Recipe, execution: Execution) -> Iterator[None]:
    """Translates torch's errors if memory runs out, a data worker dies, or torch.compile fails."""
    try:
        yield
    except RuntimeError as error:
        if WORKER_DIED in str(error):
            raise worker_error(execution.workers) from error
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise TrainingError(f"torch.compile failed ({reason_of(error)}); use --no-compile") from error
        # CUDA has a type for it; on the CPU it is a RuntimeError with this text.
        if not isinstance(error, torch.cuda.OutOfMemoryError) and "DefaultCPUAllocator" not in str(error):
            raise
        images = execution.micro_batch or recipe.batch
        raise TrainingError(
            f"out of memory when computing {images} images at once; use --micro-batch {max(1, images // 2)}, which "
            "does not change the result"
        ) from error
