"""The test protocols: which scales, boxes and mirrors of an image are scored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from vgg_deploy.errors import UsageError
from vgg_deploy.network.manifest import Manifest, Rescaling, TrainScale
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.views.images import rescaled_size
from vgg_deploy.views.protocols import PROTOCOLS, Protocol, choose_protocol, multiscale_defaults, single_scale_default
from vgg_deploy.views.view import View


@pytest.fixture
def manifest(narrow_spec: Callable[..., NetworkSpec], manifest_for: Callable[..., Manifest]) -> Callable[..., Manifest]:
    """`manifest(Smin, Smax=Smin, crop=224, **fields)`."""

    def make(minimum: int, maximum: int | None = None, crop: int = 224, **fields: Any) -> Manifest:
        return manifest_for(narrow_spec("A", crop=crop), train_scale=TrainScale(minimum, maximum or minimum), **fields)

    return make


@pytest.mark.parametrize(
    ("train_scale", "single", "multi"),
    [
        (TrainScale(256, 256), 256, (224, 256, 288)),
        (TrainScale(384, 384), 384, (352, 384, 416)),
        (TrainScale(256, 512), 384, (256, 384, 512)),
        (TrainScale(256, 257), 256, (256, 257)),
    ],
)
def test_default_scales_are_the_papers(train_scale: TrainScale, single: int, multi: tuple[int, ...]) -> None:
    assert single_scale_default(train_scale) == single
    assert multiscale_defaults(train_scale) == multi


@pytest.mark.parametrize("crop", range(32, 1025, 32))
def test_default_scales_are_in_proportion_to_the_crop(manifest: Callable[..., Manifest], crop: int) -> None:
    scale = 256 * crop // 224
    for name in ("multiscale", "150-crop", "multiscale+150-crop"):
        choice = choose_protocol(manifest(scale, crop=crop), name, free_size=True)
        low, middle, high = choice.protocol.scales
        assert (low, middle) == (crop, scale)  # 224 and 256 for 224
        assert high - crop == pytest.approx(64 * crop / 224, abs=2)
        assert choice.notices == ()


def test_the_step_between_scales_is_nine_pixels_for_a_crop_of_64(
    manifest: Callable[..., Manifest],
) -> None:
    assert choose_protocol(manifest(80, crop=64), "multiscale", free_size=True).protocol.scales == (71, 80, 89)


@pytest.mark.parametrize(
    ("name", "scales", "expected"),
    [
        (None, None, ("multiscale", (256, 384, 512))),
        (None, (300,), ("dense", (300,))),
        (None, (512, 256), ("multiscale", (256, 512))),
        ("multiscale", (448, 224, 320), ("multiscale", (224, 320, 448))),
        ("center", (256,), ("center", (256,))),
    ],
)
def test_a_model_of_free_size_is_tested_as_asked_or_as_the_paper_tests(
    manifest: Callable[..., Manifest], name: str | None, scales: tuple[int, ...] | None, expected: tuple[Any, ...]
) -> None:
    choice = choose_protocol(manifest(256, 512), name, scales, free_size=True)
    assert (choice.protocol.name, choice.protocol.scales) == expected
    assert choice.protocol.crop == (224 if name == "center" else None)
    assert choice.notices == ()


def test_the_crop_takes_the_place_of_a_default_scale_below_it_and_a_notice_says_so(
    manifest: Callable[..., Manifest],
) -> None:
    choice = choose_protocol(manifest(240), free_size=True)
    assert choice.protocol.scales == (224, 240, 272)
    assert choice.notices == (
        "multiscale: the default Q=208 is below the network's crop of 224; Q=224,240,272 are averaged instead",
    )


def test_if_all_defaults_are_below_the_crop_the_notice_says_that_only_the_crop_is_scored(
    manifest: Callable[..., Manifest],
) -> None:
    for name, small in (
        ("multiscale", "128,144,160"),
        ("150-crop", "128,144,160"),
        ("dense", "144"),
        ("center", "144"),
    ):
        choice = choose_protocol(manifest(128, 160), name, free_size=True)
        assert choice.protocol.scales == (224,)
        assert choice.notices == (
            f"{name}: the default Q={small} is below the network's crop of 224; Q=224 is scored instead",
        )


@pytest.mark.parametrize(
    ("name", "scales", "named"),
    [
        ("ten-crop", None, "protocol is 'ten-crop'; expected center, dense, multiscale"),
        ("dense", (223,), "scale 223 is below the network's crop of 224"),
        ("multiscale", (256, 256), "expected different whole numbers"),
        ("multiscale", (), "expected different whole numbers"),
    ],
)
def test_a_protocol_that_is_impossible_is_refused(
    manifest: Callable[..., Manifest], name: str, scales: tuple[int, ...] | None, named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        choose_protocol(manifest(256), name, scales, free_size=True)


def test_a_foreign_model_of_free_size_needs_its_scales(manifest: Callable[..., Manifest]) -> None:
    foreign = manifest(224).with_(spec=None, normalization=None, shapes=None)
    with pytest.raises(UsageError, match="give --scales, such as"):
        choose_protocol(foreign, free_size=True)
    assert choose_protocol(foreign, scales=(256,), free_size=True).protocol.scales == (256,)


def test_a_model_of_fixed_size_is_tested_by_central_crops_and_says_so(manifest: Callable[..., Manifest]) -> None:
    choice = choose_protocol(manifest(256), free_size=False)
    assert choice.protocol == Protocol("center", (256,), 224, False)
    assert "--dynamic" in choice.notices[0]
    assert choose_protocol(manifest(256), "center", free_size=False).notices == ()


@pytest.mark.parametrize("name", ["dense", "multiscale"])
def test_whole_images_are_refused_for_a_model_of_fixed_size(manifest: Callable[..., Manifest], name: str) -> None:
    with pytest.raises(UsageError, match=f"protocol {name} scores whole images.*--dynamic, or use --protocol center"):
        choose_protocol(manifest(256), name, free_size=False)


@pytest.mark.parametrize("trained", [True, False])
def test_mirrors_follow_the_training_unless_asked_otherwise(manifest: Callable[..., Manifest], trained: bool) -> None:
    mirrors = [
        choose_protocol(manifest(256, mirror=trained), mirror=asked, free_size=True).protocol.mirror
        for asked in (None, True, False)
    ]
    assert mirrors == [trained, True, False]


def test_the_center_protocol_has_mirrors_only_when_asked(manifest: Callable[..., Manifest]) -> None:
    assert not choose_protocol(manifest(256), "center", free_size=True).protocol.mirror
    assert choose_protocol(manifest(256), "center", mirror=True, free_size=True).protocol.mirror


def test_a_dense_view_is_the_whole_image_at_each_scale_and_its_mirror() -> None:
    assert Protocol("multiscale", (256, 288), None, True).views(375, 500, Rescaling()) == (
        View(256, None, False),
        View(256, None, True),
        View(288, None, False),
        View(288, None, True),
    )
    assert Protocol("dense", (256,), None, False).views(375, 500, Rescaling()) == (View(256, None, False),)


@pytest.mark.parametrize("rounding", ["floor", "nearest"])
@pytest.mark.parametrize("size", [(500, 333), (224, 224), (7, 7)])
def test_a_center_view_is_a_crop_within_the_rescaled_image(size: tuple[int, int], rounding: str) -> None:
    rescaling = Rescaling(rounding=rounding)
    (view,) = Protocol("center", (256,), 224, False).views(*size, rescaling)
    rows, columns = rescaled_size(*size, 256, rounding)
    top, left, height, width = view.box
    assert (height, width) == (224, 224)
    assert abs(top - (rows - 224) / 2) <= 0.5
    assert abs(left - (columns - 224) / 2) <= 0.5


def test_a_protocol_describes_itself() -> None:
    assert str(Protocol("center", (256,), 224, False)) == "center: central 224x224 crop at Q=256"
    assert str(Protocol("multiscale", (256, 288), None, True)) == "multiscale: whole image at Q=256,288, with mirrors"


def test_each_protocol_has_its_own_default_scales(manifest: Callable[..., Manifest]) -> None:
    single, several = (384,), (256, 384, 512)
    expected: dict[str, tuple[int, ...]] = {
        "center": single,
        "dense": single,
        "multiscale": several,
        "10-crop": (256,),
        "144-crop": (256, 288, 320, 352),
        "50-crop": single,
        "150-crop": several,
        "multiscale+150-crop": several,
    }
    assert tuple(expected) == PROTOCOLS
    for name, scales in expected.items():
        protocol = choose_protocol(manifest(256, 512), name, free_size=True).protocol
        assert (protocol.name, protocol.scales) == (name, scales)
        assert protocol.crop == (None if name in ("dense", "multiscale") else 224)
        assert protocol.mirror is (name != "center")


def test_other_papers_scales_are_in_proportion_to_the_crop(manifest: Callable[..., Manifest]) -> None:
    for name, scales in (("10-crop", (73,)), ("144-crop", (73, 82, 91, 101))):
        assert choose_protocol(manifest(73, crop=64), name, free_size=True).protocol.scales == scales


@pytest.mark.parametrize("name", ["center", "10-crop", "50-crop"])
def test_a_protocol_of_one_scale_refuses_several_and_names_the_one_that_takes_them(
    manifest: Callable[..., Manifest], name: str
) -> None:
    other = "150-crop" if name == "50-crop" else "multiscale"
    with pytest.raises(UsageError, match=f"protocol {name} takes one scale, but 2 were given; use --protocol {other}"):
        choose_protocol(manifest(256), name, (256, 288), free_size=True)
    assert choose_protocol(manifest(256), name, (288,), free_size=True).protocol.scales == (288,)


def test_the_parts_of_a_protocol_are_protocols_of_their_own(manifest: Callable[..., Manifest]) -> None:
    chosen = {name: choose_protocol(manifest(256, 512), name, free_size=True).protocol for name in PROTOCOLS}
    assert chosen["multiscale+150-crop"].parts == (chosen["multiscale"], chosen["150-crop"])
    for name in PROTOCOLS[:-1]:
        assert chosen[name].parts == (chosen[name],)


@pytest.mark.parametrize("name", ["10-crop", "150-crop"])
def test_crops_need_no_free_size_and_whole_images_with_them_do(manifest: Callable[..., Manifest], name: str) -> None:
    assert choose_protocol(manifest(256), name, free_size=False).protocol.crop == 224
    with pytest.raises(UsageError, match=r"protocol multiscale\+150-crop scores whole images"):
        choose_protocol(manifest(256), "multiscale+150-crop", free_size=False)


def test_crops_of_a_foreign_model_of_free_size_are_refused(manifest: Callable[..., Manifest]) -> None:
    foreign = manifest(224).with_(spec=None, normalization=None, shapes=None)
    with pytest.raises(UsageError, match="a model without a manifest does not state: use --protocol dense"):
        choose_protocol(foreign, "10-crop", free_size=True)
