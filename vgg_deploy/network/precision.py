"""The types in which a network computes, layer by layer, and how its INT8 ranges were measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vgg_deploy.errors import ManifestError
from vgg_deploy.files import Source

FLOAT32, FLOAT16, INT8 = "float32", "float16", "int8"

TARGETS = ("tensorrt", "onnxruntime")
METHODS = ("minmax", "entropy", "percentile")


@dataclass(frozen=True, slots=True)
class Quantization:
    """Which layers compute in INT8, for which runtime, and how their ranges were measured.

    Attributes:
        target: the runtime for whose kernels the Q/DQ nodes are placed. tensorrt: symmetric, on the inputs of
            convolutions and poolings. onnxruntime: unsigned with a zero-point, on outputs too.
        layers: names of the layers with weights that compute in INT8.
        kept: names of the layers with weights that stay in floating point.
        method: minmax, entropy or percentile.
        ranges: for every measured layer, the smallest and largest value of its input that INT8 represents.
        images: the calibration images.
        scales: the Q's to which each image was rescaled.
        mirror: whether each image was also used mirrored.
        budget: the budget that decided `kept`, and the result, as text; None if there was no budget.
    """

    target: str
    layers: tuple[str, ...]
    kept: tuple[str, ...]
    method: str
    ranges: Mapping[str, tuple[float, float]]
    images: tuple[Source, ...]
    scales: tuple[int, ...]
    mirror: bool
    budget: str | None = None

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise ManifestError(f"quantization target is {self.target!r}; expected {' or '.join(TARGETS)}")
        if self.method not in METHODS:
            raise ManifestError(f"calibration method is {self.method!r}; expected {', '.join(METHODS)}")
        missing = [layer for layer in self.layers if layer not in self.ranges]
        if missing:
            raise ManifestError(f"{', '.join(missing)} should be INT8, but calibration gave no ranges for them")
        for layer, (low, high) in self.ranges.items():
            if not low <= 0 <= high:
                raise ManifestError(f"the range of {layer} is [{low}, {high}]; expected a range that includes 0")


@dataclass(frozen=True, slots=True)
class Precision:
    """The types in which a network computes.

    Attributes:
        arithmetic: float32 or float16, the type of everything from conv1_1 to fc8 that is not INT8.
        float32_layers: layers kept in float32 although `arithmetic` is lower, because they would overflow.
        range: whether calibration showed that activations stay within the range of `arithmetic`: "measured" or
            "unmeasured"; "not limited" for float32.
        largest_activations: the largest absolute value on the calibration images by layer name, before the layer's
            ReLU; None if it was not measured.
        quantization: the layers in INT8; None if there are none.
    """

    arithmetic: str = FLOAT32
    float32_layers: tuple[str, ...] = ()
    range: str = "not limited"
    largest_activations: Mapping[str, float] | None = None
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        if self.arithmetic not in (FLOAT32, FLOAT16):
            raise ManifestError(
                f"precision is {self.arithmetic!r}; expected float32 or float16 (the quantization lists INT8 layers)"
            )
        if self.range not in ("not limited", "measured", "unmeasured"):
            raise ManifestError(f"range is {self.range!r}; expected not limited, measured or unmeasured")

    @property
    def lowest(self) -> str:
        """float32, float16 or int8: the row of `parity.THRESHOLDS` that applies."""
        return INT8 if self.quantization is not None and self.quantization.layers else self.arithmetic

    def of(self, layer: str) -> str:
        """The type in which a layer with weights computes: float32, float16 or int8."""
        if self.quantization is not None and layer in self.quantization.layers:
            return INT8
        return FLOAT32 if layer in self.float32_layers else self.arithmetic

    def __str__(self) -> str:
        quantization = self.quantization
        if quantization is None or not quantization.layers:
            others = f" ({', '.join(self.float32_layers)} in float32)" if self.float32_layers else ""
            return self.arithmetic + others
        lower = [layer for layer in quantization.kept if layer not in self.float32_layers]
        single = [layer for layer in self.float32_layers if layer not in quantization.layers]
        others = f"; {', '.join(single)} in float32" if single else ""
        return f"{INT8} ({', '.join(lower) or 'the rest'} in {self.arithmetic}{others})"


def summary(types: Mapping[str, str]) -> str:
    """The types of layers, given by name and in order, as one line: "13/13 convolutions INT8, fc6-fc8 FP16"."""
    short = {FLOAT32: "FP32", FLOAT16: "FP16", INT8: "INT8"}
    convolutions = {name: kind for name, kind in types.items() if name.startswith("conv")}
    parts = []
    for kind in dict.fromkeys(convolutions.values()):
        count = sum(other == kind for other in convolutions.values())
        parts.append(f"{count}/{len(convolutions)} convolutions {short.get(kind, kind)}")
    runs: list[tuple[str, str, str]] = []
    for name, kind in types.items():
        if name in convolutions:
            continue
        if runs and runs[-1][2] == kind:
            runs[-1] = (runs[-1][0], name, kind)
        else:
            runs.append((name, name, kind))
    parts.extend(
        f"{first if first == last else f'{first}-{last}'} {short.get(kind, kind)}" for first, last, kind in runs
    )
    return ", ".join(parts)


def differences(declared: Mapping[str, str], actual: Mapping[str, str]) -> str | None:
    """The layers whose type is not the declared one, the first three by name; None if there are none."""
    wrong = [
        f"{layer} is {actual[layer]} instead of {kind}" for layer, kind in declared.items() if actual[layer] != kind
    ]
    if not wrong:
        return None
    return ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
