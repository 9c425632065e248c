"""Dropout whose masks depend only on seed, epoch and image, not on the process or the micro-batch.

torch's dropout draws from one stream for a batch, so its masks depend on how a batch is divided. Here the random number
of each unit is a hash of a counter (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), with the mixing
function of SplitMix64 (Steele et al. 2014). It is integer arithmetic, the same on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor

DROPOUT_LAYERS = 2  # fc6 and fc7 (section 3.1)
_BITS = 24  # of each random number; a float32 holds them exactly
_LAYER = 1 << 32  # distance of the layers' counters; more than a layer has units


def _signed(value: int) -> int:
    """The int64 with the bits of an unsigned 64-bit number. torch's int64 products wrap like unsigned ones."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value


_GAMMA = _signed(0x9E3779B97F4A7C15)
_FIRST, _SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """A logical shift to the right. The shift of int64 extends the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(value: Tensor) -> Tensor:
    value = (value ^ _shifted(value, 30)) * _FIRST
    value = (value ^ _shifted(value, 27)) * _SECOND
    return value ^ _shifted(value, 31)


def masks(seed: int, epoch: int, indices: Tensor, units: int, dropped: float) -> tuple[Tensor, ...]:
    """The masks of fc6 and fc7 for images of an epoch: float32 [n, units], on the device of `indices`.

    A dropped unit has 0, the others 1 / (1 - dropped), so that the expected output does not change.

    Args:
        indices: int64 [n], the images' places in the training set.
        units: the number of units of each layer.
        dropped: the probability of a zero, from 0 to below 1. For 0 there are no masks.
    """
    if not dropped:
        return ()
    state = torch.tensor([_signed(seed)], device=indices.device)
    for number in (torch.tensor([epoch], device=indices.device), indices):
        state = _mixed((state + number) * _GAMMA)
    layers = []
    for layer in range(DROPOUT_LAYERS):
        counters = torch.arange(units, device=indices.device) + layer * _LAYER  # [units]
        drawn = _shifted(_mixed(_mixed(state[:, None] + counters * _GAMMA)), 64 - _BITS)  # [n, units]
        layers.append((drawn >= int(dropped * (1 << _BITS))).to(torch.float32) / (1 - dropped))
    return tuple(layers)
