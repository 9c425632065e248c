"""From files to upright RGB bytes; rescaling and crops as in torchvision."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vgg_deploy.errors import ImageError
from vgg_deploy.network.manifest import Rescaling
from vgg_deploy.views.images import (
    MAX_VIEW_PIXELS,
    centre_box,
    decode,
    decode_reduced,
    mirrored,
    rescale,
    rescaled_size,
)

RED, GREEN, BLUE, YELLOW = (230, 20, 20), (20, 200, 20), (20, 20, 230), (220, 220, 20)

# How an upright image is stored for each orientation. Comments: where the EXIF standard puts row 0 and column 0.
STORED_FOR_ORIENTATION: dict[int, Callable[[Any], Any]] = {
    1: lambda upright: upright,  # row 0 top, column 0 left
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda upright: upright[::-1].swapaxes(0, 1),  # left, bottom
}


def quarters(height: int = 64, width: int = 96) -> np.ndarray:
    """Red and green above blue and yellow: every turn and every mirror changes it."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = RED, GREEN
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = BLUE, YELLOW
    return pixels


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def png(width: int, height: int) -> bytes:
    """A PNG whose header states a size, without pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# Decoding


@pytest.mark.parametrize(
    ("orientation", "ending", "tolerance"),
    [
        *((orientation, "jpg", 6) for orientation in STORED_FOR_ORIENTATION),
        (6, "png", 0),
        (7, "tif", 0),
        (8, "webp", 12),
    ],
)
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, ending: str, tolerance: int) -> None:
    upright = quarters()
    stored = Image.fromarray(np.ascontiguousarray(STORED_FOR_ORIENTATION[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode(saved(tmp_path / f"x.{ending}", stored, exif=exif))
    assert pixels.shape == upright.shape
    assert pixels.dtype == np.uint8
    difference = np.abs(pixels.astype(int) - upright)
    for rows in (slice(8, 24), slice(40, 56)):
        for columns in (slice(8, 40), slice(56, 88)):
            assert difference[rows, columns].max() <= tolerance


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "I;16"])
def test_a_rotated_tiff_of_any_kind_of_pixels_is_upright(
    tmp_path: Path, mode: str, compression: str | None, orientation: int
) -> None:
    upright = quarters(40, 70)
    if mode in ("L", "I;16"):
        upright = np.repeat(upright[:, :, :1] // 2 + upright[:, :, 1:2] // 3, 3, axis=2)
    turned = np.ascontiguousarray(STORED_FOR_ORIENTATION[orientation](upright))
    if mode == "I;16":
        stored = Image.fromarray(turned[:, :, 0].astype(np.uint16) * 257)
    else:
        stored = Image.fromarray(turned).convert(mode)
    path = saved(tmp_path / "x.tif", stored, compression=compression, tiffinfo={274: orientation})
    expected = np.asarray(stored.convert("RGB")) if mode in ("P", "CMYK") else turned
    # Palettes and CMYK do not keep colours exactly: every stored colour must come back, each near its place.
    flat = {tuple(pixel) for pixel in expected.reshape(-1, 3)}
    pixels = decode(path)
    assert pixels.shape == upright.shape
    assert {tuple(pixel) for pixel in pixels.reshape(-1, 3)} == flat
    for rows in (slice(0, 20), slice(20, 40)):
        for columns in (slice(0, 35), slice(35, 70)):
            quarter = pixels[rows, columns].astype(int)
            assert np.abs(quarter - upright[rows, columns]).max() <= 60, (rows, columns)


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_orientation_that_does_not_exist_is_ignored(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decode(saved(tmp_path / "x.png", Image.fromarray(quarters()), exif=exif)), quarters())


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0"])
def test_an_image_with_damaged_exif_data_is_read(tmp_path: Path, exif: bytes) -> None:
    path = saved(tmp_path / "x.jpg", Image.fromarray(quarters()), exif=exif)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decode(path).shape == (64, 96, 3)


@pytest.mark.parametrize("ending", ["tif", "jpg"])
def test_cmyk_inks_become_their_colours(tmp_path: Path, ending: str) -> None:
    # Pillow writes CMYK JPEGs as Adobe does: inverted, with a marker.
    inks = np.zeros((64, 96, 4), np.uint8)
    inks[:32, :48, 1:3] = 255  # magenta and yellow: red
    inks[:32, 48:, [0, 2]] = 255  # cyan and yellow: green
    inks[32:, :48, :2] = 255  # cyan and magenta: blue
    inks[32:, 72:, 3] = 255  # black, beside bare paper
    pixels = decode(saved(tmp_path / f"x.{ending}", Image.fromarray(inks, "CMYK"))).astype(int)
    for spot, colour in {
        (16, 24): (255, 0, 0),
        (16, 72): (0, 255, 0),
        (48, 24): (0, 0, 255),
        (48, 60): (255, 255, 255),
        (48, 84): (0, 0, 0),
    }.items():
        assert np.abs(pixels[spot] - colour).max() <= 8


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("L", "png"), ("L", "tif"), ("1", "png"), ("1", "tif"), ("P", "png"), ("P", "bmp"), ("LA", "png")],
)
def test_every_mode_becomes_the_same_rgb(tmp_path: Path, mode: str, ending: str) -> None:
    grey = np.zeros((20, 30), np.uint8)
    grey[:10, 15:] = 255
    pixels = decode(saved(tmp_path / f"x.{ending}", Image.fromarray(grey).convert(mode)))
    np.testing.assert_array_equal(pixels, np.repeat(grey[:, :, None], 3, axis=2))


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[:, 0] = (200, 100, 0, 255)
    rgba[:, 1] = (200, 100, 0, 128)
    rgba[:, 2] = (200, 100, 0, 0)
    pixels = decode(saved(tmp_path / "x.png", Image.fromarray(rgba))).astype(int)
    assert pixels[0, 0].tolist() == [200, 100, 0]
    np.testing.assert_allclose(pixels[0, 1], [227, 177, 127], atol=1)
    assert pixels[0, 2].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("ending", "transparency"), [("png", 1), ("png", b"\xff\x00"), ("gif", 1)])
def test_a_transparent_palette_entry_becomes_white(tmp_path: Path, ending: str, transparency: int | bytes) -> None:
    palette = Image.fromarray(np.array([[0, 1]] * 4, np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    pixels = decode(saved(tmp_path / f"x.{ending}", palette, transparency=transparency))
    assert pixels[0].tolist() == [[10, 20, 30], [255, 255, 255]]


def test_grey_with_alpha_and_a_transparent_colour_are_laid_over_white(tmp_path: Path) -> None:
    grey_alpha = np.array([[[50, 255], [50, 0]]], np.uint8)
    assert decode(saved(tmp_path / "la.png", Image.fromarray(grey_alpha, "LA")))[0, :, 0].tolist() == [50, 255]
    colours = Image.fromarray(np.array([[RED, BLUE]], np.uint8))
    pixels = decode(saved(tmp_path / "rgb.png", colours, transparency=BLUE))
    assert pixels[0].tolist() == [list(RED), [255, 255, 255]]


@pytest.mark.parametrize("ending", ["png", "tif"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bit_grey_is_scaled_to_eight(tmp_path: Path, ending: str, order: str) -> None:
    values = np.array([[0, 128, 129, 257, 32768, 65278, 65535]], order)
    pixels = decode(saved(tmp_path / f"x.{ending}", Image.fromarray(values)))
    assert pixels.shape == (1, 7, 3)
    assert pixels[0, :, 1].tolist() == [0, 0, 1, 1, 128, 254, 255]


def test_a_transparent_value_of_sixteen_bit_grey_is_white(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(np.array([[257, 51400]], np.uint16)), transparency=51400)
    assert decode(path)[0, :, 0].tolist() == [1, 255]


@pytest.mark.parametrize("values", [np.array([[0, 70_000]], np.int32), np.array([[-1, 5]], np.int32)])
def test_thirty_two_bit_integers_beyond_sixteen_bit_are_refused(tmp_path: Path, values: np.ndarray) -> None:
    with pytest.raises(ImageError, match="beyond 16 bit"):
        decode(saved(tmp_path / "x.tif", Image.fromarray(values)))


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="32-bit floats of unknown range"):
        decode(saved(tmp_path / "x.tif", Image.fromarray(np.ones((2, 2), np.float32))))


@pytest.mark.parametrize(("ending", "options"), [("gif", {}), ("webp", {"lossless": True}), ("png", {}), ("tif", {})])
def test_the_first_frame_of_several_counts(tmp_path: Path, ending: str, options: dict[str, Any]) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in (RED, GREEN, BLUE)]
    path = saved(tmp_path / f"x.{ending}", frames[0], save_all=True, append_images=frames[1:], **options)
    pixels = decode(path)
    assert pixels.shape == (30, 40, 3)
    assert (pixels == np.array(RED)).all()


def test_the_contents_count_and_not_the_ending(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(saved(tmp_path / "x.png", Image.fromarray(quarters())).read_bytes())
    np.testing.assert_array_equal(decode(path), quarters())


@pytest.mark.parametrize("ending", ["jpg", "png", "gif", "webp", "tif", "bmp", "ppm"])
@pytest.mark.parametrize("kept", [0.02, 0.97])
def test_a_truncated_file_is_refused(tmp_path: Path, ending: str, kept: float) -> None:
    path = saved(tmp_path / f"x.{ending}", Image.fromarray(noise(60, 80)))
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ImageError) as raised:
        decode(path)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"this is text, whatever its name says\n", "not an image"),
        (b"\xff\xd8\xff\xe0 broken", "cannot be decoded|not an image"),
        (bytes(range(256)) * 8, "not an image"),
        (png(0, 5), "not an image"),
        (png(5, 0), "not an image"),
        (b"P6 0 5 255\n", "not an image"),
        (png(50_000, 50_000), "over the limit of 89,478,485 pixels"),
    ],
    ids=["empty", "text", "broken", "bytes", "no columns", "no rows", "no columns (ppm)", "bomb"],
)
def test_a_file_that_is_not_an_image_is_refused_in_one_line(tmp_path: Path, content: bytes, named: str) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=named) as raised:
        decode(path)
    assert len(str(raised.value).splitlines()) == 1


def test_a_small_bomb_is_refused_although_pillow_only_warns(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(png(10_000, 9_000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ImageError, match="10000x9000 pixels, over the limit"):
            decode(path)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="it is a folder"):
        decode(tmp_path)
    with pytest.raises(ImageError, match="no such file"):
        decode(tmp_path / "absent.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "absent.jpg")
    with pytest.raises(ImageError, match="no such file"):
        decode(tmp_path / "dangling.jpg")


def test_a_file_without_permission_is_named_as_that(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.png", Image.fromarray(quarters()))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user (root?) may read every file")
    with pytest.raises(ImageError, match="no permission"):
        decode(path)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("16_bit_noise.tif", (32, 32)),
        ("hopper.gif", (128, 128)),
        ("hopper_gray.jpg", (128, 128)),
        ("hopper_orientation_2.jpg", (128, 128)),
        ("hopper_orientation_6.jpg", (128, 128)),
        ("hopper_orientation_8.jpg", (128, 128)),
        ("i_trns.png", (64, 64)),
        ("iss634.webp", (245, 245)),
        ("pil_sample_cmyk.jpg", (100, 100)),
        ("rgb_trns.png", (64, 64)),
    ],
)
@pytest.mark.filterwarnings("ignore::vgg_deploy.errors.ImageWarning")  # some have 16 bits and use few of them
def test_an_odd_file_is_read(test_data: Path, name: str, size: tuple[int, int]) -> None:
    assert decode(test_data / "odd" / name).shape == (*size, 3)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("broken.png", "not an image"),
        ("broken_data_stream.png", "cannot be decoded"),
        ("png_decompression_dos.png", "too large"),
        ("truncated_image.png", "truncated"),
        ("truncated_jpeg.jpg", "truncated"),
    ],
)
def test_a_broken_file_is_refused(test_data: Path, name: str, named: str) -> None:
    with pytest.raises(ImageError, match=named):
        decode(test_data / "odd" / name)


@pytest.mark.parametrize("orientation", [2, 6, 8])
def test_a_turned_photo_is_the_same_portrait_upright(test_data: Path, orientation: int) -> None:
    upright = decode(test_data / "odd" / "hopper.gif").astype(int)
    turned = decode(test_data / "odd" / f"hopper_orientation_{orientation}.jpg").astype(int)
    differences = {turns: np.abs(np.rot90(turned, turns) - upright).mean() for turns in range(4)}
    assert differences[0] < 15
    assert min(differences[turns] for turns in (1, 2, 3)) > 40
    assert np.abs(turned[:, ::-1] - upright).mean() > 40


def test_a_real_cmyk_photo_is_red_on_black_and_not_inverted(test_data: Path) -> None:
    pixels = decode(test_data / "odd" / "pil_sample_cmyk.jpg").astype(int)
    assert (pixels[0, 0] > (200, -1, -1)).all()
    assert pixels[0, 0, 1:].max() < 60
    assert pixels[-1, -1].max() < 20


@pytest.mark.parametrize("name", ["i_trns.png", "rgb_trns.png"])
@pytest.mark.filterwarnings("ignore::vgg_deploy.errors.ImageWarning")  # some have 16 bits and use few of them
def test_the_transparent_middle_of_a_real_png_is_white(test_data: Path, name: str) -> None:
    pixels = decode(test_data / "odd" / name)
    assert pixels[32, 32].tolist() == [255, 255, 255]
    assert pixels[2, 40].tolist() != [255, 255, 255]


# Rescaling and crops


@pytest.mark.parametrize(
    ("size", "short_side", "rounding", "expected"),
    [
        ((375, 500), 256, "floor", (256, 341)),
        ((500, 333), 256, "floor", (384, 256)),
        ((300, 401), 200, "floor", (200, 267)),
        ((301, 400), 200, "nearest", (200, 266)),
        ((3, 5), 2, "floor", (2, 3)),
        ((2, 3), 3, "nearest", (3, 5)),
        ((1, 1), 224, "floor", (224, 224)),
    ],
)
def test_the_long_side_is_rounded_as_asked(
    size: tuple[int, int], short_side: int, rounding: str, expected: tuple[int, int]
) -> None:
    assert rescaled_size(*size, short_side, rounding) == expected


def test_sizes_are_those_of_torchvisions_resize() -> None:
    transforms = pytest.importorskip("torchvision.transforms.functional")
    generator = np.random.default_rng(0)
    for height, width in generator.integers(1, 2000, (300, 2)).tolist():
        for short_side in (224, 256, 384, 500):
            short, long = sorted((height, width))
            if short_side * long / short > 4000:
                continue
            expected = transforms._compute_resized_output_size((height, width), [short_side])
            assert list(rescaled_size(height, width, short_side)) == expected


@pytest.mark.parametrize("size", [(75, 100), (100, 67)])
@pytest.mark.parametrize("short_side", [64, 100])
@pytest.mark.parametrize("name", ["bilinear", "bicubic", "lanczos", "box"])
def test_rescaling_is_exactly_torchvisions_on_pillow_images(size: tuple[int, int], short_side: int, name: str) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    pixels = noise(*size)
    resize = transforms.Resize(short_side, transforms.InterpolationMode(name), antialias=True)
    expected = np.asarray(resize(Image.fromarray(pixels)))
    np.testing.assert_array_equal(rescale(pixels, short_side, Rescaling(name)), expected)


@pytest.mark.parametrize(
    ("short_side", "expected"),
    [(None, (1003, 2001)), (502, (1003, 2001)), (400, (502, 1001)), (200, (251, 501)), (1, (126, 251))],
)
def test_a_large_jpeg_is_decoded_at_the_smallest_size_that_is_large_enough(
    tmp_path: Path, short_side: int | None, expected: tuple[int, int]
) -> None:
    path = saved(tmp_path / "large.jpg", Image.fromarray(noise(1003, 2001)))
    image = decode_reduced(path, short_side)
    assert image.pixels.shape[:2] == expected
    assert image.size == (1003, 2001)


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_reduced_image_is_upright_and_rescaled_to_the_same_size_as_the_whole_one(
    tmp_path: Path, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "turned.jpg", Image.fromarray(quarters(803, 1001)), quality=95, exif=exif)
    whole, reduced = decode_reduced(path, None), decode_reduced(path, 200)
    assert reduced.size == whole.size == whole.pixels.shape[:2]
    assert reduced.pixels.shape[0] < 300
    rescaling = Rescaling()
    wanted, got = (rescale(image.pixels, 200, rescaling, size=image.size) for image in (whole, reduced))
    assert got.shape == wanted.shape
    assert np.abs(got.astype(int) - wanted).mean() < 2


@pytest.mark.parametrize("ending", ["png", "webp", "tif", "gif"])
def test_only_jpegs_are_reduced(tmp_path: Path, ending: str) -> None:
    path = saved(tmp_path / f"large.{ending}", Image.fromarray(noise(800, 900)))
    assert decode_reduced(path, 64).pixels.shape[:2] == (800, 900)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_jpegs_of_other_colours_are_reduced_to_the_same_rgb(tmp_path: Path, mode: str) -> None:
    path = saved(tmp_path / "large.jpg", Image.fromarray(quarters(800, 800)).convert(mode), quality=95)
    reduced = decode_reduced(path, 100)
    assert reduced.pixels.shape == (100, 100, 3)
    assert np.abs(reduced.pixels.astype(int) - decode(path)[4::8, 4::8]).mean() < 3


@pytest.mark.parametrize("kept", [0.02, 0.9])
def test_a_truncated_jpeg_is_refused_at_a_reduced_size_too(tmp_path: Path, kept: float) -> None:
    path = saved(tmp_path / "large.jpg", Image.fromarray(noise(800, 900)))
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ImageError):
        decode_reduced(path, 64)


def test_an_image_that_has_the_size_already_is_not_copied() -> None:
    pixels = noise(64, 80)
    assert rescale(pixels, 64, Rescaling("lanczos")) is pixels


def test_a_mirrored_or_cropped_array_is_rescaled_too() -> None:
    pixels = noise(80, 120)
    window = mirrored(pixels)[10:74, 20:110]
    np.testing.assert_array_equal(
        rescale(window, 50, Rescaling()), rescale(np.ascontiguousarray(window), 50, Rescaling())
    )


def test_an_extreme_aspect_ratio_is_refused_with_the_limit_and_its_option() -> None:
    with pytest.raises(
        ImageError, match=r"5000x1 pixels become 1120000x224 .*4,194,304 pixels for a view .infer --max-view-pixels"
    ):
        rescale(noise(1, 5000), 224, Rescaling())
    assert rescale(noise(1, 5000), 4, Rescaling()).shape == (4, 20_000, 3)


def test_the_limit_is_the_largest_view_that_is_allowed() -> None:
    pixels = noise(4, 6)
    assert rescale(pixels, 8, Rescaling(), max_pixels=96).shape == (8, 12, 3)
    with pytest.raises(ImageError, match="over the limit of 95 pixels"):
        rescale(pixels, 8, Rescaling(), max_pixels=95)
    assert MAX_VIEW_PIXELS == 2048 * 2048


@pytest.mark.parametrize("size", [(64, 64), (66, 71), (67, 70), (91, 200)])
def test_the_centre_is_torchvisions_center_crop(size: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    pixels = noise(*size)
    top, left = centre_box(*size, 64)
    expected = np.asarray(transforms.CenterCrop(64)(Image.fromarray(pixels)))
    np.testing.assert_array_equal(pixels[top : top + 64, left : left + 64], expected)


def test_a_mirror_swaps_left_and_right_only() -> None:
    flipped = mirrored(quarters())
    assert flipped[0, 0].tolist() == list(GREEN)
    assert flipped[-1, 0].tolist() == list(YELLOW)
    np.testing.assert_array_equal(mirrored(flipped), quarters())


# The search for files
