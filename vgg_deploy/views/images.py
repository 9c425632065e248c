"""From image files to uint8 RGB arrays [height, width, 3], upright; rescaling, crops and mirrors.

Training and inference share this file, so that a network meets in production what it met in training.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vgg_deploy.errors import ImageError, UsageError
from vgg_deploy.network.manifest import Rescaling
from vgg_deploy.network.tensors import Images

# What a folder search takes for an image. A file named on the command line is tried whatever its ending.
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".avif", ".jp2"}
    | {".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico"}
)

# Above this a file is taken for a decompression bomb; Pillow's own limit for its warning.
MAX_DECODED_PIXELS = 89_478_485
# Above this a rescaled view is refused: full-width VGG needs about 0.6 KB of memory a pixel and engine, so 4 Mi need 2.5 GB.
MAX_VIEW_PIXELS = 4_194_304

_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
}


def decode(path: Path) -> Images:
    """Reads an image file as uint8 [height, width, 3], RGB, upright. See `decode_reduced`."""
    return decode_reduced(path, None).pixels


@dataclass(frozen=True, slots=True)
class Decoded:
    """A decoded image.

    Attributes:
        pixels: uint8 [h, w, 3], RGB, upright.
        size: height and width of the image in its file, upright; those of `pixels` unless it was decoded at a reduced size.
    """

    pixels: Images
    size: tuple[int, int]


def decode_reduced(path: Path, short_side: int | None) -> Decoded:
    """Reads an image file, a large JPEG at 1/2, 1/4 or 1/8 of its size where its short side then still is `short_side` or more.

    EXIF rotation is applied. Grey, palette and CMYK become RGB; transparency is laid over white, as on a page; 16-bit grey is
    scaled to 8; of an animation the first frame counts.

    Args:
        path: the file.
        short_side: the largest to which it will be rescaled; None: always decoded at its full size. A JPEG's blocks of 8 x 8
            are averaged as they are decoded, which costs a fraction of the time and changes pixels slightly.

    Raises:
        ImageError: missing, empty, truncated, not an image, of no pixels, of over `MAX_DECODED_PIXELS`, or of floating-point
            pixels, whose range a file does not state.
    """
    try:
        if path.is_dir():  # before its size: that of an empty folder is 0 on some file systems
            raise ImageError("it is a folder, not a file")
        if path.stat().st_size == 0:
            raise ImageError("the file is empty (0 bytes)")
        # Through a file object: opened by its path, an uncompressed rotated TIFF is mapped into memory with its sides swapped
        # and comes out as noise (Pillow 13.0; 10.3 is right).
        with path.open("rb") as file, Image.open(file) as image:
            width, height = image.size
            if width * height > MAX_DECODED_PIXELS:
                raise ImageError(
                    f"{width}x{height} pixels, over the limit of {MAX_DECODED_PIXELS:,} (decompression bomb?)"
                )
            if short_side is not None:
                # The smallest size at which both sides reach these; formats other than JPEG pass over it.
                image.draft(None, _with_short_side(width, height, short_side))
            reduced = image.size != (width, height)
            image.load()
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            pixels = np.asarray(_to_rgb(ImageOps.exif_transpose(image)))
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
    except Exception as error:  # decoders of hostile bytes raise whatever they meet
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImageError(f"cannot be decoded: {reason}") from error
    if pixels.size == 0:
        raise ImageError(f"it has no pixels ({pixels.shape[1]}x{pixels.shape[0]})")
    if not reduced:
        return Decoded(pixels, (pixels.shape[0], pixels.shape[1]))
    return Decoded(pixels, (width, height) if turned else (height, width))


def _with_short_side(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height, rounded up, of an image with its short side at `short_side`."""
    short = min(width, height)
    return -(-width * short_side // short), -(-height * short_side // short)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        return _sixteen_bit_to_rgb(image)
    if image.mode == "F":
        raise ImageError("its pixels are 32-bit floats of unknown range; convert it to 8 or 16 bit")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        page = Image.new("RGBA", with_alpha.size, (255, 255, 255, 255))
        return Image.alpha_composite(page, with_alpha).convert("RGB")
    return image.convert("RGB")


def _sixteen_bit_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.int64)
    if values.size and (values.min() < 0 or values.max() > 65535):
        raise ImageError("its pixels are 32-bit integers beyond 16 bit; convert it to 8 or 16 bit")
    transparent = image.info.get("transparency")  # the one grey value that a PNG of this mode may declare transparent
    if isinstance(transparent, int):
        values[values == transparent] = 65535
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")


def rescaled_size(height: int, width: int, short_side: int, rounding: str = "floor") -> tuple[int, int]:
    """Height and width after an isotropic rescale of the short side to `short_side` (Q or S, sections 3.1 and 3.2)."""
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
        max_pixels: of the result.
        size: height and width whose aspect ratio is meant; None: those of `pixels`. See `Decoded`.

    Raises:
        ImageError: the result would have over `max_pixels` pixels.
    """
    height, width = size or pixels.shape[:2]
    rows, columns = rescaled_size(height, width, short_side, rescaling.rounding)
    if rows * columns > max_pixels:
        raise ImageError(
            f"{width}x{height} pixels become {columns}x{rows} at a short side of {short_side}: over the limit of "
            f"{max_pixels:,} pixels a view (infer --max-view-pixels)"
        )
    if (rows, columns) == pixels.shape[:2]:
        return pixels
    return resize(pixels, rows, columns, rescaling)


def resize(pixels: Images, rows: int, columns: int, rescaling: Rescaling) -> Images:
    """uint8 [h, w, 3] -> [rows, columns, 3], whatever that does to the aspect ratio."""
    return np.asarray(Image.fromarray(pixels).resize((columns, rows), _FILTERS[rescaling.filter]))


def centre_box(height: int, width: int, crop: int) -> tuple[int, int]:
    """Top and left of the central crop x crop window, rounded as torchvision's CenterCrop does."""
    return round((height - crop) / 2.0), round((width - crop) / 2.0)


def mirrored(pixels: Images) -> Images:
    """The image flipped left to right."""
    return pixels[:, ::-1]


def find_images(paths: Iterable[str]) -> Iterator[Path]:
    """Image files under files, folders (searched whole, in sorted order) and glob patterns, in the order given.

    Files named outright are passed on whatever they are; a folder search takes known image endings and passes over hidden files.

    Raises:
        UsageError: a path does not exist, a pattern matches nothing, a folder holds no image or cannot be searched.
    """
    for text in paths:
        if not text:
            raise UsageError("an image path is empty; name a file, a folder or a pattern")
        path = Path(text)
        if path.is_dir():
            yield from _images_under(path)
        elif path.exists() or path.is_symlink():
            yield path
        elif glob.has_magic(text):
            matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - of a whole pattern
            if not matches:
                raise UsageError(f"{text}: no file matches this pattern")
            for match in matches:
                if Path(match).is_dir():
                    yield from _images_under(Path(match))
                else:
                    yield Path(match)
        else:
            raise UsageError(f"{text}: no such file or folder")


def _images_under(folder: Path) -> Iterator[Path]:
    """Links to folders are followed, each folder once, so that a circle of links ends."""

    def refuse(error: OSError) -> None:
        raise UsageError(f"{error.filename}: this folder cannot be searched ({error.strerror})") from error

    found, seen = False, set()
    for root, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = Path(root).stat()
        if (status.st_dev, status.st_ino) in seen and status.st_ino:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in SUFFIXES:
                found = True
                yield Path(root) / name
    if not found:
        endings = ", ".join(sorted(SUFFIXES))
        raise UsageError(f"{folder}: no image in this folder or below it (endings looked for: {endings})")
