"""What travels with every artifact: a checkpoint, an ONNX file, a plan.

Every stage reads its input's manifest, so that nobody is asked again for what an earlier stage knew.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vgg_deploy.classes import ClassName
from vgg_deploy.errors import ManifestError, UsageError
from vgg_deploy.spec import NetworkSpec

MANIFEST_VERSION = 1
MANIFEST_KEY = "vgg_deploy"  # in ONNX metadata_props and in safetensors metadata

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Normalization:
    """(pixel - mean) / std by channel, RGB, in units of 0..255."""

    mean: Triple
    std: Triple = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in self.mean):
            raise UsageError(f"mean is {self.mean}; expected three finite numbers in units of 0..255")
        if not all(math.isfinite(value) and value > 0 for value in self.std):
            raise UsageError(f"std is {self.std}; expected three numbers above 0 in units of 0..255")


# The mean RGB of ILSVRC-2012's training set, as the paper's released models subtract it (section 2.1).
PAPER_NORMALIZATION = Normalization((123.68, 116.779, 103.939))
# torchvision's constants, which are for 0..1, times 255.
TORCHVISION_NORMALIZATION = Normalization(
    (0.485 * 255, 0.456 * 255, 0.406 * 255), (0.229 * 255, 0.224 * 255, 0.225 * 255)
)
NORMALIZATIONS = {"paper": PAPER_NORMALIZATION, "torchvision": TORCHVISION_NORMALIZATION}


@dataclass(frozen=True, slots=True)
class TrainScale:
    """S of section 3.1: the short side to which training images were rescaled, fixed or drawn from a range."""

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
    """How an image is rescaled, in training as in inference.

    Attributes:
        filter: Pillow's resampling filter; all of them are antialiased when they shrink.
        rounding: how the long side becomes a whole number.
    """

    filter: str = "bilinear"
    rounding: str = "floor"

    def __post_init__(self) -> None:
        if self.filter not in ("bilinear", "bicubic", "lanczos", "box"):
            raise UsageError(f"rescaling filter is {self.filter!r}; expected bilinear, bicubic, lanczos or box")
        if self.rounding not in ("floor", "nearest"):
            raise UsageError(f"rounding is {self.rounding!r}; expected floor or nearest")


@dataclass(frozen=True, slots=True)
class AxisRange:
    """Whole numbers from `minimum` to `maximum`, both included; a maximum of None is no limit."""

    minimum: int
    maximum: int | None = None

    def __post_init__(self) -> None:
        if self.minimum < 1 or (self.maximum is not None and self.maximum < self.minimum):
            raise UsageError(f"a size range is {self.minimum}..{self.maximum}; expected 1 <= minimum <= maximum")

    def accepts(self, size: int) -> bool:
        return size >= self.minimum and (self.maximum is None or size <= self.maximum)

    @property
    def fixed(self) -> bool:
        return self.minimum == self.maximum

    def __str__(self) -> str:
        if self.fixed:
            return str(self.minimum)
        return f"{self.minimum}.." + ("" if self.maximum is None else str(self.maximum))


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """The image batches that an artifact takes: N x H x W x 3."""

    batch: AxisRange
    height: AxisRange
    width: AxisRange

    def accepts(self, batch: int, height: int, width: int) -> bool:
        return self.batch.accepts(batch) and self.height.accepts(height) and self.width.accepts(width)

    @property
    def free(self) -> bool:
        """Whether height and width may change, so that whole images fit (dense evaluation)."""
        return not (self.height.fixed or self.width.fixed)

    def __str__(self) -> str:
        return f"{self.batch} x {self.height} x {self.width} x 3"


@dataclass(frozen=True, slots=True)
class Precision:
    """The types in which an artifact computes.

    Attributes:
        arithmetic: float32 or float16, from conv1_1 to fc8.
        float32_layers: layers kept in float32 although `arithmetic` is lower, since they would overflow.
        range: "measured" or "unmeasured": whether it is known that activations stay within `arithmetic`'s range;
            "not limited" for float32.
        largest_activations: by layer name, the largest absolute value on the calibration images, before the layer's ReLU;
            None where it was not measured.
    """

    arithmetic: str = "float32"
    float32_layers: tuple[str, ...] = ()
    range: str = "not limited"
    largest_activations: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.arithmetic not in ("float32", "float16"):
            raise ManifestError(f"precision is {self.arithmetic!r}; this version knows float32 and float16")
        if self.range not in ("not limited", "measured", "unmeasured"):
            raise ManifestError(f"range is {self.range!r}; expected not limited, measured or unmeasured")

    def __str__(self) -> str:
        kept = f" ({', '.join(self.float32_layers)} in float32)" if self.float32_layers else ""
        return self.arithmetic + kept


@dataclass(frozen=True, slots=True)
class Source:
    """What an artifact was made from: a file's name and the SHA-256 of its bytes."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a later stage must know of an artifact.

    Attributes:
        classes: in the order of the outputs.
        spec: the network; None for a foreign ONNX file, of which only inputs and outputs are known.
        normalization: what the graph does to pixels; None where `spec` is None.
        train_scale: S.
        mirror: whether mirrored images are of the same class (they are not for digits); the default of inference.
        rescaling: filter and rounding.
        precision: the types it computes in.
        shapes: the batches it takes; None for a checkpoint.
        outputs: names of an ONNX file's outputs.
        source: the artifact it was made from.
        tools: names and versions of what made it.
        training: for a checkpoint of ours, recipe and figures as plain JSON.
    """

    classes: tuple[ClassName, ...]
    spec: NetworkSpec | None
    normalization: Normalization | None
    train_scale: TrainScale
    mirror: bool = True
    rescaling: Rescaling = Rescaling()
    precision: Precision = Precision()
    shapes: ShapeRange | None = None
    outputs: tuple[str, ...] = ()
    source: Source | None = None
    tools: Mapping[str, str] = field(default_factory=dict)
    training: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.spec is not None and len(self.classes) != self.spec.classes:
            raise ManifestError(f"{len(self.classes)} class names for a network of {self.spec.classes} classes")
        ids = [name.id for name in self.classes]
        if len(set(ids)) != len(ids):
            repeated = next(name for name in ids if ids.count(name) > 1)
            raise ManifestError(f"class id {repeated!r} stands more than once; ids must be unique")

    @property
    def crop(self) -> int:
        """Side of the smallest image that the network takes."""
        if self.spec is not None:
            return self.spec.crop
        if self.shapes is not None:
            return max(self.shapes.height.minimum, self.shapes.width.minimum)
        return 1

    def with_(self, **changes: Any) -> Manifest:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """The manifest as one line of JSON, with its version.

        Raises:
            ManifestError: a figure is NaN or infinite.
        """
        try:
            return json.dumps({"version": MANIFEST_VERSION, **_encode(self)}, ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise ManifestError("a figure of the manifest is NaN or infinite; JSON has no number for it") from error

    @staticmethod
    def from_json(text: str, where: str) -> Manifest:
        """Reads what `to_json` wrote; `where` names the artifact in messages.

        Raises:
            ManifestError: not JSON, of another version, or a field is missing or has the wrong type.
        """
        try:
            data = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{where}: its manifest is not JSON ({error})") from error
        version = data.get("version") if isinstance(data, dict) else None
        if version != MANIFEST_VERSION:
            raise ManifestError(
                f"{where}: its manifest has version {version!r}, this vgg_deploy reads {MANIFEST_VERSION}; "
                "export it again, or install the vgg_deploy that wrote it"
            )
        try:
            manifest = _decode(Manifest, data, "manifest")
        except (UsageError, ManifestError, OverflowError) as error:
            raise ManifestError(f"{where}: {error}") from error
        assert isinstance(manifest, Manifest)
        return manifest


def _refuse_constant(name: str) -> float:
    """NaN and Infinity, which Python's reader takes and JSON does not have."""
    raise ValueError(f"{name} is no number of JSON")


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _encode(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    return value


def _decode(kind: Any, value: Any, where: str) -> Any:
    """`value`, from JSON, as the annotated type `kind`. Unknown keys are passed over: a newer minor version may have them."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _decode(next(argument for argument in arguments if argument is not type(None)), value, where)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise ManifestError(f"{where} is {value!r:.80}; expected an object")
        hints, found = typing.get_type_hints(kind), {}
        for item in dataclasses.fields(kind):
            if not item.init:
                continue
            if item.name not in value:
                raise ManifestError(f"{where}.{item.name} is missing")
            found[item.name] = _decode(hints[item.name], value[item.name], f"{where}.{item.name}")
        return kind(**found)
    if origin is tuple:
        if not isinstance(value, list) or (arguments[-1] is not Ellipsis and len(value) != len(arguments)):
            raise ManifestError(f"{where} is {value!r:.80}; expected a list")
        return tuple(_decode(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise ManifestError(f"{where} is {value!r:.80}; expected an object")
        return {key: _decode(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise ManifestError(f"{where} is {value!r:.80}; expected {kind.__name__}")
    return float(value) if kind is float else value
