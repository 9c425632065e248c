"""The steps that a manifest promises: what a file must compute on the way to each of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vgg_deploy.artifacts.onnx_format import ElementType
from vgg_deploy.artifacts.onnx_graph import Attribute
from vgg_deploy.network.manifest import Manifest
from vgg_deploy.network.precision import FLOAT16, Precision
from vgg_deploy.network.quantized_inputs import SPATIAL_MEAN, quantized_inputs
from vgg_deploy.network.spec import LRN, Layer
from vgg_deploy.network.tensors import FEATURES, PROBABILITIES, SCORE_MAP

_FLOAT = ElementType.FLOAT
NO_DIVISION = (1.0, 1.0, 1.0)  # the std of a network whose graph has no division


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedStep:
    """A step that a file must compute.

    Attributes:
        name: its name in messages; that of its node, if `named`.
        operators: the operators that compute it.
        attributes: of its node; others have ONNX's defaults.
        type: the type of its first input; None for the type of the step before.
        range_source: the layer whose measured input range its Q/DQ pair has; None if it has no pair.
        layer: the layer, if it is one.
        named: whether its node must have its name.
    """

    name: str
    operators: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    type: int | None = None
    range_source: str | None = None
    layer: Layer | None = None
    named: bool = False


def expected_steps(manifest: Manifest) -> dict[str, list[ExpectedStep]]:
    """The steps to each output, from the images; the last is named `output` and stands for the casts before it."""
    spec, normalization, precision = manifest.spec, manifest.normalization, manifest.precision
    assert spec is not None
    assert normalization is not None
    score_map = SCORE_MAP in manifest.outputs
    quantization = precision.quantization
    sources = {} if quantization is None else quantized_inputs(spec, quantization, score_map)
    steps = [ExpectedStep(name="subtract_mean", operators=("Sub",), type=_FLOAT)]
    if normalization.std != NO_DIVISION:
        steps.append(ExpectedStep(name="divide_std", operators=("Div",), type=_FLOAT))
    steps.append(ExpectedStep(name="transpose", operators=("Transpose",), attributes={"perm": (0, 3, 1, 2)}))
    for layer in spec.layers[:-1]:
        steps.extend(_layer_steps(layer, precision, sources))
    fc8 = _layer_steps(spec.layers[-1], precision, sources)
    end = ExpectedStep(name="output", operators=(), type=_FLOAT)
    flatten = ExpectedStep(name="flatten", operators=("Flatten",), attributes={"axis": 1}, type=_FLOAT)
    posteriors = ExpectedStep(name="softmax", operators=("Softmax",), attributes={"axis": 1}, type=_FLOAT)
    paths = {}
    if score_map:
        paths[SCORE_MAP] = [*steps, *fc8, end]
        paths[PROBABILITIES] = [*steps, *fc8, _mean(None), flatten, posteriors, end]
        # ONNX Runtime's kernels only return integers: if fc7 is one of them, all its readers read its Q/DQ pair.
        paired = quantization is not None and quantization.target == "onnxruntime" and "fc7" in quantization.layers
        paths[FEATURES] = [*steps, _mean(sources.get("fc8") if paired else None), flatten, end]
    else:
        mean = _mean(sources.get(SPATIAL_MEAN))
        paths[PROBABILITIES] = [*steps, mean, *fc8, flatten, posteriors, end]
        paths[FEATURES] = [*steps, mean, flatten, end]
    return {output: path for output, path in paths.items() if output in manifest.outputs}


def has_weights_in_half(precision: Precision, layer: str) -> bool:
    """Whether a layer reads and returns FP16, as its weights do if they are not INT8."""
    return precision.arithmetic == FLOAT16 and layer not in precision.float32_layers


def _mean(range_source: str | None) -> ExpectedStep:
    """The spatial mean, in FP32: a sum over hundreds of positions may exceed FP16's range."""
    return ExpectedStep(name=SPATIAL_MEAN, operators=("GlobalAveragePool",), type=_FLOAT, range_source=range_source)


def _layer_steps(layer: Layer, precision: Precision, sources: Mapping[str, str]) -> list[ExpectedStep]:
    """A layer of the network, and the ReLU behind it."""
    source = sources.get(layer.name)
    if layer.kind == "pool":
        window: dict[str, Attribute] = {"kernel_shape": (2, 2), "strides": (layer.stride,) * 2}
        return [
            ExpectedStep(
                name=layer.name, operators=("MaxPool",), attributes=window, range_source=source, layer=layer, named=True
            )
        ]
    if layer.kind == "lrn":
        return [
            ExpectedStep(
                name=layer.name,
                operators=("LRN",),
                attributes=LRN,
                type=_FLOAT,
                range_source=source,
                layer=layer,
                named=True,
            )
        ]
    shape: dict[str, Attribute] = {
        "kernel_shape": (layer.kernel,) * 2,
        "pads": (layer.padding,) * 4,
        "strides": (1, 1),
        "dilations": (layer.dilation,) * 2,
    }
    convolution = ExpectedStep(
        name=layer.name,
        operators=("Conv",),
        attributes=shape,
        type=ElementType.FLOAT16 if has_weights_in_half(precision, layer.name) else _FLOAT,
        range_source=source,
        layer=layer,
        named=True,
    )
    if not layer.has_relu:
        return [convolution]
    # Some files have Max(x, 0), which ONNX Runtime does not recognize as a ReLU and so does not quantize.
    return [convolution, ExpectedStep(name=f"the ReLU of {layer.name}", operators=("Relu", "Max"))]
