"""Batches of views, an epoch at a time, each process its share; the same for any number of data workers."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from train.data.crops import ImageDataset, Key, Sample
from vgg_deploy.errors import ImageError, TrainingError

WORKER_DIED = "DataLoader worker"  # in torch's RuntimeError, which a signal's handler may raise anywhere


def worker_error(workers: int) -> TrainingError:
    """What to say where a data worker died."""
    return TrainingError(
        f"one of {workers} data workers died, often for want of (shared) memory: give fewer --workers; --workers 0 needs none"
    )


class Batch(NamedTuple):
    """This process's share of a batch.

    Attributes:
        views: [n, ...] of their dtype, such as uint8 [n, crop, crop, 3].
        targets: int64 [n], classes.
        indices: int64 [n], the images' places in their set.
        shifts: float32 [n, 3], what is added to RGB, in units of 0..255.
        total: images of the batch in all processes.
        counts: whether its images count. Where there are more processes than images, those without one get another's, so
            that all take part in each step.
    """

    views: Tensor
    targets: Tensor
    indices: Tensor
    shifts: Tensor
    total: int
    counts: bool


class _Order(Sampler[list[Key]]):
    """The batches of one epoch, shuffled by the seed and the epoch, or in order; of each, one process's share."""

    def __init__(self, count: int, batch: int, shuffle_seed: int | None, rank: int, processes: int) -> None:
        self.count, self.batch, self.shuffle_seed, self.rank, self.processes = (
            count,
            batch,
            shuffle_seed,
            rank,
            processes,
        )
        self.epoch = self.first = 0  # which batches come next

    def __len__(self) -> int:
        return -(-self.count // self.batch) - self.first

    def total(self, number: int) -> int:
        """Images of a batch, in all processes."""
        return min(self.batch, self.count - number * self.batch)

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.arange(self.count)
        if self.shuffle_seed is not None:
            # The last number is 0 here and from 1 on in TrainCrops: one stream of chance for each use.
            order = np.random.default_rng((self.shuffle_seed, self.epoch, 0)).permutation(self.count)
        for start in range(self.first * self.batch, self.count, self.batch):
            batch = order[start : start + self.batch]
            share = batch[self.rank :: self.processes]
            yield [(self.epoch, int(index)) for index in (share if len(share) else batch[:1])]


class BatchLoader:
    """Batches of a set's views, an epoch at a time; the same for any number of workers.

    Args:
        views: what is made of each image.
        batch: images in each batch but the last.
        workers: processes that decode; 0: this one.
        shuffle_seed: None: in order.
        pinned: whether to put batches into page-locked memory, from which a GPU copies faster.
        rank, processes: which of how many training processes this is.
    """

    def __init__(
        self,
        views: ImageDataset,
        batch: int,
        *,
        workers: int = 0,
        shuffle_seed: int | None = None,
        pinned: bool = False,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self._order = _Order(len(views.images), batch, shuffle_seed, rank, processes)
        self._workers = min(workers, len(self._order))
        self._loader: DataLoader[Any] = DataLoader(
            views,
            batch_sampler=self._order,
            num_workers=self._workers,
            collate_fn=_collated,
            pin_memory=pinned,
            worker_init_fn=_leave_interrupts_to_the_main_process,
            persistent_workers=self._workers > 0,
            generator=torch.Generator(),  # of its own: the default one is dropout's
        )

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return -(-self._order.count // self._order.batch)

    def epoch(self, number: int, first: int = 0) -> Iterator[Batch]:
        """This process's share of the batches of an epoch, from batch `first` on.

        Raises:
            ImageError: an image is broken; names its file.
            TrainingError: a worker died.
        """
        order = self._order
        order.epoch, order.first = number, first
        try:
            for number_in_epoch, batch in enumerate(self._loader, first):
                if isinstance(batch, ImageError):
                    raise batch
                total = order.total(number_in_epoch)
                views, targets, indices, shifts = batch
                yield Batch(views, targets, indices, shifts, total, order.rank < total)
        except RuntimeError as error:
            if WORKER_DIED not in str(error):
                raise
            raise worker_error(self._workers) from error


def _collated(samples: list[Sample | ImageError]) -> tuple[Tensor, Tensor, Tensor, Tensor] | ImageError:
    found: list[Sample] = []
    for sample in samples:
        if isinstance(sample, ImageError):
            return sample
        found.append(sample)
    views, targets, indices, shifts = zip(*found, strict=True)
    return (
        torch.from_numpy(np.stack(views)),
        torch.tensor(targets),
        torch.tensor(indices),
        torch.tensor(shifts, dtype=torch.float32),
    )


def _leave_interrupts_to_the_main_process(_worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
