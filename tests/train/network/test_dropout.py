"""Masks of dropout depend on the image, and are random."""

from __future__ import annotations

import pytest
import torch

from train.network.dropout import masks

UNITS = 512


def drawn(seed: int = 0, epoch: int = 1, layer: int = 0, images: int = 64, dropped: float = 0.5) -> torch.Tensor:
    return masks(seed, epoch, torch.arange(images), UNITS, dropped)[layer]


def test_the_mask_of_an_image_does_not_depend_on_the_rest_of_its_batch():
    alone = masks(0, 1, torch.tensor([5]), UNITS, 0.5)[1]
    among = masks(0, 1, torch.tensor([9, 5, 1]), UNITS, 0.5)[1]
    assert torch.equal(alone[0], among[1])


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 2}, {"layer": 1}])
def test_seed_epoch_and_layer_each_give_other_masks(change: dict[str, int]):
    first, second = drawn() > 0, drawn(**change) > 0
    assert (first == second).float().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("dropped", [0.5, 0.2, 0.9])
def test_a_fraction_is_dropped_and_the_rest_is_scaled_up(dropped: float):
    mask = drawn(dropped=dropped)
    assert (mask == 0).float().mean().item() == pytest.approx(dropped, abs=0.01)
    assert mask.max().item() == pytest.approx(1 / (1 - dropped))


def test_units_and_images_are_drawn_independently():
    bits = (drawn(images=512) > 0).float() - 0.5
    for pairs in (bits @ bits.T, bits.T @ bits):
        between = (4 * pairs / UNITS).fill_diagonal_(0)
        assert between.abs().max().item() < 6 / UNITS**0.5  # six standard deviations of independent bits
    assert bits.mean(dim=0).abs().max().item() < 0.5 * 6 / UNITS**0.5


def test_the_arithmetic_is_that_of_unsigned_64_bit_numbers():
    def mixed(value: int) -> int:
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
        return value ^ (value >> 31)

    golden, state = 0x9E3779B97F4A7C15, 7
    for number in (3, 1):  # epoch and image
        state = mixed((state + number) * golden % 2**64)
    expected = [mixed(mixed((state + (unit + (1 << 32)) * golden) % 2**64)) >> 63 for unit in range(UNITS)]
    mask = masks(7, 3, torch.tensor([1]), UNITS, 0.5)[1]
    assert (mask[0] > 0).int().tolist() == expected


def test_without_dropout_there_are_no_masks():
    assert masks(0, 1, torch.arange(3), UNITS, 0.0) == ()
