"""How many bits of 16-bit pixels are in use.

Cameras, scanners and microscopes often write 10, 12 or 14 bits into 16. Read as 16 bits, such images are almost black.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, TiffImagePlugin

GREY_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")

_FULL = 65535
_NARROW = 16383  # 14 bits
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE, _S_MAX_SAMPLE_VALUE = 258, 281, 341  # tags of TIFF 6.0


@dataclass(frozen=True, slots=True)
class SampleDepth:
    """The range of an image's 16-bit pixels.

    Attributes:
        full: the value that is white, from the file's own tag, or 65535.
        largest: the largest value in the image, or None if its pixels have fewer bits. Of 16-bit colours Pillow keeps
            only the high bytes, so that this is then an upper bound.
    """

    full: int = _FULL
    largest: int | None = None

    @classmethod
    def of(cls, image: Image.Image) -> SampleDepth:
        """Of a decoded image with 16-bit pixels. PGM and JPEG 2000 state their range, and Pillow scales by it."""
        if image.mode not in GREY_MODES:
            return cls(largest=_largest_colour(image))
        largest = int(np.asarray(image).max(initial=0))
        stated = _stated_by_tiff(image) if isinstance(image, TiffImagePlugin.TiffImageFile) else None
        return cls(_FULL if stated is None or stated < largest else stated, largest)

    @property
    def looks_narrower(self) -> bool:
        return self.full == _FULL and self.largest is not None and 0 < self.largest <= _NARROW

    def __str__(self) -> str:
        bits = (self.largest or 0).bit_length()
        return (
            f"its 16-bit values look as if only {bits} bits were in use, and the file does not say so. It is read as "
            f"16 bits, so it is dark; if that is wrong, scale its values to {_FULL}"
        )


def has_sixteen_bits(image: Image.Image) -> bool:
    """Whether the file holds values of more than 8 bits. Asks before the image is loaded."""
    return image.mode in GREY_MODES or any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))


def _largest_colour(image: Image.Image) -> int | None:
    if image.mode not in ("RGB", "RGBA", "RGBX"):
        return None
    byte = int(np.asarray(image)[:, :, :3].max(initial=0))
    return byte << 8 | 255 if byte else None


def _stated_by_tiff(image: TiffImagePlugin.TiffImageFile) -> int | None:
    """The value that is white, if the file states one of fewer than 16 bits.

    TIFF 6.0 lets MaxSampleValue be the largest value that occurs in this image, which is no range. So only the largest
    value of 8 to 15 bits counts.
    """
    for tag in (_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE, _S_MAX_SAMPLE_VALUE):
        value = image.tag_v2.get(tag)
        number = int(value[0] if isinstance(value, tuple) else value or 0)
        full = (1 << number) - 1 if tag == _BITS_PER_SAMPLE else number
        if full in (2**bits - 1 for bits in range(8, 16)):
            return full
    return None
