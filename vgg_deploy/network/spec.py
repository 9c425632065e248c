"""The six configurations of the paper's Table 1 as data, and their parameters, MACs and receptive fields.

Simonyan & Zisserman, arXiv 1409.1556, sections 2.1 to 2.3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from vgg_deploy.errors import UsageError

# Table 1: "3-64" is conv3-64, "1-256" is conv1-256, and "|" is a 2x2 max-pooling with stride 2. Every column ends with
# fc6 and fc7 (4096 units each), fc8 (1000) and the soft-max.
TABLE_1: dict[str, str] = {
    "A": "3-64 | 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512 |",
    "A-LRN": "3-64 LRN | 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512 |",
    "B": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 | 3-512 3-512 | 3-512 3-512 |",
    "C": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 1-256 | 3-512 3-512 1-512 | 3-512 3-512 1-512 |",
    "D": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 3-256 | 3-512 3-512 3-512 | 3-512 3-512 3-512 |",
    "E": "3-64 3-64 | 3-128 3-128 | 3-256 3-256 3-256 3-256 | 3-512 3-512 3-512 3-512 | 3-512 3-512 3-512 3-512 |",
}

CONFIGURATIONS = tuple(TABLE_1)

# The common names of the columns, which are also the default names of exported files.
COMMON_NAMES = {"A": "vgg11", "A-LRN": "vgg11-lrn", "B": "vgg13", "C": "vgg16-c", "D": "vgg16", "E": "vgg19"}

# Krizhevsky et al. 2012: n=5, k=2, alpha=1e-4, beta=0.75, over the plain sum. ONNX, whose names these are, divides the
# sum by n, so alpha is 5e-4 here.
LRN: Mapping[str, Any] = {"size": 5, "alpha": 5e-4, "beta": 0.75, "bias": 2.0}

TOTAL_STRIDE = 32  # five 2x2 poolings
BASE_WIDTH = 64  # channels of conv1_1 at full width

ADDED = {"may_be_missing": True}  # metadata of a field that older manifests do not have

LayerKind = Literal["conv", "lrn", "pool", "fc"]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of Table 1. An `fc` layer is described as the convolution into which it folds.

    Attributes:
        name: the paper's name: conv1_1 ... conv5_4, lrn1, pool1 ... pool5, fc6, fc7 or fc8.
        kind: conv, lrn, pool or fc.
        kernel: side of the square window, in positions of its input (1 for lrn).
        stride: 2 for pool (1 for pool5 of a fine grid), 1 otherwise.
        padding: zeros added on each side: 1 for 3x3 convolutions, 0 otherwise.
        in_channels, out_channels: depth of its input and output.
        dilation: spacing of the kernel's weights, in positions of its input: 2 for fc6 of a fine grid, 1 otherwise.
    """

    name: str
    kind: LayerKind
    kernel: int
    stride: int
    padding: int
    in_channels: int
    out_channels: int
    dilation: int = 1

    @property
    def has_weights(self) -> bool:
        return self.kind in ("conv", "fc")

    @property
    def has_relu(self) -> bool:
        """A ReLU follows every hidden layer with weights; fc8 is not hidden (section 2.1)."""
        return self.has_weights and self.name != "fc8"

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """Shape of the weight in convolutional form: [out, in, kernel, kernel]."""
        return (self.out_channels, self.in_channels, self.kernel, self.kernel)

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        if not self.has_weights:
            return 0
        return self.out_channels * (self.in_channels * self.kernel**2 + 1)

    def output_size(self, size: int) -> int:
        """Side of the output for an input side of `size`; poolings round down."""
        return (size + 2 * self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1


@dataclass(frozen=True, slots=True)
class LayerStatistics:
    """The figures of a layer for one input size.

    Attributes:
        layer: the layer.
        output: channels, rows and columns of its output.
        macs: multiply-accumulates for one image, without biases, ReLU, pooling and LRN.
        receptive_field: side of the input region that one output position sees, in pixels.
    """

    layer: Layer
    output: tuple[int, int, int]
    macs: int
    receptive_field: int


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """A network: a column of Table 1, and the sizes that the paper keeps fixed.

    Attributes:
        configuration: A, A-LRN, B, C, D or E.
        width_divisor: divides the channels of every convolution; a divisor of 64. The paper's networks have 1.
        crop: side of the training crop, a multiple of 32. fc6 folds into a convolution of kernel crop / 32.
        fc_width: units of fc6 and fc7.
        classes: units of fc8.
        fine: OverFeat's finer grid (Sermanet et al. 2014), with the last pooling at every offset. pool5 has stride 1
            and fc6 a dilation of 2, which interleaves the four shifted poolings. The same weights then give class
            scores every 16 pixels instead of 32. On a single crop the scores do not change.

    Raises:
        UsageError: a field is out of its range; names the field, its value and the range.
    """

    configuration: str
    width_divisor: int = 1
    crop: int = 224
    fc_width: int = 4096
    classes: int = 1000
    fine: bool = field(default=False, metadata=ADDED)
    layers: tuple[Layer, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.configuration not in TABLE_1:
            raise UsageError(
                f"configuration is {self.configuration!r}; Table 1 of the paper has {', '.join(CONFIGURATIONS)}"
            )
        for name in ("width_divisor", "crop", "fc_width", "classes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name} is {value!r}; expected a whole number of at least 1")
        if BASE_WIDTH % self.width_divisor:
            raise UsageError(
                f"width_divisor is {self.width_divisor}; expected a divisor of {BASE_WIDTH}: 1, 2, 4, ... 64"
            )
        if self.crop % TOTAL_STRIDE:
            lower = max(TOTAL_STRIDE, self.crop // TOTAL_STRIDE * TOTAL_STRIDE)
            raise UsageError(
                f"crop is {self.crop}; five poolings halve it to a whole number only for multiples of "
                f"{TOTAL_STRIDE}, such as {lower} or {lower + TOTAL_STRIDE}"
            )
        object.__setattr__(self, "layers", tuple(self._build()))

    def _build(self) -> Iterator[Layer]:
        channels, block, conv = 3, 1, 1
        for token in TABLE_1[self.configuration].split():
            if token == "|":
                yield Layer(f"pool{block}", "pool", 2, 1 if self.fine and block == 5 else 2, 0, channels, channels)
                block, conv = block + 1, 1
            elif token == "LRN":
                yield Layer(f"lrn{block}", "lrn", 1, 1, 0, channels, channels)
            else:
                match = re.fullmatch(r"([13])-(\d+)", token)
                assert match, f"Table 1 holds {token!r}"
                kernel, out = int(match[1]), int(match[2]) // self.width_divisor
                yield Layer(f"conv{block}_{conv}", "conv", kernel, 1, kernel // 2, channels, out)
                channels, conv = out, conv + 1
        yield Layer("fc6", "fc", self.crop // TOTAL_STRIDE, 1, 0, channels, self.fc_width, 2 if self.fine else 1)
        yield Layer("fc7", "fc", 1, 1, 0, self.fc_width, self.fc_width)
        yield Layer("fc8", "fc", 1, 1, 0, self.fc_width, self.classes)

    @property
    def common_name(self) -> str:
        """vgg11, vgg11-lrn, vgg13, vgg16-c, vgg16 or vgg19."""
        return COMMON_NAMES[self.configuration]

    @property
    def map_stride(self) -> int:
        """Pixels of the input from one position of the class score map to the next."""
        return TOTAL_STRIDE // 2 if self.fine else TOTAL_STRIDE

    @property
    def weight_layers(self) -> tuple[Layer, ...]:
        """The layers with weights, from conv1_1 to fc8."""
        return tuple(layer for layer in self.layers if layer.has_weights)

    @property
    def convolutions(self) -> tuple[Layer, ...]:
        """conv1_1 to the last convolution before pool5."""
        return tuple(layer for layer in self.layers if layer.kind == "conv")

    @property
    def parameters(self) -> int:
        """Number of all weights and biases, which is the same in the FC form and the fully convolutional form."""
        return sum(layer.parameters for layer in self.layers)

    def statistics(self, height: int | None = None, width: int | None = None) -> tuple[LayerStatistics, ...]:
        """Output size, MACs and receptive field of each layer for an input of height x width (default: the crop).

        Raises:
            UsageError: the input is smaller than the crop, so fc6 would have no output.
        """
        rows = self.crop if height is None else height
        columns = rows if width is None else width
        if min(rows, columns) < self.crop:
            raise UsageError(
                f"input is {rows}x{columns}; this network needs at least {self.crop}x{self.crop}, its crop"
            )
        statistics, receptive_field, jump = [], 1, 1
        for layer in self.layers:
            rows, columns = layer.output_size(rows), layer.output_size(columns)
            receptive_field += (layer.kernel - 1) * layer.dilation * jump
            jump *= layer.stride
            macs = 0
            if layer.has_weights:
                macs = rows * columns * layer.out_channels * layer.in_channels * layer.kernel**2
            statistics.append(LayerStatistics(layer, (layer.out_channels, rows, columns), macs, receptive_field))
        return tuple(statistics)

    def macs(self, height: int | None = None, width: int | None = None) -> int:
        """Multiply-accumulates of one image of height x width (default: the crop)."""
        return sum(row.macs for row in self.statistics(height, width))


def stacked_3x3_weights(convolutions: int) -> tuple[int, int]:
    """Weights of stacked 3x3 convolutions and of one layer with the same receptive field, in units of C^2. Section 2.3.

    Three convolutions give (27, 49): one 7x7 layer has 81 % more weights and two non-linearities fewer.
    """
    return 9 * convolutions, (2 * convolutions + 1) ** 2
