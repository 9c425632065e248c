"""The manifest, which travels with every file that the toolchain makes: checkpoint, ONNX file, plan.

Every stage reads the manifest of its input, so it never asks the user for what an earlier stage knew.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vgg_deploy.errors import ManifestError, UsageError
from vgg_deploy.files import Source
from vgg_deploy.network import records
from vgg_deploy.network.classes import ClassName, numbered_classes
from vgg_deploy.network.digests import Digests
from vgg_deploy.network.precision import Precision, differences
from vgg_deploy.network.shapes import ShapeRange
from vgg_deploy.network.spec import ADDED, NetworkSpec
from vgg_deploy.network.verdict import Verdict

MANIFEST_VERSION = 1
MANIFEST_KEY = "vgg_deploy"  # in ONNX metadata_props and in safetensors metadata

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Normalization:
    """(pixel - mean) / std for each channel: RGB, in units of 0..255."""

    mean: Triple
    std: Triple = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in self.mean):
            raise UsageError(f"mean is {self.mean}; expected three finite numbers in units of 0..255")
        if not all(math.isfinite(value) and value > 0 for value in self.std):
            raise UsageError(f"std is {self.std}; expected three numbers above 0 in units of 0..255")


# The mean RGB of ILSVRC-2012's training set, as the paper's released models subtract it (section 2.1).
PAPER_NORMALIZATION = Normalization((123.68, 116.779, 103.939))
# torchvision's constants are for 0..1; times 255 they are for 0..255.
TORCHVISION_NORMALIZATION = Normalization(
    (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)
)
NORMALIZATIONS = {
    "paper": PAPER_NORMALIZATION,
    "torchvision": TORCHVISION_NORMALIZATION,
    "unit": Normalization((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),  # 0..1, as torchvision's ToTensor alone gives
    "tf": Normalization((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),  # -1..1; Keras calls it tf
    "raw": Normalization((0.0, 0.0, 0.0)),  # 0..255, as decoded
}
# The order of a foreign checkpoint's input channels. OpenCV's and Caffe's is BGR.
RGB, BGR = "rgb", "bgr"


@dataclass(frozen=True, slots=True)
class TrainScale:
    """S of section 3.1: the short side of the rescaled training images, fixed or drawn from a range."""

    minimum: int
    maximum: int

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise UsageError(f"S is [{self.minimum}, {self.maximum}]; expected 1 <= Smin <= Smax")

    @property
    def fixed(self) -> bool:
        return self.minimum == self.maximum

    @property
    def middle(self) -> int:
        return (self.minimum + self.maximum) // 2

    def __str__(self) -> str:
        return str(self.minimum) if self.fixed else f"[{self.minimum}, {self.maximum}]"


@dataclass(frozen=True, slots=True)
class Rescaling:
    """How images are rescaled, in training and in inference.

    Attributes:
        filter: Pillow's resampling filter. All of them antialias when they shrink.
        rounding: how the long side is rounded to a whole number, floor or nearest.
    """

    filter: str = "bilinear"
    rounding: str = "floor"

    def __post_init__(self) -> None:
        if self.filter not in ("bilinear", "bicubic", "lanczos", "box"):
            raise UsageError(f"rescaling filter is {self.filter!r}; expected bilinear, bicubic, lanczos or box")
        if self.rounding not in ("floor", "nearest"):
            raise UsageError(f"rounding is {self.rounding!r}; expected floor or nearest")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that a later stage must know about a file.

    Attributes:
        classes: in the order of the outputs.
        spec: the network; None for a foreign ONNX file, of which only the inputs and outputs are known.
        normalization: what the graph does to pixels; None if `spec` is None.
        train_scale: S.
        mirror: whether a mirrored image has the same class (false for digits). It decides whether inference scores
            mirrors by default.
        rescaling: filter and rounding.
        precision: the types in which the file computes.
        shapes: the batches that the file accepts; None for a checkpoint.
        outputs: names of the outputs of an ONNX file.
        source: the file from which this one was made.
        tools: names and versions of the tools that made it.
        training: recipe and results as plain JSON, for our own checkpoints.
        digests: of the parts of an ONNX file, as it was exported; None for a checkpoint, and for older files.
        verdict: the proofs that `verify --record` saw the file pass.
        channels_reversed: whether the input channels of conv1_1 were reversed when the weights were read, because their
            checkpoint takes BGR. The network takes RGB from then on, and `normalization` is in that order.
        classes_numbered: whether the weights came without class names, so that the ids are positions and no names of
            folders. None: an older file, which does not state it; see `unnamed`.
    """

    classes: tuple[ClassName, ...]
    spec: NetworkSpec | None
    normalization: Normalization | None
    train_scale: TrainScale
    mirror: bool = True
    rescaling: Rescaling = Rescaling()
    precision: Precision = field(default_factory=Precision)
    shapes: ShapeRange | None = None
    outputs: tuple[str, ...] = ()
    source: Source | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None
    digests: Digests | None = None
    verdict: Verdict | None = None
    channels_reversed: bool = field(default=False, metadata=ADDED)
    classes_numbered: bool | None = False

    def __post_init__(self) -> None:
        if self.spec is not None and len(self.classes) != self.spec.classes:
            raise ManifestError(f"{len(self.classes)} class names for a network of {self.spec.classes} classes")
        ids = [name.id for name in self.classes]
        if len(set(ids)) != len(ids):
            repeated = next(name for name, times in Counter(ids).items() if times > 1)
            raise ManifestError(f"class id {repeated!r} occurs more than once; ids must be unique")

    @property
    def unnamed(self) -> bool:
        """Whether the classes have no names, only their positions as numbers. No folder can then be matched to them.

        A checkpoint of our own always names its classes: those of digits are called 0 to 9. Older files of foreign
        weights do not state it, and are judged by their numbers.
        """
        if self.classes_numbered is not None:
            return self.classes_numbered
        foreign = self.spec is not None and self.training is None
        return foreign and self.classes == numbered_classes(len(self.classes))

    def named(self, classes: tuple[ClassName, ...]) -> Manifest:
        """A copy with the names of classes that a user states."""
        return self.with_(classes=classes, classes_numbered=False)

    @property
    def crop(self) -> int:
        """Side of the smallest image that the network accepts, in pixels."""
        if self.spec is not None:
            return self.spec.crop
        if self.shapes is not None:
            return max(self.shapes.height.minimum, self.shapes.width.minimum)
        return 1

    def type_difference(self, layers: Mapping[str, str]) -> str | None:
        """How the types in which layers compute differ from those of `precision`, in words; None if they do not.

        Args:
            layers: the type by name of the layer; one that is not there is missing. Not compared without a `spec`.
        """
        if self.spec is None:
            return None
        declared = {layer.name: self.precision.of(layer.name) for layer in self.spec.weight_layers}
        return differences(declared, {layer: layers.get(layer, "missing") for layer in declared})

    def with_(self, **changes: Any) -> Manifest:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """The manifest as one line of JSON, with its version.

        Raises:
            ManifestError: a number is NaN or infinite.
        """
        return records.to_json(self, MANIFEST_VERSION)

    @staticmethod
    def from_json(text: str, where: str) -> Manifest:
        """Reads what `to_json` wrote; `where` names the file in messages.

        Raises:
            ManifestError: the text is not JSON or has another version, or a field is missing or has the wrong type.
        """
        return records.from_json(Manifest, text, MANIFEST_VERSION, where)
