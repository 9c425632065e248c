"""Which images calibrate an export, and that it sees them as inference does."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.sample import ImageSample, draw
from vgg_deploy.errors import UsageError
from vgg_deploy.files import sha256_of
from vgg_deploy.inference.prediction import predict
from vgg_deploy.network.manifest import Manifest, Rescaling
from vgg_deploy.network.spec import NetworkSpec
from vgg_deploy.network.tensors import Floats, Images
from vgg_deploy.testing import FakeEngine
from vgg_deploy.views.images import decode, mirrored
from vgg_deploy.views.protocols import Protocol

DENSE = Protocol("dense", (64,), None, False)
PYRAMID = Protocol("multiscale", (64, 73, 96), None, True)


@pytest.fixture
def twelve(tmp_path: Path) -> list[Path]:
    """Twelve small images in two folders, each of a different grey."""
    paths = []
    for number in range(12):
        path = tmp_path / ("even" if number % 2 == 0 else "odd") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (70 + number, 66), (20 * number,) * 3).save(path)
        paths.append(path)
    return paths


def no_refusal(path: Path, reason: str) -> None:
    pytest.fail(f"{path} was refused: {reason}")


def drawn(paths: list[Path], count: int, protocol: Protocol = DENSE) -> ImageSample:
    return draw(paths, count, protocol, Rescaling(), no_refusal)


def test_the_sample_does_not_depend_on_the_order_of_the_images_and_a_larger_one_begins_with_it(
    twelve: list[Path],
) -> None:
    first = drawn(twelve, 5).paths
    assert len(set(first)) == 5
    assert set(first) < set(twelve)
    assert drawn(twelve[::-1], 5).paths == first
    assert first != tuple(sorted(twelve)[:5])  # not only images of the first class
    assert drawn(twelve, 9).paths[:5] == first
    assert set(drawn(twelve, 128).paths) == set(twelve)


def test_the_sample_does_not_depend_on_the_location_of_the_folder(twelve: list[Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "a" / "deeper" / "place"
    for folder in ("even", "odd"):
        shutil.copytree(tmp_path / folder, elsewhere / folder)
    copies = [elsewhere / path.relative_to(tmp_path) for path in twelve]
    assert [path.name for path in drawn(copies, 4).paths] == [path.name for path in drawn(twelve, 4).paths]


def test_an_unreadable_image_is_reported_and_another_takes_its_place(twelve: list[Path]) -> None:
    victims = drawn(twelve, 12).paths[1:4]
    for victim, content in zip(victims, (b"", b"no picture", victims[2].read_bytes()[:60]), strict=True):
        victim.write_bytes(content)
    refused: list[tuple[Path, str]] = []
    sample = draw(twelve, 5, DENSE, Rescaling(), lambda *what: refused.append(what))
    assert len(sample.paths) == 5
    assert set(sample.paths).isdisjoint(victims)
    assert [path for path, _reason in refused] == list(victims)
    assert "empty" in refused[0][1]
    assert "not an image" in refused[1][1]


def test_an_image_whose_largest_view_would_be_too_large_is_skipped(twelve: list[Path], tmp_path: Path) -> None:
    strip = tmp_path / "strip.png"
    Image.new("RGB", (6000, 9)).save(strip)  # 64 x 42,666 pixels are within the limit, 96 x 64,000 are not
    refused: list[Path] = []
    sample = draw([*twelve, strip], 13, PYRAMID, Rescaling(), lambda path, _reason: refused.append(path))
    assert refused == [strip]
    assert set(sample.paths) == set(twelve)


def test_if_no_image_can_be_read_the_draw_is_refused(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.jpg" for number in range(3)]
    for path in paths:
        path.write_bytes(b"no picture")
    refused: list[Path] = []
    with pytest.raises(UsageError, match=r"none of the 3 images can be read"):
        draw(paths, 2, DENSE, Rescaling(), lambda path, _reason: refused.append(path))
    assert sorted(refused) == paths


def test_progress_moves_once_for_each_image(twelve: list[Path]) -> None:
    steps: list[None] = []
    sample = draw(twelve, 5, PYRAMID, Rescaling(), no_refusal, lambda: steps.append(None))
    assert len(steps) == 5
    assert len(list(sample.views(lambda: steps.append(None)))) == 5 * 6
    assert len(steps) == 10


@pytest.mark.parametrize("rescaling", [Rescaling(), Rescaling("lanczos", "nearest")])
@pytest.mark.parametrize(
    "protocol", [PYRAMID, DENSE, Protocol("center", (73,), 64, False), Protocol("multiscale", (64, 96), None, False)]
)
def test_calibration_uses_the_same_pixels_as_inference(
    protocol: Protocol,
    rescaling: Rescaling,
    pictures: Path,
    narrow_spec: Callable[..., NetworkSpec],
    manifest_for: Callable[..., Manifest],
) -> None:
    turned = Image.open(pictures / "0.png")
    turned.getexif()[0x0112] = 6  # to be rotated
    turned.save(pictures / "turned.jpg", exif=turned.getexif())
    Image.open(pictures / "1.png").convert("L").save(pictures / "grey.png")
    paths = sorted(pictures.iterdir())
    seen: list[tuple[tuple[int, ...], bytes]] = []

    def answer(images: Images) -> Floats:
        seen.extend((view.shape, view.tobytes()) for view in images)
        return np.full((len(images), 5), 0.2, np.float32)

    manifest = manifest_for(narrow_spec("A"), rescaling=rescaling)
    answered = list(predict(FakeEngine(manifest, answer), paths, protocol))
    assert len(answered) == len(paths) == 6
    views = list(ImageSample(tuple(paths), protocol, rescaling).views())
    assert all(view.shape[0] == 1 and view.dtype == np.uint8 and view.flags.c_contiguous for view in views)
    assert sorted((view.shape[1:], view.tobytes()) for view in views) == sorted(seen)


def test_mirrors_are_those_of_inference(pictures: Path) -> None:
    sample = ImageSample((pictures / "0.png",), Protocol("dense", (90,), None, True), Rescaling())
    plain, flipped = sample.views()
    np.testing.assert_array_equal(plain[0], decode(pictures / "0.png"))
    np.testing.assert_array_equal(flipped[0], mirrored(plain[0]))


def test_sources_are_the_files_and_their_hashes_in_the_order_of_the_sample(twelve: list[Path]) -> None:
    sample = drawn(twelve, 3)
    assert [(source.name, source.sha256) for source in sample.sources] == [
        (path.name, sha256_of(path)) for path in sample.paths
    ]


def test_views_are_made_one_at_a_time(tmp_path: Path) -> None:
    paths = []
    for number in range(30):
        paths.append(tmp_path / f"{number}.png")
        Image.new("RGB", (300, 200), (number, 0, 0)).save(paths[-1])

    def peak(count: int) -> int:
        sample = ImageSample(tuple(paths[:count]), PYRAMID, Rescaling())
        tracemalloc.start()
        for _view in sample.views():
            pass
        reached = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return reached

    peak(1)  # to load what is loaded on first use
    assert peak(30) < peak(3) + 300 * 200 * 3
