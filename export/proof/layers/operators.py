"""The operators of ONNX that compute on maps [n, channels, rows, columns], in numpy float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]

_STRIP_BYTES = 32 * 2**20  # of the columns of a convolution that are unfolded at a time
_BLOCK_BYTES = 64 * 2**20  # of the weights that are converted to float64 at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a convolution or a pooling slides over rows and columns. Each attribute has one number for each.

    Attributes:
        kernel: size of the window, in weights.
        strides: positions from one window to the next.
        dilations: positions from one weight to the next.
        before, after: positions of padding at the two ends.
        auto_pad: ONNX's rule for the padding. For SAME_UPPER and SAME_LOWER it follows from the size of the map.
        ceil: whether a last window may begin inside the map and end beyond its padding.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)
    auto_pad: str = "NOTSET"
    ceil: bool = False

    def over(self, sizes: Sequence[int]) -> tuple[Placement, Placement]:
        """Where the windows lie over maps of these rows and columns."""
        rows, columns = (self._placed(axis, size) for axis, size in enumerate(sizes))
        return rows, columns

    def _placed(self, axis: int, size: int) -> Placement:
        stride, before, after = self.strides[axis], self.before[axis], self.after[axis]
        span = self.dilations[axis] * (self.kernel[axis] - 1) + 1
        if self.auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            count = -(-size // stride)
            padding = max((count - 1) * stride + span - size, 0)
            before = padding // 2 if self.auto_pad == "SAME_UPPER" else padding - padding // 2
            return Placement(count, before, padding - before)
        if self.auto_pad == "VALID":
            before = after = 0
        free = size + before + after - span
        count = (-(-free // stride) if self.ceil else free // stride) + 1
        if self.ceil and (count - 1) * stride >= size + before:  # a window must not begin in the padding at the end
            count -= 1
        return Placement(count, before, after)


@dataclass(frozen=True, slots=True)
class Placement:
    """How many windows lie along an axis, and the padding at its two ends."""

    count: int
    before: int
    after: int

    def beyond(self, size: int, span: int, stride: int) -> int:
        """Positions by which the last window passes the padding."""
        return max(0, (self.count - 1) * stride + span - size - self.before - self.after)


def convolution(
    maps: npt.NDArray[Any], out: int, weight: Callable[[slice], Doubles], bias: Doubles | None, window: Window
) -> Doubles:
    """A convolution of one group: [n, in, rows, columns] -> [n, out, rows, columns].

    Windows are unfolded in strips of rows and weights converted in blocks, so memory stays bounded: fc6 of the full
    VGG-16 has 103 million weights.

    Args:
        out: the number of output channels.
        weight: gives some of them: [chosen, in, kernel, kernel].
        bias: [out].
    """
    windows = _windows(maps.astype(np.float64, copy=False), window, 0.0)  # [n, in, rows, columns, kernel, kernel]
    count, channels, rows, columns, *kernel = windows.shape
    products = channels * kernel[0] * kernel[1]
    result = np.empty((count, out, rows, columns))
    block = max(1, _BLOCK_BYTES // (8 * products))
    strip = max(1, _STRIP_BYTES // (8 * products * max(1, columns)))
    for first in range(0, out, block):
        matrix = weight(slice(first, first + block)).reshape(-1, products)  # [block, products]
        for image in range(count):
            for top in range(0, rows, strip):
                part = windows[image, :, top : top + strip]  # [in, strip, columns, kernel, kernel]
                unfolded = part.transpose(0, 3, 4, 1, 2).reshape(products, -1)  # [products, strip * columns]
                sums = matrix @ unfolded  # [block, strip * columns]
                result[image, first : first + block, top : top + strip] = sums.reshape(len(matrix), -1, columns)
    return result if bias is None else np.add(result, bias[:, None, None], out=result)


def max_pool(maps: Doubles, window: Window) -> Doubles:
    """The largest value of each window; padding never is one: [n, channels, rows, columns]."""
    result: Doubles | None = None
    for shifted in _shifted(maps, window, -np.inf):
        result = shifted.copy() if result is None else np.maximum(result, shifted, out=result)
    assert result is not None
    return result


def average_pool(maps: Doubles, window: Window, *, count_padding: bool) -> Doubles:
    """The mean of each window: [n, channels, rows, columns].

    Args:
        count_padding: whether the padding counts as zeros. Positions beyond the padding never count.
    """
    total = sum(shifted for shifted in _shifted(maps, window, 0.0))
    counted = np.ones((1, 1, *maps.shape[2:]))
    places: Sequence[Placement] = window.over(maps.shape[2:])
    if count_padding:
        counted = np.pad(
            counted,
            [(0, 0), (0, 0), *((place.before, place.after) for place in places)],
            "constant",
            constant_values=1.0,
        )
        inside = Window(kernel=window.kernel, strides=window.strides, dilations=window.dilations, ceil=window.ceil)
        places = tuple(Placement(place.count, 0, 0) for place in places)
        counts = sum(_shifted(counted, inside, 0.0, places))
    else:
        counts = sum(_shifted(counted, window, 0.0))
    return np.asarray(total / counts)


def local_response_normalization(maps: Doubles, *, size: int, alpha: float, beta: float, bias: float) -> Doubles:
    """ONNX's LRN: x / (bias + alpha / size * sum of squares over `size` channels) ^ beta; Krizhevsky et al. 2012."""
    squares = np.square(maps)  # [n, channels, rows, columns]
    channels = maps.shape[1]
    total = np.zeros_like(maps)
    for offset in range(-((size - 1) // 2), size // 2 + 1):
        first, last = max(0, -offset), min(channels, channels - offset)
        if first < last:
            total[:, first:last] += squares[:, first + offset : last + offset]
    return np.asarray(maps / np.power(bias + alpha / size * total, beta))


def softmax(values: Doubles, axis: int) -> Doubles:
    """Posteriors along an axis."""
    powers = np.exp(values - values.max(axis=axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def _padded(maps: Doubles, window: Window, fill: float, places: Sequence[Placement]) -> Doubles:
    """The maps with their padding, and with what the last windows need beyond it."""
    widths = [(0, 0), (0, 0)]
    for axis, place in enumerate(places):
        span = window.dilations[axis] * (window.kernel[axis] - 1) + 1
        widths.append((place.before, place.after + place.beyond(maps.shape[2 + axis], span, window.strides[axis])))
    return np.pad(maps, widths, constant_values=fill) if any(map(any, widths)) else maps


def _windows(maps: Doubles, window: Window, fill: float) -> npt.NDArray[np.float64]:
    """A view of all windows: [n, channels, rows, columns, kernel, kernel]."""
    places = window.over(maps.shape[2:])
    padded = _padded(maps, window, fill, places)
    spans = [step * (size - 1) + 1 for step, size in zip(window.dilations, window.kernel, strict=True)]
    every = np.lib.stride_tricks.sliding_window_view(padded, spans, axis=(2, 3))
    (down, right), (row_step, column_step) = window.strides, window.dilations
    chosen = every[:, :, ::down, ::right, ::row_step, ::column_step]
    return chosen[:, :, : places[0].count, : places[1].count]


def _shifted(
    maps: Doubles, window: Window, fill: float, places: Sequence[Placement] | None = None
) -> Iterator[Doubles]:
    """For each position in the window, the values there of all windows: [n, channels, rows, columns]."""
    places = window.over(maps.shape[2:]) if places is None else places
    padded = _padded(maps, window, fill, places)
    for row in range(window.kernel[0]):
        for column in range(window.kernel[1]):
            top, left = row * window.dilations[0], column * window.dilations[1]
            yield padded[
                :,
                :,
                top : top + (places[0].count - 1) * window.strides[0] + 1 : window.strides[0],
                left : left + (places[1].count - 1) * window.strides[1] + 1 : window.strides[1],
            ]
