"""Dropout whose masks belong to images: by seed, epoch and image, whatever process or micro-batch an image is computed in.

torch's own draws from one stream for a batch, so that its masks follow from how a batch is divided. Here each unit's chance
is a hash of a counter (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), with the mixing function of
SplitMix64 (Steele et al. 2014). It is integer arithmetic, the same on each device.
"""

from __future__ import annotations

import torch
from torch import Tensor

DROPOUT_LAYERS = 2  # fc6 and fc7 (section 3.1)
_BITS = 24  # of each chance: what a float32 holds
_LAYER = 1 << 32  # more units than a layer has


def _signed(value: int) -> int:
    """An unsigned 64-bit number as the int64 of the same bits; torch's int64 products wrap as unsigned ones do."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """A logical shift to the right; int64's own brings the sign along."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(value: Tensor) -> Tensor:
    value = (value ^ _shifted(value, 30)) * _FIRST
    value = (value ^ _shifted(value, 27)) * _SECOND
    return value ^ _shifted(value, 31)


def masks(seed: int, epoch: int, indices: Tensor, units: int, dropped: float) -> tuple[Tensor, ...]:
    """Of each image of an epoch, the masks of fc6 and fc7: float32 [n, units], on the device of `indices`.

    They hold 0 for a unit that is dropped, else 1 / (1 - dropped), so that the expected output stays.

    Args:
        indices: int64 [n], the images' places in the training set.
        units: of each layer.
        dropped: the probability of a zero, 0 to below 1; at 0 there are no masks.
    """
    if not dropped:
        return ()
    state = torch.tensor([_signed(seed)], device=indices.device)
    for number in (torch.tensor([epoch], device=indices.device), indices):
        state = _mixed((state + number) * _GAMMA)
    found = []
    for layer in range(DROPOUT_LAYERS):
        counters = torch.arange(units, device=indices.device) + layer * _LAYER
        drawn = _shifted(_mixed(_mixed(state[:, None] + counters * _GAMMA)), 64 - _BITS)
        found.append((drawn >= int(dropped * (1 << _BITS))).to(torch.float32) / (1 - dropped))
    return tuple(found)
