"""Decodes image files to upright uint8 RGB arrays [height, width, 3]. Also rescaling, crops and mirrors.

Training and inference share this file, so a network sees the same pixels in production as in training.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vgg_deploy.errors import ImageError, ImageWarning, reason_of
from vgg_deploy.network.manifest import Rescaling
from vgg_deploy.network.tensors import Images
from vgg_deploy.views.depth import GREY_MODES, SampleDepth, has_sixteen_bits
from vgg_deploy.views.formats import HEAD_BYTES, PluginFormat, format_of, register

# A larger image is refused as a decompression bomb. Pillow warns from here on.
MAX_DECODED_PIXELS = 89_478_485
# A larger rescaled image is refused. A full-width VGG needs about 0.6 KB of memory per pixel, so 4 Mi pixels need 2.5
# GB.
MAX_VIEW_PIXELS = 4_194_304

_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


LEAST_COLOUR = 4  # mean difference of red and blue, in units of 0..255, of an image that is not grey


def is_coloured(pixels: Images) -> bool:
    """Whether an image uint8 [h, w, 3] has enough colour to show the order of the channels."""
    return float(np.abs(pixels[..., 0].astype(np.int16) - pixels[..., 2]).mean()) > LEAST_COLOUR


def decode(path: Path) -> Images:
    """Reads an image file as uint8 [height, width, 3], RGB, upright. See `decode_reduced`."""
    return decode_reduced(path, None).pixels


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image.

    Attributes:
        pixels: uint8 [h, w, 3], RGB, upright.
        size: upright height and width of the image in its file. They differ from those of `pixels` if decoding reduced
            it.
    """

    pixels: Images
    size: tuple[int, int]


def decode_reduced(path: Path, short_side: int | None) -> Decoded:
    """Reads an image file; a large JPEG at 1/2, 1/4 or 1/8 of its size if that leaves a short side of `short_side`.

    EXIF rotation is applied. Grey, palette and CMYK images become RGB. Transparent pixels are drawn on white. 16-bit
    grey is scaled to 8 bits, from the range that the file states: see `vgg_deploy.views.depth`. Only the first frame of
    an animation is read.

    Args:
        path: the file.
        short_side: the largest short side to which the image will be rescaled; None: decode at full size. Reduced
            decoding averages a JPEG's blocks of 8 x 8 pixels. It is several times as fast and changes pixels slightly.

    Warns:
        ImageWarning: the pixels have 16 bits, but look as if fewer were in use.

    Raises:
        ImageError: the file is missing, empty, truncated or not an image; it needs a package that is not installed; or
            its image has no pixels, more than `MAX_DECODED_PIXELS`, or floating-point pixels, whose range the file does
            not state.
    """
    try:
        if path.is_dir():  # before its size: that of an empty folder is 0 on some file systems
            raise ImageError("it is a folder, not a file")
        if path.stat().st_size == 0:
            raise ImageError("the file is empty (0 bytes)")
        # Given a path, Pillow 13.0 maps an uncompressed rotated TIFF into memory with its sides swapped, and returns
        # noise (10.3 does not). So it gets an open file.
        with path.open("rb") as file, _opened(file) as image:
            width, height = image.size
            if width * height > MAX_DECODED_PIXELS:
                raise ImageError(
                    f"{width}x{height} pixels, over the limit of {MAX_DECODED_PIXELS:,} (decompression bomb?)"
                )
            if short_side is not None:
                # Picks the smallest size with both sides at least this long. Affects only JPEG.
                image.draft(None, _with_short_side(width, height, short_side))
            reduced = image.size != (width, height)
            sixteen_bit = has_sixteen_bits(image)  # before loading, which forgets it
            image.load()
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            depth = SampleDepth.of(image) if sixteen_bit else SampleDepth()
            pixels = np.asarray(_to_rgb(ImageOps.exif_transpose(image), depth))
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError("no such file") from None
    except PermissionError:
        raise ImageError("no permission to read it") from None
    except UnidentifiedImageError:
        raise ImageError("not an image, or damaged at its beginning") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"over the limit of {MAX_DECODED_PIXELS:,} pixels (decompression bomb?)") from error
    except Exception as error:  # decoders of damaged files raise errors of many types
        raise ImageError(f"cannot be decoded: {reason_of(error)}") from error
    if pixels.size == 0:
        raise ImageError(f"it has no pixels ({pixels.shape[1]}x{pixels.shape[0]})")
    if depth.looks_narrower:
        warnings.warn(f"{path}: {depth}", ImageWarning, stacklevel=2)
    if not reduced:
        return Decoded(pixels, (pixels.shape[0], pixels.shape[1]))
    return Decoded(pixels, (width, height) if turned else (height, width))


def _opened(file: BinaryIO) -> Image.Image:
    """The image, not decoded yet. The first bytes decide its kind, whatever the file's ending."""
    kind = format_of(file.read(HEAD_BYTES))
    file.seek(0)
    if isinstance(kind, PluginFormat):
        if not kind.installed:
            raise ImageError(f"it is {kind.name}, and {kind.remedy}")
        register(kind)
    return Image.open(file)


def _with_short_side(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height, rounded up, of an image with its short side at `short_side`."""
    short = min(width, height)
    return -(-width * short_side // short), -(-height * short_side // short)


def _to_rgb(image: Image.Image, depth: SampleDepth) -> Image.Image:
    if image.mode in GREY_MODES:
        return _sixteen_bit_to_rgb(image, depth.full)
    if image.mode == "F":
        raise ImageError("its pixels are 32-bit floats of unknown range; convert it to 8 or 16 bits")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        page = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
        return Image.alpha_composite(page, with_alpha).convert("RGB")
    return image.convert("RGB")


def _sixteen_bit_to_rgb(image: Image.Image, full: int) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError("its pixels are 32-bit integers beyond 16 bits; convert it to 8 or 16 bits")
    transparent = image.info.get("transparency")  # a PNG of this mode may declare one grey value transparent
    if isinstance(transparent, int):
        values[values == transparent] = full
    return Image.fromarray(((values * 255 + full // 2) // full).astype(np.uint8)).convert("RGB")


def rescaled_size(height: int, width: int, short_side: int, rounding: str = "floor") -> tuple[int, int]:
    """Height and width after rescaling so that the short side is `short_side` (Q or S, sections 3.1 and 3.2)."""
    short = min(height, width)

    def scaled(side: int) -> int:
        if rounding == "floor":
            return max(1, side * short_side // short)
        return max(1, (2 * side * short_side + short) // (2 * short))

    return scaled(height), scaled(width)


def rescale(
    pixels: Images,
    short_side: int,
    rescaling: Rescaling,
    max_pixels: int = MAX_VIEW_PIXELS,
    size: tuple[int, int] | None = None,
) -> Images:
    """Rescales uint8 [h, w, 3] so that its short side is `short_side`, keeping its aspect ratio.

    Args:
        pixels: the image.
        short_side: Q or S.
        rescaling: filter and rounding.
        max_pixels: the most pixels that the result may have.
        size: height and width that give the aspect ratio; None: those of `pixels`. See `Decoded`.

    Raises:
        ImageError: the result would have more than `max_pixels` pixels.
    """
    height, width = size or pixels.shape[:2]
    rows, columns = rescaled_size(height, width, short_side, rescaling.rounding)
    if rows * columns > max_pixels:
        raise ImageError(
            f"{width}x{height} pixels become {columns}x{rows} at a short side of {short_side}: over the limit of "
            f"{max_pixels:,} pixels for a view (infer --max-view-pixels changes it)"
        )
    if (rows, columns) == pixels.shape[:2]:
        return pixels
    return resize(pixels, rows, columns, rescaling)  # [rows, columns, 3]


def resize(pixels: Images, rows: int, columns: int, rescaling: Rescaling) -> Images:
    """uint8 [h, w, 3] -> [rows, columns, 3]. The aspect ratio may change."""
    return np.asarray(Image.fromarray(pixels).resize((columns, rows), _FILTERS[rescaling.filter]))


def centre_box(height: int, width: int, crop: int) -> tuple[int, int]:
    """Top and left of the central crop x crop window, rounded as torchvision's CenterCrop does."""
    return round((height - crop) / 2.0), round((width - crop) / 2.0)


def mirrored(pixels: Images) -> Images:
    """The image flipped left to right. uint8 [h, w, 3] -> [h, w, 3], a view of the same memory."""
    return pixels[:, ::-1]
