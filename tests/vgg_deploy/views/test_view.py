"""Which pixels each protocol scores: torchvision's crops, boxes worked out by hand, and what follows by definition."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vgg_deploy.inference.prediction import Prediction, predict
from vgg_deploy.network.manifest import Manifest, Rescaling
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.testing import FakeEngine
from vgg_deploy.views.images import mirrored, rescale, rescaled_size
from vgg_deploy.views.protocols import Protocol
from vgg_deploy.views.view import View, merged

LANDSCAPE, PORTRAIT, SQUARE = (375, 500), (500, 375), (300, 300)  # height, width
SHAPES = pytest.mark.parametrize("size", [LANDSCAPE, PORTRAIT, SQUARE], ids=["landscape", "portrait", "square"])
RESCALING = Rescaling()
TEN = Protocol("10-crop", (256,), 224, True)
GOOGLENET = Protocol("144-crop", (256, 288, 320, 352), 224, True)
GRID_50 = Protocol("50-crop", (256,), 224, True)
GRID_150 = Protocol("150-crop", (256, 384, 512), 224, True)
BOTH = Protocol("multiscale+150-crop", (256, 384, 512), 224, True)
CROPS = pytest.mark.parametrize("protocol", [TEN, GOOGLENET, GRID_50, GRID_150, BOTH], ids=lambda value: value.name)


def noise(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)


def seen(protocol: Protocol, pixels: np.ndarray) -> list[bytes]:
    """The views of an image that an engine gets, each as often as it counts."""
    shown = []
    for view in protocol.views(pixels.shape[0], pixels.shape[1], RESCALING):
        cut = view.cut(rescale(pixels, view.short_side, RESCALING), RESCALING)
        shown += [(mirrored(cut) if view.mirror else cut).tobytes()] * round(view.weight)
    return sorted(shown)


def boxes(protocol: Protocol, size: tuple[int, int], scale: int) -> list[tuple[int, int, int, int]]:
    """Boxes of the crops that are not resized, at one scale, not mirrored."""
    views = protocol.views(*size, RESCALING)
    return [
        view.box
        for view in views
        if view.box is not None and view.side is None and not view.mirror and view.short_side == scale
    ]


# ---- against torchvision ----


@SHAPES
@pytest.mark.parametrize("mirror", [False, True])
def test_ten_crops_are_torchvisions_of_the_central_square(size: tuple[int, int], mirror: bool) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    pixels = noise(size)
    square = transforms.CenterCrop(256)(Image.fromarray(rescale(pixels, 256, RESCALING)))
    crops = (transforms.TenCrop if mirror else transforms.FiveCrop)(224)(square)
    assert len({crop.tobytes() for crop in crops}) == (10 if mirror else 5)
    assert seen(Protocol("10-crop", (256,), 224, mirror), pixels) == sorted(crop.tobytes() for crop in crops)


@SHAPES
def test_googlenets_crops_are_torchvisions_of_each_square_and_the_square_itself(size: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    pixels, expected = noise(size), []
    for scale in GOOGLENET.scales:
        image = Image.fromarray(rescale(pixels, scale, RESCALING))
        width, height = image.size
        spare = (width - scale) + (height - scale)
        for offset in (0, round(spare / 2), spare):
            left, top = (offset, 0) if width > height else (0, offset)
            square = image.crop((left, top, left + scale, top + scale))
            resized = square.resize((224, 224), Image.Resampling.BILINEAR)
            for picture in (*transforms.FiveCrop(224)(square), resized):
                expected += [picture.tobytes(), picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).tobytes()]
    assert len(expected) == 144
    assert seen(GOOGLENET, pixels) == sorted(expected)


# ---- against coordinates worked out by hand ----


def test_googlenets_crops_of_a_landscape_by_hand() -> None:
    # 500 x 375 at a short side of 256 is 341 x 256: squares at 0, 42.5 (42) and 85, of which crops leave 32 pixels.
    expected = [
        (top, left + offset, 224, 224)
        for left in (0, 42, 85)
        for top, offset in ((0, 0), (0, 32), (32, 0), (32, 32), (16, 16))
    ]
    assert rescaled_size(*LANDSCAPE, 256) == (256, 341)
    assert boxes(GOOGLENET, LANDSCAPE, 256) == expected
    # At 352 it is 469 x 352: squares at 0, 58.5 (58) and 117, of which crops leave 128.
    expected = [
        (top, left + offset, 224, 224)
        for left in (0, 58, 117)
        for top, offset in ((0, 0), (0, 128), (128, 0), (128, 128), (64, 64))
    ]
    assert boxes(GOOGLENET, LANDSCAPE, 352) == expected
    squares = [view for view in GOOGLENET.views(*LANDSCAPE, RESCALING) if view.side is not None]
    assert {view.side for view in squares} == {224}
    assert [view.box for view in squares if view.short_side == 288 and not view.mirror] == [
        (0, 0, 288, 288),
        (0, 48, 288, 288),
        (0, 96, 288, 288),
    ]


def test_googlenets_squares_of_a_portrait_are_top_centre_and_bottom() -> None:
    squares = [
        view.box
        for view in GOOGLENET.views(*PORTRAIT, RESCALING)
        if view.side and view.short_side == 320 and view.mirror
    ]
    # 375 x 500 at 320 is 320 x 426: squares at 0, 53 and 106.
    assert squares == [(0, 0, 320, 320), (53, 0, 320, 320), (106, 0, 320, 320)]


def test_the_regular_grid_of_a_landscape_by_hand() -> None:
    # 341 x 256: 117 pixels to the right in quarters (29.25, 58.5, 87.75), 32 down.
    expected = [(top, left, 224, 224) for top in (0, 8, 16, 24, 32) for left in (0, 29, 58, 88, 117)]
    assert boxes(GRID_50, LANDSCAPE, 256) == expected
    assert boxes(GRID_150, LANDSCAPE, 256) == expected
    # 682 x 512: 458 to the right (114.5, 229, 343.5), 288 down.
    assert boxes(GRID_150, LANDSCAPE, 512) == [
        (top, left, 224, 224) for top in (0, 72, 144, 216, 288) for left in (0, 114, 229, 344, 458)
    ]


def test_ten_crops_by_hand() -> None:
    # The centre of 341 x 256 begins at 42.5 (42).
    assert boxes(TEN, LANDSCAPE, 256) == [
        (0, 42, 224, 224),
        (0, 74, 224, 224),
        (32, 42, 224, 224),
        (32, 74, 224, 224),
        (16, 58, 224, 224),
    ]


# ---- by definition ----


@CROPS
def test_a_portraits_boxes_are_a_landscapes_turned(protocol: Protocol) -> None:
    def turned(views: tuple[View, ...]) -> list[tuple[Any, ...]]:
        return sorted(
            (view.short_side, () if view.box is None else view.box[1::-1] + view.box[2:], view.mirror, view.weight)
            for view in views
        )

    landscape, portrait = (protocol.views(*size, RESCALING) for size in (LANDSCAPE, PORTRAIT))
    plain = sorted((view.short_side, view.box or (), view.mirror, view.weight) for view in landscape)
    assert turned(portrait) == plain


@CROPS
def test_every_box_lies_in_the_image_and_its_side_is_the_crop(protocol: Protocol) -> None:
    random = np.random.default_rng(3)
    sizes = [(1, 1), (7, 9), (224, 1000), (3000, 224), *random.integers(20, 900, (60, 2)).tolist()]
    for size, rounding in itertools.product(sizes, ("floor", "nearest")):
        for view in protocol.views(*size, Rescaling(rounding=rounding)):
            if view.box is None:
                continue
            rows, columns = rescaled_size(*size, view.short_side, rounding)
            top, left, height, width = view.box
            assert top >= 0
            assert left >= 0
            assert top + height <= rows
            assert left + width <= columns
            assert height == width == (224 if view.side is None else view.short_side)


@pytest.mark.parametrize(
    ("protocol", "landscape", "square"),
    # The left, centre and right squares of a square image are the same. No two of its 50 crops are.
    [(TEN, 10, 10), (GOOGLENET, 144, 48), (GRID_50, 50, 50), (GRID_150, 150, 150), (BOTH, 156, 156)],
    ids=lambda value: value.name if isinstance(value, Protocol) else "",
)
def test_a_protocol_has_the_views_that_its_name_says(protocol: Protocol, landscape: int, square: int) -> None:
    assert len(protocol.views(*LANDSCAPE, RESCALING)) == landscape
    assert len(protocol.views(*PORTRAIT, RESCALING)) == landscape
    assert len(protocol.views(*SQUARE, RESCALING)) == square


@CROPS
@SHAPES
def test_without_mirrors_half_of_the_views_are_left(protocol: Protocol, size: tuple[int, int]) -> None:
    views = protocol.views(*size, RESCALING)
    alone = Protocol(protocol.name, protocol.scales, protocol.crop, False).views(*size, RESCALING)
    assert [(view.short_side, view.box, view.side) for view in alone] == [
        (view.short_side, view.box, view.side) for view in views if not view.mirror
    ]
    assert len(views) == 2 * len(alone)


def test_views_that_are_the_same_count_together() -> None:
    first, second = View(256, (0, 0, 9, 9), False), View(256, (0, 0, 9, 9), True)
    assert merged([first, second, first, View(256, (0, 0, 9, 9), False, None, 0.5)]) == (
        View(256, (0, 0, 9, 9), False, None, 2.5),
        second,
    )
    weights = {view.weight for view in GOOGLENET.views(*SQUARE, RESCALING)}
    assert weights == {3.0}


def test_if_q_is_the_crop_the_crops_of_the_grid_are_the_same() -> None:
    views = Protocol("50-crop", (224,), 224, True).views(224, 224, RESCALING)
    assert views == (View(224, (0, 0, 224, 224), False, None, 25), View(224, (0, 0, 224, 224), True, None, 25))
    wide = Protocol("50-crop", (224,), 224, False).views(224, 324, RESCALING)
    assert [(view.box, view.weight) for view in wide] == [((0, left, 224, 224), 5) for left in (0, 25, 50, 75, 100)]


def test_dense_and_crops_count_the_same_together() -> None:
    for size in (LANDSCAPE, SQUARE):
        views = BOTH.views(*size, RESCALING)
        whole, crops = ([view.weight for view in views if (view.box is None) == is_whole] for is_whole in (True, False))
        assert len(whole) == 6
        assert sum(whole) == pytest.approx(1)
        assert sum(crops) == pytest.approx(1)


def test_a_square_is_resized_with_the_networks_filter() -> None:
    pixels = noise((64, 64))
    for name, kind in (("bilinear", Image.Resampling.BILINEAR), ("lanczos", Image.Resampling.LANCZOS)):
        cut = View(64, (0, 16, 48, 48), False, 32).cut(pixels, Rescaling(name))
        expected = Image.fromarray(pixels[0:48, 16:64]).resize((32, 32), kind)
        np.testing.assert_array_equal(cut, np.asarray(expected))


# ---- equal views are scored once, and the mean is that of all ----


@pytest.fixture
def manifest(narrow_spec: Callable[..., NetworkSpec], manifest_for: Callable[..., Manifest]) -> Manifest:
    return manifest_for(narrow_spec("A", crop=32))


def every_googlenet_crop(pixels: np.ndarray, scales: tuple[int, ...], crop: int) -> Iterator[np.ndarray]:
    """All 72 crops of an image, equal ones included; with their mirrors they are 144."""
    for scale in scales:
        image = rescale(pixels, scale, RESCALING)
        long = max(image.shape)
        for offset in (0, round((long - scale) / 2), long - scale):
            square = image[offset : offset + scale] if image.shape[0] == long else image[:, offset : offset + scale]
            far, middle = scale - crop, round((scale - crop) / 2)
            for top, left in ((0, 0), (0, far), (far, 0), (far, far), (middle, middle)):
                yield square[top : top + crop, left : left + crop]
            yield np.asarray(Image.fromarray(square).resize((crop, crop), Image.Resampling.BILINEAR))


def every_grid_crop(pixels: np.ndarray, scales: tuple[int, ...], crop: int) -> Iterator[np.ndarray]:
    for scale in scales:
        image = rescale(pixels, scale, RESCALING)
        for down, right in itertools.product(range(5), range(5)):
            top, left = (
                round((side - crop) * at / 4) for side, at in ((image.shape[0], down), (image.shape[1], right))
            )
            yield image[top : top + crop, left : left + crop]


@pytest.mark.parametrize("size", [(61, 40), (48, 48), (32, 32)])
@pytest.mark.parametrize(
    ("name", "scales", "every", "count"),
    [
        ("144-crop", (32, 37, 41, 50), every_googlenet_crop, 72),
        ("50-crop", (32,), every_grid_crop, 25),
        ("150-crop", (32, 40, 48), every_grid_crop, 75),
    ],
)
def test_scoring_each_view_once_gives_the_mean_of_all(
    manifest: Manifest,
    tmp_path: Path,
    size: tuple[int, int],
    name: str,
    scales: tuple[int, ...],
    every: Callable[..., Iterator[np.ndarray]],
    count: int,
) -> None:
    # Darker to one side, so that every view has an answer of its own.
    pixels = (noise(size) * np.linspace(1, 0.2, size[1])[:, None]).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    crops = list(every(pixels, scales, 32))
    assert len(crops) == count
    engine = FakeEngine(manifest)
    rows = engine.run(np.stack([view for crop in crops for view in (crop, mirrored(crop))])).probabilities
    (result,) = predict(engine, [tmp_path / "a.png"], Protocol(name, scales, 32, True))
    assert isinstance(result, Prediction)
    np.testing.assert_allclose(result.probabilities, rows.mean(axis=0, dtype=np.float64), rtol=1e-5)
    if size == (48, 48) and name == "144-crop":
        # The three squares are one. At the crop's own scale its five crops are one too.
        assert sum(shape[0] for shape in engine.batches[1:]) == 2 * (2 + 3 * 6)


@pytest.mark.parametrize("size", [(40, 60), (48, 48)])
def test_multiscale_and_150_crops_together_are_the_mean_of_both_posteriors(
    manifest: Manifest, tmp_path: Path, size: tuple[int, int]
) -> None:
    Image.fromarray((noise(size) * np.linspace(1, 0.1, size[1])[:, None]).astype(np.uint8)).save(tmp_path / "a.png")
    means = {}
    for name in ("multiscale", "150-crop", "multiscale+150-crop"):
        crop = None if name == "multiscale" else 32
        (result,) = predict(FakeEngine(manifest), [tmp_path / "a.png"], Protocol(name, (32, 40, 64), crop, True))
        assert isinstance(result, Prediction)
        means[name] = result.probabilities
    assert np.abs(means["multiscale"] - means["150-crop"]).max() > 1e-3
    mean = (means["multiscale"] + means["150-crop"]) / 2
    np.testing.assert_allclose(means["multiscale+150-crop"], mean, rtol=1e-5)
