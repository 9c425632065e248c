"""16-bit images with fewer bits in use: the file's own tag gives the range, and a warning tells of the others."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vgg_deploy
from vgg_deploy.errors import ImageWarning
from vgg_deploy.views.images import decode

TINY = Path(vgg_deploy.__file__).parent.parent / "tests" / "data" / "tiny.onnx"


def grey(values: list[int]) -> Image.Image:
    return Image.fromarray(np.array([values], np.uint16))


def packed_twelve_bit_tiff(path: Path) -> Path:
    """Two pixels, 4095 and 2048, as scanners write them: three bytes."""
    tags = {256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 3}
    entries = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 12) + b"\xff\xf8\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)
    )
    return path


def rgb_png(path: Path, values: np.ndarray) -> Path:
    """A PNG of 16-bit colours, which Pillow does not write. values: uint16 [h, w, 3]."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    return path


def test_the_bits_per_sample_of_a_tiff_give_its_range(tmp_path: Path) -> None:
    assert decode(packed_twelve_bit_tiff(tmp_path / "x.tif"))[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize("full", [1023, 4095, 16383])
def test_a_tag_of_a_tiff_with_the_largest_value_gives_its_range(tmp_path: Path, full: int) -> None:
    grey([0, full // 2 + 1, full]).save(tmp_path / "x.tif", tiffinfo={281: full})
    assert decode(tmp_path / "x.tif")[0, :, 0].tolist() == [0, 128, 255]


def test_the_maximum_of_a_pgm_gives_its_range(tmp_path: Path) -> None:
    (tmp_path / "x.pgm").write_bytes(b"P5 2 1 4095\n" + np.array([4095, 2048], ">u2").tobytes())
    assert decode(tmp_path / "x.pgm")[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize("tag", [3071, 65535])
def test_the_largest_value_that_occurs_is_not_taken_for_the_range(tmp_path: Path, tag: int) -> None:
    grey([0, 3071]).save(tmp_path / "x.tif", tiffinfo={281: tag})
    with pytest.warns(ImageWarning, match="only 12 bits"):
        assert decode(tmp_path / "x.tif")[0, :, 0].tolist() == [0, 12]


def test_a_tag_below_the_values_is_not_believed(tmp_path: Path) -> None:
    grey([0, 32768, 65535]).save(tmp_path / "x.tif", tiffinfo={281: 4095})
    assert decode(tmp_path / "x.tif")[0, :, 0].tolist() == [0, 128, 255]


def test_a_file_that_looks_narrower_warns_and_is_read_as_it_says(tmp_path: Path) -> None:
    grey([0, 4095]).save(tmp_path / "x.png")
    with pytest.warns(ImageWarning, match=r"x\.png: .* only 12 bits .* scale its values to 65535"):
        assert decode(tmp_path / "x.png")[0, :, 0].tolist() == [0, 16]


def test_sixteen_bit_colours_that_look_narrower_warn(tmp_path: Path) -> None:
    path = rgb_png(tmp_path / "x.png", np.array([[[4095, 300, 0]]], np.uint16))
    with pytest.warns(ImageWarning, match="only 12 bits"):
        assert decode(path)[0, 0].tolist() == [15, 1, 0]


def test_a_black_image_and_a_full_range_do_not_warn(tmp_path: Path) -> None:
    for values in ([0, 0], [0, 16384]):
        grey(values).save(tmp_path / "x.png")
        decode(tmp_path / "x.png")
    decode(rgb_png(tmp_path / "y.png", np.array([[[65535, 0, 0]]], np.uint16)))
    Image.new("RGB", (4, 4), (3, 3, 3)).save(tmp_path / "z.png")
    decode(tmp_path / "z.png")


def test_the_command_line_names_the_first_such_file_in_one_line(
    tmp_path: Path, vgg_deploy_command: Callable[..., Any]
) -> None:
    pytest.importorskip("onnxruntime")
    random = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        Image.fromarray(random.integers(0, 4096, (48, 48), np.uint16)).save(tmp_path / name)
    result = vgg_deploy_command("infer", str(tmp_path), "--engine", str(TINY), "--runtime", "onnxruntime")
    assert result.code == 0, result.err
    lines = [line for line in result.err.splitlines() if "16-bit values" in line]
    assert len(lines) == 1
    assert ".png: its 16-bit values look as if only 12 bits" in lines[0]
    assert "not named" in lines[0]
