"""The batches of an epoch, the same for any number of data workers. Each process gets its share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from train.compute.execution import Execution
from train.data.crops import Example, ImageDataset, Key
from vgg_deploy.errors import ImageError, TrainingError

WORKER_DIED = "DataLoader worker"  # in torch's RuntimeError, which its signal handler may raise anywhere


def worker_error(workers: int) -> TrainingError:
    """The error for a data worker that died."""
    return TrainingError(
        f"one of {workers} data workers died, usually because (shared) memory ran out; "
        "use fewer --workers (--workers 0 uses no shared memory)"
    )


class BatchShare(NamedTuple):
    """This process's share of a batch.

    Attributes:
        values: [n, ...], such as crops uint8 [n, crop, crop, 3]; see `Example`.
        targets: int64 [n], classes.
        indices: int64 [n], the images' places in their set.
        shifts: float32 [n, 3], what training adds to RGB, in units of 0..255.
        total: images of the batch in all processes.
        counts: False for a process that has no image of this batch. All processes take part in each step, so it
            computes an image of another process, and the result does not count.
    """

    values: Tensor
    targets: Tensor
    indices: Tensor
    shifts: Tensor
    total: int
    counts: bool


class _Order(Sampler[list[Key]]):
    """One process's share of the batches of an epoch, in order, or shuffled by seed and epoch."""

    def __init__(self, count: int, batch: int, shuffle_seed: int | None, rank: int, processes: int) -> None:
        self.count, self.batch, self.shuffle_seed = count, batch, shuffle_seed
        self.rank, self.processes = rank, processes
        self.epoch = self.first = 0  # the epoch, and its first batch, that the next iteration gives

    def __len__(self) -> int:
        return -(-self.count // self.batch) - self.first

    def total(self, number: int) -> int:
        """Images of a batch in all processes."""
        return min(self.batch, self.count - number * self.batch)

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.arange(self.count)
        if self.shuffle_seed is not None:
            # The last number is 0 here and at least 1 in TrainCrops, so that their random streams differ.
            order = np.random.default_rng((self.shuffle_seed, self.epoch, 0)).permutation(self.count)
        for start in range(self.first * self.batch, self.count, self.batch):
            batch = order[start : start + self.batch]
            share = batch[self.rank :: self.processes]
            yield [(self.epoch, int(index)) for index in (share if len(share) else batch[:1])]


class BatchLoader:
    """Loads the batches of a dataset, an epoch at a time.

    Args:
        dataset: makes a sample of each image.
        batch: images of each batch but the last, in all processes.
        execution: gives the data workers and processes. For a GPU, batches lie in page-locked memory, which copies
            faster.
        shuffle_seed: None: in order.
    """

    def __init__(
        self, dataset: ImageDataset, batch: int, execution: Execution, *, shuffle_seed: int | None = None
    ) -> None:
        processes = execution.processes
        self._order = _Order(len(dataset.images), batch, shuffle_seed, processes.rank, processes.size)
        self._workers = min(execution.workers, len(self._order))
        self._loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=self._order,
            num_workers=self._workers,
            collate_fn=_collated,
            pin_memory=execution.on_gpu,
            worker_init_fn=_ignore_interrupts,
            persistent_workers=self._workers > 0,
            generator=torch.Generator(),  # the loader draws from torch's global generator otherwise
        )

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return -(-self._order.count // self._order.batch)

    def epoch(self, number: int, first: int = 0) -> Iterator[BatchShare]:
        """This process's share of the batches of an epoch, from batch `first` on.

        Raises:
            ImageError: an image is broken; the message names its file.
            TrainingError: a worker died.
        """
        order = self._order
        order.epoch, order.first = number, first
        try:
            for batch_number, batch in enumerate(self._loader, first):
                if isinstance(batch, ImageError):
                    raise batch
                values, targets, indices, shifts = batch
                total = order.total(batch_number)
                yield BatchShare(values, targets, indices, shifts, total, order.rank < total)
        except RuntimeError as error:
            if WORKER_DIED not in str(error):
                raise
            raise worker_error(self._workers) from error


def _collated(samples: list[Example | ImageError]) -> tuple[Tensor, Tensor, Tensor, Tensor] | ImageError:
    decoded: list[Example] = []
    for sample in samples:
        if isinstance(sample, ImageError):
            return sample
        decoded.append(sample)
    return (
        torch.from_numpy(np.stack([sample.values for sample in decoded])),
        torch.tensor([sample.target for sample in decoded]),
        torch.tensor([sample.index for sample in decoded]),
        torch.tensor([sample.shift for sample in decoded], dtype=torch.float32),
    )


def _ignore_interrupts(_worker: int) -> None:
    """Ctrl-C reaches the data workers too; the training process alone handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
