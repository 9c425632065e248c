"""The shape of a batch, as text and as work."""

from __future__ import annotations

import pytest

from vgg_deploy.bench.batch_shape import BatchShape
from vgg_deploy.errors import UsageError
from vgg_deploy.network.spec import NetworkSpec


def test_vgg16_at_224_is_31_gflop_an_image() -> None:
    # Multiply-accumulates by hand: positions x kernel x channels in x channels out.
    convolutions = 9 * (
        224**2 * (3 * 64 + 64 * 64)
        + 112**2 * (64 * 128 + 128 * 128)
        + 56**2 * (128 * 256 + 2 * 256 * 256)
        + 28**2 * (256 * 512 + 2 * 512 * 512)
        + 14**2 * 3 * 512 * 512
    )
    fc = 49 * 512 * 4096 + 4096 * 4096 + 4096 * 1000
    spec = NetworkSpec("D")
    assert BatchShape(1, 224, 224).gflop(spec) == pytest.approx(2 * (convolutions + fc) / 1e9)
    assert BatchShape(1, 224, 224).gflop(spec) == pytest.approx(30.94, abs=0.01)
    assert BatchShape(8, 224, 224).gflop(spec) == pytest.approx(8 * 30.94, abs=0.1)


def test_a_finer_grid_costs_more_on_a_larger_image_and_the_same_on_a_crop() -> None:
    plain, fine = NetworkSpec("A"), NetworkSpec("A", fine=True)
    assert BatchShape(1, 224, 224).gflop(fine) == BatchShape(1, 224, 224).gflop(plain)
    assert BatchShape(1, 384, 512).gflop(fine) > BatchShape(1, 384, 512).gflop(plain)


def test_work_below_the_crop_is_refused() -> None:
    with pytest.raises(UsageError, match="needs at least 224x224"):
        BatchShape(1, 200, 300).gflop(NetworkSpec("D"))


def test_a_shape_is_read_as_it_is_written() -> None:
    assert BatchShape.parse(" 8x224X512") == BatchShape(8, 224, 512)
    assert str(BatchShape(8, 224, 512)) == "8x224x512"


@pytest.mark.parametrize("text", ["224x224", "1x3x224x224", "1xax224", "", "1x-2x3", "1x²x3"])
def test_other_text_is_not_a_shape(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected NxHxW.*such as 1x224x224"):
        BatchShape.parse(text)


def test_a_shape_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="a shape is 0x224x224"):
        BatchShape.parse("0x224x224")
