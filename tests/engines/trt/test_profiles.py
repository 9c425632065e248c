"""The shapes for which a plan is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engines.trt.build_options import BuildOptions
from engines.trt.profiles import profiles_of, resolve
from vgg_deploy.network.manifest import Manifest, Rescaling, TrainScale
from vgg_deploy.network.shapes import AxisRange, Profile, ShapeRange
from vgg_deploy.views.images import rescaled_size
from vgg_deploy.views.protocols import choose_protocol

FREE = ShapeRange(AxisRange(1), AxisRange(64), AxisRange(64))


@pytest.fixture
def manifest(narrow_spec: Callable[..., Any], manifest_for: Callable[..., Manifest]) -> Callable[..., Manifest]:
    """`manifest(**fields)`: of an ONNX file of free shape, crop 64, S 96."""
    return lambda **fields: manifest_for(
        narrow_spec("A"), **{"shapes": FREE, "train_scale": TrainScale(96, 96), **fields}
    )


def made(manifest: Manifest, **options: Any) -> tuple[Profile, ...]:
    return profiles_of(manifest, resolve(manifest, BuildOptions(**options))[0])


def test_a_profile_accepts_upright_and_flat_images_up_to_the_largest_aspect(manifest: Callable[..., Manifest]) -> None:
    (profile,) = made(manifest(), scales=(96,), max_batch=6)
    assert profile == Profile((96,), minimum=(1, 96, 96), optimum=(4, 96, 128), maximum=(6, 192, 192))
    assert profile.accepts((6, 96, 192))
    assert profile.accepts((1, 192, 96))
    assert not profile.accepts((1, 193, 96))
    assert not profile.accepts((7, 96, 96))


def test_the_default_scales_are_those_of_inference(manifest: Callable[..., Manifest]) -> None:
    for scale in (TrainScale(96, 96), TrainScale(70, 70), TrainScale(64, 200)):
        known = manifest(train_scale=scale)
        options, notices = resolve(known, BuildOptions())
        choice = choose_protocol(known, "multiscale", free_size=True)
        assert (options.scales, notices) == (choice.protocol.scales, choice.notices)
    assert [profile.scales for profile in made(manifest())] == [(87,), (96,), (105,)]


def test_resolved_options_contain_the_defaults(manifest: Callable[..., Manifest]) -> None:
    options, _ = resolve(manifest(), BuildOptions())
    assert (options.max_batch, options.max_aspect) == (8, 2.0)


def test_one_profile_reaches_from_the_smallest_to_the_largest_scale(manifest: Callable[..., Manifest]) -> None:
    (profile,) = made(manifest(), scales=(128, 64, 96), one_profile=True)
    assert profile == Profile((64, 96, 128), (1, 64, 64), (4, 96, 128), (8, 256, 256))


@pytest.mark.parametrize(("batch", "optimal"), [(1, 1), (4, 4), (8, 4)])
def test_kernels_are_chosen_for_the_batches_of_infer(
    batch: int, optimal: int, manifest: Callable[..., Manifest]
) -> None:
    (profile,) = made(manifest(), scales=(96,), max_batch=batch)
    assert (profile.optimum[0], profile.maximum[0]) == (optimal, batch)


@pytest.mark.parametrize("aspect", [1.0, 1.15, 4 / 3, 2.0])
@pytest.mark.parametrize("rounding", ["floor", "nearest"])
def test_every_image_up_to_the_largest_aspect_is_taken_and_none_beyond(
    aspect: float, rounding: str, manifest: Callable[..., Manifest]
) -> None:
    known = manifest(rescaling=Rescaling(rounding=rounding))
    for scale in (64, 100, 101, 333):
        (profile,) = made(known, scales=(scale,), max_aspect=aspect)
        assert profile.minimum <= profile.optimum
        for short in (100, 375, 500, 1000):
            longest = int(short * aspect + 1e-9)
            height, width = rescaled_size(short, longest, scale, rounding)
            assert profile.accepts((1, height, width))
            assert profile.accepts((1, width, height))
        height, width = rescaled_size(1000, int(1000 * aspect) + 30, scale, rounding)
        assert not profile.accepts((1, height, width))


def test_a_model_of_one_shape_has_that_profile(manifest: Callable[..., Manifest]) -> None:
    fixed = manifest(shapes=ShapeRange(AxisRange(2, 2), AxisRange(64, 64), AxisRange(64, 64)))
    assert made(fixed) == (Profile((), (2, 64, 64), (2, 64, 64), (2, 64, 64)),)
